"""Action distributions: categorical, and Gaussian with a diagonal covariance.

Both are named tuples of tensors with any leading shape `[...]`. `parameters` and `from_parameters` pack one into a
single tensor `[..., P]`, the form in which a behaviour policy travels with its unroll.
"""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


class Categorical(NamedTuple):
    """Over A actions; `logits` [..., A] need not be normalised."""

    logits: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Actions [...], int64, by the Gumbel-max trick (one pass, no normalisation)."""
        noise = torch.empty_like(self.logits, dtype=torch.float32).exponential_(generator=generator)
        return (self.logits.float() - noise.log()).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """log pi(action), [...], for integer `action` [...]."""
        return log_softmax(self.logits, -1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """In nats, [...]."""
        log_p = log_softmax(self.logits, -1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """KL(self || other) in nats, [...]."""
        log_p, log_q = log_softmax(self.logits, -1), log_softmax(other.logits, -1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def parameters(self) -> Tensor:
        """[..., A]: the logits."""
        return self.logits

    @classmethod
    def from_parameters(cls, parameters: Tensor) -> Self:
        return cls(parameters)


class Gaussian(NamedTuple):
    """Independent normals over A dimensions: `mean` and `std` [..., A], std > 0."""

    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Actions [..., A], unbounded; the environment clips them to its box."""
        return self.mean + self.std * torch.empty_like(self.mean).normal_(generator=generator)

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density of `action` [..., A], summed over A: [...]."""
        z = (action - self.mean) / self.std
        return -(0.5 * z.square() + self.std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, [...]."""
        return (self.std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """KL(self || other) in nats, [...]."""
        ratio = self.std / other.std
        return (0.5 * (ratio.square() + ((self.mean - other.mean) / other.std).square() - 1) - ratio.log()).sum(-1)

    def kl_mean(self, other: Self) -> Tensor:
        """KL when only the mean moves, both with this covariance, [...] (V-MPO eq. 26)."""
        return 0.5 * ((self.mean - other.mean) / self.std).square().sum(-1)

    def kl_std(self, other: Self) -> Tensor:
        """KL when only the covariance moves, both with this mean, [...] (V-MPO eq. 27)."""
        ratio = self.std / other.std
        return (0.5 * (ratio.square() - 1) - ratio.log()).sum(-1)

    def parameters(self) -> Tensor:
        """[..., 2A]: means, then standard deviations."""
        return torch.cat([self.mean, self.std], -1)

    @classmethod
    def from_parameters(cls, parameters: Tensor) -> Self:
        return cls(*parameters.chunk(2, -1))


Distribution = Categorical | Gaussian
