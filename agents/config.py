"""Hyperparameters of the learning rules, by the names of their papers."""

import math
from dataclasses import dataclass, fields
from typing import Literal

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

DropoutScheme = Literal["whole", "masked", "paired"]
AgentName = Literal["vmpo", "awr", "rl-em", "dar", "at-dar", "dar-tr", "topk-dar", "gempi", "ppo"]
CHOICES = ("anchors", "divergence", "temperature", "filter", "trust_region")
"""The options that make up a row of gempi."""
ANCHORS = {"behaviour": ("behaviour",), "reference": ("reference",), "both": ("reference", "behaviour")}


@dataclass(frozen=True)
class AgentConfig:
    """Shared options first, then those of the EM methods (seed section 9; V-MPO, arXiv 1909.12238) and of PPO (arXiv
    1707.06347)."""

    agent: AgentName = "vmpo"
    """Learning rule: a row of the table of EM methods, gempi with a row of your own, or the baseline ppo."""
    discount: float = 0.99
    """gamma, a step."""
    gae_lambda: float = 1.0
    """lambda of the returns; 1 gives n-step returns to the end of the unroll (V-MPO), less gives GAE."""
    standardise_advantages: bool = False
    """Give the advantages of each gradient step mean 0 and standard deviation 1 (over its valid steps)."""
    value_coefficient: float = 1.0
    """Weight of the value loss 0.5 (V - G)^2, in PopArt's normalised units."""
    entropy_coefficient: float = 0.0
    """Weight of an entropy bonus (V-MPO has none)."""
    popart_step_size: float = 1e-4
    """Step size of PopArt's running moments."""
    dropout_scheme: DropoutScheme = "whole"
    """With --dropout, what the trust region and PPO's ratio compare: pi_old with the whole network, or with the masked
    one; or the network before the batch with that of now, paired under the same mask."""

    anchors: Literal["behaviour", "reference", "both"] = "behaviour"
    """gempi: policies that the target stays close to: pi_t, which acted, pi_ref, or both."""
    divergence: DivergenceName = "kl"
    """gempi: divergence of the target from each anchor; kl for any number, the others have a closed form for some."""
    renyi_order: float = 2.0
    """Order of the Renyi divergence, not 1."""
    temperature: TemperatureName = "dual"
    """gempi: coefficients of the divergences: fixed, dual variables of budgets, or solved for them in each step."""
    filter: FilterName = "top-k"
    """gempi: samples that the E-step keeps: all, the better top-k, or those of positive advantage."""
    trust_region: TrustRegionName = "dual"
    """gempi: of the M-step: none, a penalty gamma KL, or the dual of a budget."""
    trust_region_kl: Literal["forward", "reverse"] = "forward"
    """Trust region: KL(pi_old || pi), or KL(pi || pi_old)."""

    top_k: float = 0.5
    """top-k: share rho of the samples, the best by advantage, that the E-step keeps."""
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
    reference: str = "start"
    """pi_ref: start, the network at the first step; average, its moving average; or a checkpoint or run folder."""
    reference_decay: float = 0.99
    """Moving average as pi_ref: what it keeps of itself each batch."""
    control_variate: float = 0.0
    """EM methods: coefficient of the M-step's control variate. 0 is the plain weighted likelihood; 1 is equal to it on
    average and takes out the noise of which actions happened to be drawn."""
    gamma: float = 1.0
    """Penalty: weight of the trust region's KL."""
    epsilon_alpha: float = 0.01
    """Dual trust region: budget of the mean KL of a categorical policy."""
    alpha_init: float = 5.0
    """Dual trust region: initial alpha of a categorical policy."""
    epsilon_alpha_mu: float = 0.01
    """Dual trust region: budget for the mean of a Gaussian policy."""
    alpha_mu_init: float = 1.0
    """Dual trust region: initial alpha_mu."""
    epsilon_alpha_sigma: float = 5e-5
    """Dual trust region: budget for the covariance of a Gaussian policy."""
    alpha_sigma_init: float = 1.0
    """Dual trust region: initial alpha_sigma."""

    clip_epsilon: float = 0.2
    """PPO: the ratio is clipped to [1 - epsilon, 1 + epsilon]."""
    target_kl: float = 0.0
    """PPO: stop the passes over a batch once a minibatch's mean KL(pi_old || pi) exceeds this; 0 never stops."""

    def __post_init__(self) -> None:
        for name in ("discount", "gae_lambda", "top_k", "control_variate", "reference_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{_flag(name)} must lie between 0 and 1, not {getattr(self, name)}")
        positive = ("epsilon_eta", "eta_init", "epsilon_reference", "lambda_behaviour", "lambda_reference", "gamma")
        positive += ("epsilon_alpha", "alpha_init", "epsilon_alpha_mu", "alpha_mu_init", "epsilon_alpha_sigma")
        for name in (*positive, "alpha_sigma_init", "clip_epsilon", "popart_step_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{_flag(name)} must be greater than 0, not {getattr(self, name)}")
        for name in ("value_coefficient", "entropy_coefficient", "target_kl"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{_flag(name)} must not be negative, not {getattr(self, name)}")
        for each in fields(self):
            if each.name not in self.options and getattr(self, each.name) != each.default:
                raise ValueError(f"--{_flag(each.name)} has no effect on --agent {self.agent} as it is: leave it out")
        if self.agent != "ppo":
            make_method(self.row, self.numbers(continuous=False))

    @property
    def row(self) -> Row:
        """The choices of the EM method."""
        if self.agent != "gempi":
            return METHODS[self.agent]
        return Row(ANCHORS[self.anchors], self.temperature, self.filter, self.trust_region, self.divergence)

    @property
    def options(self) -> frozenset[str]:
        """Names of the options that have an effect."""
        if self.agent == "ppo":
            return frozenset(SHARED | {"clip_epsilon", "target_kl"})
        row, names = self.row, SHARED | {"control_variate"}
        if self.agent == "gempi":
            names = names | set(CHOICES)
        names = names | USED_BY[row.filter] | USED_BY[row.trust_region] | USED_BY[row.divergence]
        for anchor in row.anchors:
            names = names | USED_BY[anchor] | USED_BY[row.temperature, anchor]
        if "reference" in names and self.reference == "average":
            names = names | {"reference_decay"}
        return frozenset(names)

    def numbers(self, continuous: bool) -> Numbers:
        """The numbers of the EM method for a policy that is Gaussian (`continuous`) or categorical."""
        trust_budgets = {"": (self.alpha_init, self.epsilon_alpha)}
        if continuous:
            trust_budgets = {
                "mu": (self.alpha_mu_init, self.epsilon_alpha_mu),
                "sigma": (self.alpha_sigma_init, self.epsilon_alpha_sigma),
            }
        dual = self.row.temperature == "dual"
        return Numbers(
            coefficients={
                "behaviour": self.eta_init if dual else self.lambda_behaviour,
                "reference": self.lambda_reference,
            },
            budgets={"behaviour": self.epsilon_eta, "reference": self.epsilon_reference},
            rho=self.top_k,
            order=self.renyi_order,
            gamma=self.gamma,
            trust_budgets=trust_budgets,
            reverse=self.trust_region_kl == "reverse",
        )


SHARED = {"agent", "discount", "gae_lambda", "standardise_advantages", "value_coefficient", "entropy_coefficient"}
SHARED |= {"popart_step_size", "dropout_scheme"}
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


def options_of(agent: AgentName, choices: dict[str, str], **options: object) -> dict[str, object]:
    """`choices`, gempi's row, and those of `options` that have an effect on `agent` then."""
    used = AgentConfig(agent=agent, **choices).options
    return choices | {name: value for name, value in options.items() if name in used}


def _flag(name: str) -> str:
    return name.replace("_", "-")
