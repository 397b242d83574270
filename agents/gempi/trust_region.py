"""Trust regions of the M-step, which limit how far the policy moves from pi_old in KL(pi_old || pi) or the reverse."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from agents.gempi.temperature import PositiveScalar
from agents.options import option
from agents.ranks import ALONE, Ranks
from agents.returns import masked_mean
from networks.distributions import Gaussian

Direction = Literal["forward", "reverse"]
_direction = partial(
    option, "trust_region_kl", "forward", "Trust region: KL(pi_old || pi), or KL(pi || pi_old).", check=None
)


@runtime_checkable
class Comparable(Protocol):
    """A policy at some samples, whose distance to another of its kind is known or estimated."""

    def kl(self, other: Any) -> Tensor: ...


class Region(NamedTuple):
    """Loss of a trust region, a scalar, and scalars to log."""

    loss: Tensor
    metrics: dict[str, Tensor]


def kl_parts(old: Comparable, new: Comparable, reverse: bool = False) -> dict[str, Tensor]:
    """Return KL(old || new) [...], with `reverse` KL(new || old), in parts that have a multiplier each.

    The KL of Gaussians has a part for the mean, under the old covariance in both directions, and one for the covariance
    (V-MPO eqs. 25-27).
    """
    p, q = (new, old) if reverse else (old, new)
    if isinstance(p, Gaussian):
        return {"mu": old.kl_mean(new), "sigma": p.kl_std(q)}
    return {"": p.kl(q)}


class Unconstrained(nn.Module):
    """No trust region, as in AWR and DAR; the KL is only logged."""

    def forward(self, old: Comparable, new: Comparable, mask: Tensor, ranks: Ranks = ALONE) -> Region:
        kl = masked_mean(old.kl(new), mask, ranks)
        return Region(torch.zeros_like(kl), {"m_step/kl": kl.detach()})


@dataclass(eq=False, repr=False)
class Penalty(nn.Module):
    """Penalty gamma KL with a fixed gamma (GEMPI eq. 15)."""

    gamma: float = option("gamma", 1.0, "Penalty: weight of the trust region's KL.")
    direction: Direction = _direction()

    def __post_init__(self) -> None:
        super().__init__()

    def forward(self, old: Comparable, new: Comparable, mask: Tensor, ranks: Ranks = ALONE) -> Region:
        kl = masked_mean(new.kl(old) if self.direction == "reverse" else old.kl(new), mask, ranks)
        return Region(self.gamma * kl, {"m_step/kl": kl.detach()})


@dataclass(eq=False, repr=False)
class DualKL(nn.Module):
    """Budget of the KL with alpha as its dual variable (GEMPI eq. 1; V-MPO eq. 5):

        L_alpha = alpha (epsilon - sg[KL]) + sg[alpha] KL,   KL averaged over every valid step, kept or not.

    There is one alpha for each part of `kl_parts`; in this class, for policies such as categorical ones, a single one.
    """

    initial: float = option("alpha_init", 5.0, "Dual trust region: initial alpha of a categorical policy.")
    epsilon: float = option("epsilon_alpha", 0.01, "Dual trust region: budget of the mean KL of a categorical policy.")
    direction: Direction = _direction()

    def __post_init__(self) -> None:
        super().__init__()
        self.alpha = nn.ModuleDict({_key(part): PositiveScalar(start) for part, (start, _) in self.budgets.items()})

    @property
    def budgets(self) -> dict[str, tuple[float, float]]:
        """Return the initial alpha and epsilon of each part of the KL."""
        return {"": (self.initial, self.epsilon)}

    def forward(self, old: Comparable, new: Comparable, mask: Tensor, ranks: Ranks = ALONE) -> Region:
        """Return L_alpha for `old` and `new` with leading shape [...] and `mask` [...] bool."""
        losses, metrics = [], {}
        for part, each in kl_parts(old, new, self.direction == "reverse").items():
            kl, alpha, (_, epsilon) = masked_mean(each, mask, ranks), self.alpha[_key(part)](), self.budgets[part]
            losses.append(alpha * (epsilon - kl.detach()) + alpha.detach() * kl)
            suffix = f"_{part}" if part else ""
            metrics |= {f"m_step/kl{suffix}": kl.detach(), f"m_step/alpha{suffix}": alpha.detach()}
        return Region(torch.stack(losses).sum(), metrics)


@dataclass(eq=False, repr=False)
class GaussianDualKL(DualKL):
    """Dual trust region of a Gaussian policy, with an alpha for the mean and one for the covariance."""

    mu_initial: float = option("alpha_mu_init", 1.0, "Dual trust region: initial alpha_mu.")
    mu_epsilon: float = option("epsilon_alpha_mu", 0.01, "Dual trust region: budget for the mean of a Gaussian policy.")
    sigma_initial: float = option("alpha_sigma_init", 1.0, "Dual trust region: initial alpha_sigma.")
    sigma_epsilon: float = option(
        "epsilon_alpha_sigma", 5e-5, "Dual trust region: budget for the covariance of a Gaussian policy."
    )

    @property
    def budgets(self) -> dict[str, tuple[float, float]]:
        return {"mu": (self.mu_initial, self.mu_epsilon), "sigma": (self.sigma_initial, self.sigma_epsilon)}


def _key(part: str) -> str:
    return part or "policy"


TrustRegion = Unconstrained | Penalty | DualKL
TRUST_REGIONS: dict[str, type[TrustRegion]] = {"none": Unconstrained, "penalty": Penalty, "dual": DualKL}
GAUSSIAN_TRUST_REGIONS = TRUST_REGIONS | {"dual": GaussianDualKL}
