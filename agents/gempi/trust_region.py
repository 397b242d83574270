"""Trust regions of the M-step: how far the policy may move from pi_old, by KL(pi_old || pi) or the reverse."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.gempi.temperature import PositiveScalar
from agents.ranks import ALONE, Ranks
from agents.returns import masked_mean
from networks.distributions import Distribution, Gaussian


class Region(NamedTuple):
    """A scalar `loss` and scalars to log."""

    loss: Tensor
    metrics: dict[str, Tensor]


def kl_parts(old: Distribution, new: Distribution, reverse: bool = False) -> dict[str, Tensor]:
    """KL(old || new) [...] as the parts that have a multiplier each; `reverse`: KL(new || old).

    A Gaussian's splits into one for the mean, under the old covariance either way, and one for the covariance (V-MPO
    eqs. 25-27).
    """
    p, q = (new, old) if reverse else (old, new)
    if isinstance(p, Gaussian):
        return {"mu": old.kl_mean(new), "sigma": p.kl_std(q)}
    return {"": p.kl(q)}


class Unconstrained(nn.Module):
    """No trust region: AWR, DAR. The KL is logged all the same."""

    def forward(self, old: Distribution, new: Distribution, mask: Tensor, ranks: Ranks = ALONE) -> Region:
        kl = masked_mean(old.kl(new), mask, ranks)
        return Region(torch.zeros_like(kl), {"m_step/kl": kl.detach()})


class Penalty(nn.Module):
    """gamma KL with a fixed gamma (GEMPI eq. 15)."""

    def __init__(self, gamma: float, reverse: bool = False) -> None:
        super().__init__()
        self.gamma, self.reverse = gamma, reverse

    def forward(self, old: Distribution, new: Distribution, mask: Tensor, ranks: Ranks = ALONE) -> Region:
        kl = masked_mean(new.kl(old) if self.reverse else old.kl(new), mask, ranks)
        return Region(self.gamma * kl, {"m_step/kl": kl.detach()})


class DualKL(nn.Module):
    """alpha as the dual variable of a budget (GEMPI eq. 1; V-MPO eq. 5), one for each part of `kl_parts`:

        L_alpha = alpha (epsilon - sg[KL]) + sg[alpha] KL,   KL averaged over every valid step, kept or not.

    `budgets` maps a part's name to its (initial alpha, epsilon).
    """

    def __init__(self, budgets: dict[str, tuple[float, float]], reverse: bool = False) -> None:
        super().__init__()
        self.reverse = reverse
        self.epsilon = {part: epsilon for part, (_, epsilon) in budgets.items()}
        self.alpha = nn.ModuleDict({_key(part): PositiveScalar(initial) for part, (initial, _) in budgets.items()})

    def forward(self, old: Distribution, new: Distribution, mask: Tensor, ranks: Ranks = ALONE) -> Region:
        """`old` and `new` with leading shape [...], `mask` [...] bool."""
        losses, metrics = [], {}
        for part, each in kl_parts(old, new, self.reverse).items():
            kl, alpha = masked_mean(each, mask, ranks), self.alpha[_key(part)]()
            losses.append(alpha * (self.epsilon[part] - kl.detach()) + alpha.detach() * kl)
            suffix = f"_{part}" if part else ""
            metrics |= {f"m_step/kl{suffix}": kl.detach(), f"m_step/alpha{suffix}": alpha.detach()}
        return Region(torch.stack(losses).sum(), metrics)


def _key(part: str) -> str:
    return part or "policy"


TrustRegion = Unconstrained | Penalty | DualKL
