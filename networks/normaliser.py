"""Running mean and standard deviation of vector observations."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

MOST = 10.0
"""Largest normalised value, in standard deviations."""


class Normaliser(nn.Module):
    """Map x to (x - mean) / std, clipped to [-10, 10], in the entries that `normalised` [n] marks; leave the others.

    The moments are those of all rows given to `update`, which acting and evaluation do not call. They are buffers, so
    that they travel to the actors and into checkpoints with the weights. An entry that never changed has std 1.
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
        # The moments of two samples joined: Chan, Golub and LeVeque 1983.
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
