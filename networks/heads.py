"""Policy and value heads: each an MLP of one hidden layer on the core's output."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from networks.distributions import Categorical, Distribution, Gaussian
from networks.initialisation import orthogonal

STD_FLOOR = 1e-3
"""Least standard deviation of a Gaussian policy, in units of the action cube's half-width."""


class PolicyHead(nn.Module):
    """Categorical over `actions` choices, or Gaussian over `actions` dimensions of the cube [-1, 1]."""

    def __init__(self, input_size: int, hidden: int, actions: int, continuous: bool, initial_std: float = 0.6) -> None:
        super().__init__()
        self.continuous = continuous
        self.body = nn.Sequential(nn.Linear(input_size, hidden), nn.ReLU())
        self.output = nn.Linear(hidden, 2 * actions if continuous else actions)
        orthogonal(self.body)
        orthogonal(self.output, 0.01)
        if continuous:
            with torch.no_grad():  # softplus(bias) + floor = initial_std
                self.output.bias[actions:] = torch.tensor(initial_std - STD_FLOOR).expm1().log()

    def forward(self, x: Tensor) -> Distribution:
        """`x` [..., D] -> a distribution with leading shape [...], float32."""
        parameters = self.output(self.body(x))
        if not self.continuous:
            return Categorical(parameters)
        mean, raw_std = parameters.chunk(2, -1)
        return Gaussian(mean, softplus(raw_std) + STD_FLOOR)


class PopArtHead(nn.Module):
    """A value head in normalised units whose statistics may change without changing what it predicts.

    Hessel et al. 2018, settings of V-MPO appendix F: step size 1e-4, scale within [1e-2, 1e6]. The running moments are
    corrected for their start at zero, as Adam's are: from the second gradient step on the scale is the data's.
    """

    def __init__(self, input_size: int, hidden: int, step_size: float = 1e-4) -> None:
        super().__init__()
        self.step_size = step_size
        self.body = nn.Sequential(nn.Linear(input_size, hidden), nn.ReLU())
        self.output = nn.Linear(hidden, 1)
        orthogonal(self.body)
        orthogonal(self.output, 0.01)
        for name, start in (("moment1", 0.0), ("moment2", 0.0), ("weight", 0.0), ("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.tensor(start, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised values [...] of `x` [..., D]."""
        return self.output(self.body(x)).squeeze(-1)

    def denormalise(self, value: Tensor) -> Tensor:
        """Normalised units -> units of the return."""
        return value * self.std.to(value.dtype) + self.mean.to(value.dtype)

    def normalise(self, value: Tensor) -> Tensor:
        """Units of the return -> normalised units."""
        return (value - self.mean.to(value.dtype)) / self.std.to(value.dtype)

    @torch.no_grad()
    def update(self, targets: Tensor, mask: Tensor, total: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        """Move the statistics towards `targets` [...] where `mask` [...], and the output layer against them.

        `total` sums over the processes that the batch is spread over.
        """
        targets = torch.where(mask, targets, 0).double()
        count, sum1, sum2 = total(torch.stack([mask.sum().double(), targets.sum(), targets.square().sum()]))
        step = self.step_size * (count > 0)
        self.moment1 += step * (sum1 / count.clamp(min=1) - self.moment1)
        self.moment2 += step * (sum2 / count.clamp(min=1) - self.moment2)
        self.weight += step * (1 - self.weight)
        started = self.weight > 0
        weight = torch.where(started, self.weight, 1)
        mean = torch.where(started, self.moment1 / weight, self.mean)
        variance = self.moment2 / weight - mean.square()
        std = torch.where(started, variance.clamp(1e-4, 1e12).sqrt(), self.std)
        scale = (self.std / std).to(self.output.weight.dtype)
        self.output.weight *= scale
        self.output.bias.copy_(self.output.bias * scale + ((self.mean - mean) / std).to(scale.dtype))
        self.mean.copy_(mean)
        self.std.copy_(std)
