"""Filters of the E-step: which samples may carry weight."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agents.checks import in_unit_interval
from agents.options import option


class All:
    """Every valid sample."""

    def support(self, advantages: Float[Tensor, " N"], mask: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
        return mask


@dataclass(frozen=True)
class TopK:
    """The k = max(1, floor(rho N)) valid samples of highest advantage, and all that tie with the k-th.

    Where rewards take few values, such as 0 and 1, ties are many and more than the share rho is kept: `e_step/kept`.
    """

    rho: float = option(
        "top_k",
        0.5,
        "top-k: share rho of the samples, the best by advantage, that the E-step keeps, and ties with the last of"
        " them.",
        in_unit_interval,
    )

    def support(self, advantages: Float[Tensor, " N"], mask: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """N counts the valid samples alone."""
        ranked = torch.where(mask, advantages, -torch.inf).sort(descending=True).values
        k = (self.rho * mask.sum().double() + 1e-6).floor().long().clamp(min=1)  # 0.29 * 100 is 28.999...
        return mask & (advantages >= ranked.take(k - 1))


class Positive:
    """The valid samples of positive advantage, or none."""

    def support(self, advantages: Float[Tensor, " N"], mask: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
        return mask & (advantages > 0)


Filter = All | TopK | Positive
FILTERS: dict[str, type[Filter]] = {"all": All, "top-k": TopK, "positive": Positive}
