"""Options of the EM methods, whatever a sample is: the choices that make up a row, and the numbers that rows need."""

from dataclasses import dataclass, fields
from typing import Literal

from agents.checks import flag, in_unit_interval, positive
from agents.gempi.methods import (
    METHODS,
    DivergenceName,
    FilterName,
    Numbers,
    Row,
    TemperatureName,
    TrustRegionName,
    make_method,
)

CHOICES = ("anchors", "divergence", "temperature", "filter", "trust_region")
"""The options that make up a row of gempi."""
ANCHORS = {"behaviour": ("behaviour",), "reference": ("reference",), "both": ("reference", "behaviour")}


@dataclass(frozen=True)
class EMConfig:
    """GEMPI section 9; V-MPO, arXiv 1909.12238. What makes up a row (CHOICES) is for gempi: other methods are rows by
    name."""

    anchors: Literal["behaviour", "reference", "both"] = "behaviour"
    """gempi: policies that the target stays close to: pi_t, which acted, pi_ref, or both."""
    divergence: DivergenceName = "kl"
    """gempi: divergence of the target from each anchor; kl for any number, the others have a closed form for some."""
    renyi_order: float = 2.0
    """Order of the Renyi divergence, not 1."""
    temperature: TemperatureName = "dual"
    """gempi: coefficients of the divergences: fixed, dual variables that take gradient steps towards their budgets, or
    solved for them on each batch. A method with dual coefficients may solve for them, too."""
    filter: FilterName = "top-k"
    """gempi: samples that the E-step keeps: all, the better top-k, or those of positive advantage."""
    trust_region: TrustRegionName = "dual"
    """gempi: of the M-step: none, a penalty gamma KL, or the dual of a budget."""

    trust_region_kl: Literal["forward", "reverse"] = "forward"
    """Trust region: KL(pi_old || pi), or KL(pi || pi_old)."""
    top_k: float = 0.5
    """top-k: share rho of the samples, the best by advantage, that the E-step keeps, and ties with the last of them."""
    epsilon_eta: float = 0.02
    """Dual or solved temperature: budget of the target's divergence from pi_t (over the kept samples)."""
    eta_init: float = 1.0
    """Dual temperature: initial coefficient of pi_t, V-MPO's eta."""
    epsilon_reference: float = 0.02
    """Dual or solved temperature: budget of the target's divergence from pi_ref."""
    lambda_behaviour: float = 1.0
    """Fixed temperature: coefficient of pi_t, beta of AWR and DAR."""
    lambda_reference: float = 0.1
    """Coefficient of pi_ref, alpha of DAR and beta of RL-EM; dual: where it starts."""
    gamma: float = 1.0
    """Penalty: weight of the trust region's KL."""
    epsilon_alpha: float = 0.01
    """Dual trust region: budget of the mean KL of a categorical policy."""
    alpha_init: float = 5.0
    """Dual trust region: initial alpha of a categorical policy."""

    def row_of(self, method: str) -> Row:
        """The choices of the EM method of that name."""
        if method != "gempi":
            row = METHODS[method]
            if row.temperature == "dual" and self.temperature == "fixed":
                raise ValueError(f"--temperature fixed makes another method of {method}: take --agent gempi")
            solved = row.temperature == "dual" and self.temperature == "solved"
            return row._replace(temperature="solved") if solved else row
        return Row(ANCHORS[self.anchors], self.temperature, self.filter, self.trust_region, self.divergence)

    def numbers_of(self, row: Row, trust_budgets: dict[str, tuple[float, float]] | None = None) -> Numbers:
        """The numbers of `row`; `trust_budgets` of a policy whose KL has several parts."""
        return Numbers(
            coefficients={
                "behaviour": self.eta_init if row.temperature == "dual" else self.lambda_behaviour,
                "reference": self.lambda_reference,
            },
            budgets={"behaviour": self.epsilon_eta, "reference": self.epsilon_reference},
            rho=self.top_k,
            order=self.renyi_order,
            gamma=self.gamma,
            trust_budgets=trust_budgets or {"": (self.alpha_init, self.epsilon_alpha)},
            reverse=self.trust_region_kl == "reverse",
        )

    def check_em(self, row: Row | None) -> None:
        """ValueError where a number is out of its range, or `row` has no closed form."""
        in_unit_interval(self, ("top_k",))
        positive(self, ("epsilon_eta", "eta_init", "epsilon_reference", "lambda_behaviour", "lambda_reference"))
        positive(self, ("gamma", "epsilon_alpha", "alpha_init"))
        if row is not None:
            make_method(row, self.numbers_of(row))

    def refuse_idle(self, used: frozenset[str], named: str) -> None:
        """ValueError where an option that is not among the `used` ones was set; `named`: the flag that decides."""
        for each in fields(self):
            if each.name not in used and getattr(self, each.name) != each.default:
                raise ValueError(f"--{flag(each.name)} has no effect on {named} as it is: leave it out")


def em_options(method: str, row: Row) -> set[str]:
    """Names of the options that have an effect on an EM method."""
    names = set(CHOICES) if method == "gempi" else set()
    if row.temperature != "fixed" and len(row.anchors) == 1:
        names.add("temperature")
    names |= USED_BY[row.filter] | USED_BY[row.trust_region] | USED_BY[row.divergence]
    for anchor in row.anchors:
        names |= USED_BY[anchor] | USED_BY[row.temperature, anchor]
    return names


_DUALS = {"epsilon_alpha", "alpha_init", "epsilon_alpha_mu", "alpha_mu_init", "epsilon_alpha_sigma", "alpha_sigma_init"}
USED_BY = {
    "kl": set(), "chi-square": set(), "renyi": {"renyi_order"},
    "all": set(), "positive": set(), "top-k": {"top_k"},
    "none": set(), "penalty": {"gamma", "trust_region_kl"}, "dual": _DUALS | {"trust_region_kl"},
    "behaviour": set(), "reference": {"reference"},
    ("solved", "behaviour"): {"epsilon_eta"}, ("solved", "reference"): {"epsilon_reference"},
    ("fixed", "behaviour"): {"lambda_behaviour"}, ("dual", "behaviour"): {"epsilon_eta", "eta_init"},
    ("fixed", "reference"): {"lambda_reference"}, ("dual", "reference"): {"epsilon_reference", "lambda_reference"},
}  # fmt: skip
"""Options that a choice brings with it."""
