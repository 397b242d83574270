"""The options that classes of the GEMPI tuple declare."""

from agents.gempi.anchors import ANCHORS
from agents.gempi.divergences import DIVERGENCES
from agents.gempi.filters import FILTERS
from agents.gempi.trust_region import GAUSSIAN_TRUST_REGIONS, TRUST_REGIONS
from agents.options import declared

ELEMENTS = [element for table in (DIVERGENCES, FILTERS, ANCHORS, TRUST_REGIONS) for element in table.values()]
GAUSSIAN = GAUSSIAN_TRUST_REGIONS["dual"]
NAMES = {each.metadata["option"]: each for element in (*ELEMENTS, GAUSSIAN) for each in declared(element)}


def other(each: object) -> object:
    """Return a value that is not the default of the field `each`."""
    return "reverse" if each.default == "forward" else each.default / 2 + 0.1
