"""Options of the EM methods for steps and sequences alike: the choices of a row, and the options of its elements."""

from dataclasses import fields
from typing import Literal

from agents.checks import flag
from agents.gempi.anchors import ANCHORS
from agents.gempi.divergences import DIVERGENCES
from agents.gempi.filters import FILTERS
from agents.gempi.methods import METHODS, Row, make_method, used_options
from agents.gempi.temperature import TEMPERATURES
from agents.gempi.trust_region import TRUST_REGIONS
from agents.options import check_options, with_options

CHOICES = ("anchors", "divergence", "temperature", "filter", "trust_region")
"""Options that make up a row of gempi."""


@with_options(*DIVERGENCES.values(), *FILTERS.values(), *ANCHORS.values(), *TRUST_REGIONS.values())
class EMConfig:
    """Options of the EM methods (GEMPI section 9; V-MPO, arXiv 1909.12238).

    The choices of a row (CHOICES) are for gempi alone: the name of any other method is that of its row.
    """

    anchors: Literal[(*ANCHORS, "both")] = "behaviour"
    """gempi: policies that the target stays close to: pi_t, which acted (behaviour), pi_ref (reference), or both."""
    divergence: Literal[tuple(DIVERGENCES)] = "kl"
    """gempi: divergence of the target from each anchor; renyi takes one anchor only."""
    temperature: Literal[tuple(TEMPERATURES)] = "dual"
    """gempi: coefficients of the divergences: fixed; flat, infinite, so that advantages only choose the samples;
    dual variables, which take gradient steps towards their budgets; or solved, which meet their budgets on each batch.
    Methods whose coefficients are dual may have them solved, too."""
    filter: Literal[tuple(FILTERS)] = "top-k"
    """gempi: samples that the E-step keeps: all, the better top-k, or those of positive advantage."""
    trust_region: Literal[tuple(TRUST_REGIONS)] = "dual"
    """gempi: trust region of the M-step: none, a penalty gamma KL, or the dual of a budget."""

    def row_of(self, method: str) -> Row:
        """Return the row of an EM method; ValueError if other options contradict it."""
        if method != "gempi":
            row = METHODS[method]
            if row.temperature == "dual" and self.temperature in ("fixed", "flat"):
                raise ValueError(
                    f"--temperature {self.temperature} makes another method of {method}: take --agent gempi"
                )
            solved = row.temperature == "dual" and self.temperature == "solved"
            return row._replace(temperature="solved") if solved else row
        anchors = ("reference", "behaviour") if self.anchors == "both" else (self.anchors,)
        return Row(anchors, self.temperature, self.filter, self.trust_region, self.divergence)

    def check_em(self, row: Row | None) -> None:
        """Raise ValueError if a number is out of its range, or `row` has no closed form."""
        check_options(self)
        if row is not None:
            make_method(row, self)

    def refuse_idle(self, used: frozenset[str], named: str) -> None:
        """Raise ValueError if an option is set that is not `used`; `named` is the flag that the error names as why."""
        for each in fields(self):
            if each.name not in used and getattr(self, each.name) != each.default:
                raise ValueError(f"--{flag(each.name)} has no effect on {named} as it is: leave it out")


def em_options(method: str, row: Row) -> set[str]:
    """Return the names of the options that have an effect on an EM method."""
    names = set(CHOICES) if method == "gempi" else set()
    if row.temperature in ("dual", "solved") and len(row.anchors) == 1:
        names.add("temperature")
    return names | used_options(row)
