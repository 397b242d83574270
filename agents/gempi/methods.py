"""The table of methods (GEMPI section 9): a row is one entry, and nothing else of a method is written anywhere."""

from operator import attrgetter
from typing import NamedTuple

from agents.gempi.anchors import ANCHORS
from agents.gempi.divergences import DIVERGENCES
from agents.gempi.filters import FILTERS, Filter
from agents.gempi.target import Divergence
from agents.gempi.temperature import TEMPERATURES, Temperature
from agents.gempi.trust_region import GAUSSIAN_TRUST_REGIONS, TRUST_REGIONS, TrustRegion
from agents.options import made, names_of


class Row(NamedTuple):
    """G = ({D_j}, {pi_j}, {lambda_j}, T, F, D_M): the choices of a method.

    Each is a name in a dictionary of classes: ANCHORS, TEMPERATURES, FILTERS, TRUST_REGIONS or DIVERGENCES. The
    method's numbers are the options of these classes.
    """

    anchors: tuple[str, ...]
    temperature: str = "fixed"
    filter: str = "all"
    trust_region: str = "none"
    divergence: str = "kl"


METHODS = {
    # method          anchors                    temperature  filter   M-step D_M
    "awr": Row(("behaviour",), "fixed", "all", "none"),
    "vmpo": Row(("behaviour",), "dual", "top-k", "dual"),
    "rl-em": Row(("reference",), "fixed", "all", "none"),
    "dar": Row(("reference", "behaviour"), "fixed", "all", "none"),
    "at-dar": Row(("reference", "behaviour"), "dual", "all", "none"),
    "dar-tr": Row(("reference", "behaviour"), "fixed", "all", "dual"),
    "topk-dar": Row(("reference", "behaviour"), "fixed", "top-k", "none"),
    "rest-em": Row(("behaviour",), "flat", "positive", "none"),
}


Elements = tuple[Divergence, Temperature, Filter, TrustRegion]


def make_method(row: Row, config: object, gaussian: bool = False) -> Elements:
    """Make the elements of `row` with the options that `config` has for them; ValueError where there is no closed form.

    The trust region of a `gaussian` policy has a multiplier for each part of its KL.
    """
    divergence = made(DIVERGENCES[row.divergence], config)
    most = divergence.most_anchors
    if most is not None and len(row.anchors) > most:
        raise ValueError(f"--divergence {row.divergence} has a closed form for one anchor only, not {len(row.anchors)}")
    temperature = TEMPERATURES[row.temperature]
    numbers = attrgetter(*temperature.uses) if temperature.uses else lambda anchor: ()
    coefficients = (numbers(made(ANCHORS[name], config)) for name in row.anchors)
    region = (GAUSSIAN_TRUST_REGIONS if gaussian else TRUST_REGIONS)[row.trust_region]
    return divergence, temperature(*coefficients), made(FILTERS[row.filter], config), made(region, config)


def used_options(row: Row) -> set[str]:
    """Return the names of the options that have an effect on the elements of `row`."""
    names = names_of(DIVERGENCES[row.divergence]) | names_of(FILTERS[row.filter])
    names |= names_of(TRUST_REGIONS[row.trust_region]) | names_of(GAUSSIAN_TRUST_REGIONS[row.trust_region])
    return names.union(*(names_of(ANCHORS[name], TEMPERATURES[row.temperature].uses) for name in row.anchors))
