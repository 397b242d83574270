"""Hyperparameters of the learning rules, by the names of their papers."""

import math
from dataclasses import dataclass, fields
from typing import Literal

AgentName = Literal["vmpo", "ppo"]
PPO_ONLY = ("clip_epsilon", "target_kl")
VMPO_ONLY = ("top_k", "epsilon_eta", "eta_init", "control_variate", "epsilon_alpha", "alpha_init", "epsilon_alpha_mu")
VMPO_ONLY += ("alpha_mu_init", "epsilon_alpha_sigma", "alpha_sigma_init")


@dataclass(frozen=True)
class AgentConfig:
    """Shared options first, then those of V-MPO (arXiv 1909.12238) and of PPO (arXiv 1707.06347)."""

    agent: AgentName = "vmpo"
    """Learning rule: vmpo, or the baseline ppo."""
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

    top_k: float = 0.5
    """V-MPO: share rho of the samples, the best by advantage, that the E-step keeps."""
    epsilon_eta: float = 0.02
    """V-MPO: E-step budget, KL(psi || uniform over the kept samples)."""
    eta_init: float = 1.0
    """V-MPO: initial temperature eta."""
    control_variate: float = 0.0
    """V-MPO: coefficient of the M-step's control variate. 0 is the plain weighted likelihood; 1 is equal to it on
    average and takes out the noise of which actions happened to be drawn."""
    epsilon_alpha: float = 0.01
    """V-MPO: M-step budget, mean KL(pi_old || pi) of a categorical policy."""
    alpha_init: float = 5.0
    """V-MPO: initial alpha of a categorical policy."""
    epsilon_alpha_mu: float = 0.01
    """V-MPO: M-step budget for the mean of a Gaussian policy."""
    alpha_mu_init: float = 1.0
    """V-MPO: initial alpha_mu."""
    epsilon_alpha_sigma: float = 5e-5
    """V-MPO: M-step budget for the covariance of a Gaussian policy."""
    alpha_sigma_init: float = 1.0
    """V-MPO: initial alpha_sigma."""

    clip_epsilon: float = 0.2
    """PPO: the ratio is clipped to [1 - epsilon, 1 + epsilon]."""
    target_kl: float = 0.0
    """PPO: stop the passes over a batch once a minibatch's mean KL(pi_old || pi) exceeds this; 0 never stops."""

    def __post_init__(self) -> None:
        unit = {name: getattr(self, name) for name in ("discount", "gae_lambda", "top_k", "control_variate")}
        for name, value in unit.items():
            if not 0 <= value <= 1:
                raise ValueError(f"--{name.replace('_', '-')} must lie between 0 and 1, not {value}")
        positive = ("epsilon_eta", "eta_init", "epsilon_alpha", "alpha_init", "epsilon_alpha_mu", "alpha_mu_init")
        for name in (*positive, "epsilon_alpha_sigma", "alpha_sigma_init", "clip_epsilon", "popart_step_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} must be greater than 0, not {getattr(self, name)}")
        for name in ("value_coefficient", "entropy_coefficient", "target_kl"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative, not {getattr(self, name)}")
        for each in fields(self):
            owner = "ppo" if each.name in PPO_ONLY else "vmpo" if each.name in VMPO_ONLY else self.agent
            if owner != self.agent and getattr(self, each.name) != each.default:
                raise ValueError(f"--{each.name.replace('_', '-')} belongs to --agent {owner}, not to {self.agent}")
