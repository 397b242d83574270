"""The table of methods (GEMPI section 9): a row is one entry, and nothing else of a method is written anywhere."""

from typing import Literal, NamedTuple

from agents.gempi.anchors import AnchorName
from agents.gempi.chi_square import ChiSquare
from agents.gempi.divergences import KL, Divergence
from agents.gempi.filters import All, Filter, Positive, TopK
from agents.gempi.renyi import Renyi
from agents.gempi.temperature import Dual, Fixed, Solved, Temperature
from agents.gempi.trust_region import DualKL, Penalty, TrustRegion, Unconstrained

DivergenceName = Literal["kl", "chi-square", "renyi"]
TemperatureName = Literal["fixed", "dual", "solved"]
FilterName = Literal["all", "top-k", "positive"]
TrustRegionName = Literal["none", "penalty", "dual"]


class Row(NamedTuple):
    """G = ({D_j}, {pi_j}, {lambda_j}, T, F, D_M): the choices of a method. Its numbers are options of their own."""

    anchors: tuple[AnchorName, ...]
    temperature: TemperatureName = "fixed"
    filter: FilterName = "all"
    trust_region: TrustRegionName = "none"
    divergence: DivergenceName = "kl"


METHODS = {
    # method          anchors                    temperature  filter   M-step D_M
    "awr": Row(("behaviour",), "fixed", "all", "none"),
    "vmpo": Row(("behaviour",), "dual", "top-k", "dual"),
    "rl-em": Row(("reference",), "fixed", "all", "none"),
    "dar": Row(("reference", "behaviour"), "fixed", "all", "none"),
    "at-dar": Row(("reference", "behaviour"), "dual", "all", "none"),
    "dar-tr": Row(("reference", "behaviour"), "fixed", "all", "dual"),
    "topk-dar": Row(("reference", "behaviour"), "fixed", "top-k", "none"),
}


class Method(NamedTuple):
    """The elements that a row names."""

    divergence: Divergence
    temperature: Temperature
    filter: Filter
    trust_region: TrustRegion


class Numbers(NamedTuple):
    """The numbers that rows choose from; what a row does not need has no effect on it."""

    coefficients: dict[AnchorName, float]
    """lambda_j, or where it starts."""
    budgets: dict[AnchorName, float]
    """epsilon_j of D_j(q || pi_j)."""
    rho: float
    order: float
    gamma: float
    trust_budgets: dict[str, tuple[float, float]]
    """Of each part of the policy's KL: where alpha starts, epsilon_alpha."""
    reverse: bool


def make_method(row: Row, numbers: Numbers) -> Method:
    """ValueError for a row that has no closed form."""
    divergence = {"kl": KL, "chi-square": ChiSquare, "renyi": lambda: Renyi(numbers.order)}[row.divergence]()
    most = divergence.most_anchors
    if not row.anchors or most is not None and len(row.anchors) > most:
        raise ValueError(f"--divergence {row.divergence} has a closed form for one anchor only, not {len(row.anchors)}")
    starts = [numbers.coefficients[name] for name in row.anchors]
    if row.temperature == "dual":
        temperature = Dual(*((start, numbers.budgets[name]) for start, name in zip(starts, row.anchors, strict=True)))
    elif row.temperature == "solved":
        if len(row.anchors) > 1:
            raise ValueError(
                f"--temperature solved finds the coefficient of one anchor, not {len(row.anchors)}: take dual"
            )
        temperature = Solved(numbers.budgets[row.anchors[0]])
    else:
        temperature = Fixed(*starts)
    filter_ = {"all": All(), "positive": Positive(), "top-k": TopK(numbers.rho)}[row.filter]
    if row.trust_region == "dual":
        region = DualKL(numbers.trust_budgets, numbers.reverse)
    else:
        region = Penalty(numbers.gamma, numbers.reverse) if row.trust_region == "penalty" else Unconstrained()
    return Method(divergence, temperature, filter_, region)
