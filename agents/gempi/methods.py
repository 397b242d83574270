"""The table of methods (GEMPI section 9): a method is one row, and has no code of its own."""

from operator import attrgetter
from typing import NamedTuple

from agents.gempi.anchors import ANCHORS
from agents.gempi.divergences import DIVERGENCES
from agents.gempi.filters import FILTERS, Filter
from agents.gempi.target import Divergence
from agents.gempi.temperature import TEMPERATURES, Temperature
from agents.gempi.trust_region import GAUSSIAN_TRUST_REGIONS, TRUST_REGIONS, TrustRegion
from agents.options import configured, option_names


class Row(NamedTuple):
    """The elements of a method, G = ({D_j}, {pi_j}, {lambda_j}, T, F, D_M), by name.

    The names are the keys of ANCHORS, TEMPERATURES, FILTERS, TRUST_REGIONS and DIVERGENCES. The method's numbers are
    the options of the classes there.
    """

    anchors: tuple[str, ...]
    temperature: str = "fixed"
    filter: str = "all"
    trust_region: str = "none"
    divergence: str = "kl"

    @property
    def has_duals(self) -> bool:
        """Return whether the method has dual variables, which take gradient steps."""
        return "dual" in (self.temperature, self.trust_region)


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
    """Make the elements of `row` with their options from `config`; ValueError where there is no closed form.

    The trust region of a `gaussian` policy has a multiplier for each part of its KL.
    """
    divergence = configured(DIVERGENCES[row.divergence], config)
    most = divergence.most_anchors
    if most is not None and len(row.anchors) > most:
        raise ValueError(f"--divergence {row.divergence} has a closed form for one anchor only, not {len(row.anchors)}")
    temperature = TEMPERATURES[row.temperature]
    numbers = attrgetter(*temperature.uses) if temperature.uses else lambda anchor: ()
    coefficients = (numbers(configured(ANCHORS[name], config)) for name in row.anchors)
    region = (GAUSSIAN_TRUST_REGIONS if gaussian else TRUST_REGIONS)[row.trust_region]
    return divergence, temperature(*coefficients), configured(FILTERS[row.filter], config), configured(region, config)


def used_options(row: Row) -> set[str]:
    """Return the names of the options that have an effect on the elements of `row`."""
    names = option_names(DIVERGENCES[row.divergence]) | option_names(FILTERS[row.filter])
    names |= option_names(TRUST_REGIONS[row.trust_region]) | option_names(GAUSSIAN_TRUST_REGIONS[row.trust_region])
    return names.union(*(option_names(ANCHORS[name], TEMPERATURES[row.temperature].uses) for name in row.anchors))
