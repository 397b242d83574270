"""Running mean and deviation of vector observations."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

MOST = 10.0
"""Largest normalised value, in deviations."""


class Normaliser(nn.Module):
    """x -> (x - mean) / std, cut to [-10, 10], for the entries that `normalised` [n] marks; others stay as they are.

    The moments are of everything that `update` was shown. They are buffers, so that they travel to the actors with the
    weights and are saved with them; acting and evaluation leave them as they are. An entry that never changed keeps the
    deviation 1.
    """

    def __init__(self, normalised: Sequence[bool]) -> None:
        super().__init__()
        size = len(normalised)
        self.register_buffer("normalised", torch.tensor(normalised), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(size, dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor, mask: Tensor, total: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        """Add the rows of `x` [N, n] where `mask` [N]; `total` sums over the processes that share a batch."""
        x = torch.where(mask.unsqueeze(-1), x.flatten(1).double(), 0)
        count = total(mask.sum().double())
        mean = total(x.sum(0)) / count.clamp(min=1)
        square = total(torch.where(mask.unsqueeze(-1), x - mean, 0).square().sum(0))
        # Chan, Golub and LeVeque 1983: the moments of two samples joined.
        both = (self.count + count).clamp(min=1)
        shift = mean - self.mean
        self.square += square + shift.square() * self.count * count / both
        self.mean += shift * count / both
        self.count += count

    def forward(self, x: Tensor) -> Tensor:
        variance = self.square / self.count.clamp(min=1)
        std = torch.where(variance > 0, variance, 1).sqrt().to(x.dtype)
        scaled = ((x - self.mean.to(x.dtype)) / std).clamp(-MOST, MOST)
        return torch.where(self.normalised, scaled, x)
