"""Filters of the E-step: which samples may carry weight."""

from typing import NamedTuple

import torch
from torch import Tensor


class All(NamedTuple):
    """Every valid sample."""

    def support(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """`advantages` [N], `mask` [N] bool -> [N] bool."""
        return mask


class TopK(NamedTuple):
    """The k = max(1, floor(rho N)) valid samples of highest advantage, and all that tie with the k-th.

    Where rewards take few values, such as 0 and 1, ties are many and more than the share rho is kept: `e_step/kept`.
    """

    rho: float

    def support(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """`advantages` [N], `mask` [N] bool -> [N] bool. N counts the valid samples alone."""
        ranked = torch.where(mask, advantages, -torch.inf).sort(descending=True).values
        k = (self.rho * mask.sum().double() + 1e-6).floor().long().clamp(min=1)  # 0.29 * 100 is 28.999...
        return mask & (advantages >= ranked.take(k - 1))


class Positive(NamedTuple):
    """The valid samples of positive advantage, or none."""

    def support(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """`advantages` [N], `mask` [N] bool -> [N] bool."""
        return mask & (advantages > 0)


Filter = All | TopK | Positive
