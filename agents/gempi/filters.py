"""Filters of the E-step, which choose the samples that may have weight."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agents.checks import in_unit_interval
from agents.options import option


class All:
    """Filter that keeps every valid sample."""

    def support(self, advantages: Float[Tensor, " N"], mask: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """Return the kept samples [N] bool, from `advantages` [N] and the valid ones, `mask` [N] bool."""
        return mask


@dataclass(frozen=True)
class TopK:
    """Filter that keeps the k = max(1, floor(rho N)) valid samples of highest advantage, and all ties with the k-th.

    N is the number of valid samples. Where rewards take few values, such as 0 and 1, ties are many and more than the
    share rho is kept, as the metric `e_step/kept` shows.
    """

    rho: float = option(
        "top_k",
        0.5,
        "top-k: share rho of the samples that the E-step keeps, the best by advantage, and ties with the last of them.",
        in_unit_interval,
    )

    def support(self, advantages: Float[Tensor, " N"], mask: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """Return the kept samples [N] bool, from `advantages` [N] and the valid ones, `mask` [N] bool."""
        ranked = torch.where(mask, advantages, -torch.inf).sort(descending=True).values
        k = (self.rho * mask.sum().double() + 1e-6).floor().long().clamp(min=1)  # 0.29 * 100 is 28.999...
        return mask & (advantages >= ranked.take(k - 1))


class Positive:
    """Filter that keeps the valid samples of positive advantage, possibly none."""

    def support(self, advantages: Float[Tensor, " N"], mask: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """Return the kept samples [N] bool, from `advantages` [N] and the valid ones, `mask` [N] bool."""
        return mask & (advantages > 0)


Filter = All | TopK | Positive
FILTERS: dict[str, type[Filter]] = {"all": All, "top-k": TopK, "positive": Positive}
