"""Action spaces and distributions over them: categorical, a product of categoricals, and Gaussian.

A distribution has any leading shape `[...]`. `parameters` packs it into a single tensor `[..., P]`, the form in which a
behaviour policy travels with its unroll, and `space.distribution(parameters)` unpacks it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot


class Categorical(NamedTuple):
    """A distribution over A actions; `logits` [..., A] need not be normalised."""

    logits: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw actions [...], int64, by the Gumbel-max trick (one pass, no normalisation)."""
        noise = torch.empty_like(self.logits, dtype=torch.float32).exponential_(generator=generator)
        return (self.logits.float() - noise.log()).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log pi(action), [...], for integer `action` [...]."""
        return log_softmax(self.logits, -1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, [...]."""
        log_p = log_softmax(self.logits, -1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """KL(self || other) in nats, [...]."""
        log_p, log_q = log_softmax(self.logits, -1), log_softmax(other.logits, -1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def parameters(self) -> Tensor:
        """Return the logits, [..., A]."""
        return self.logits

    def like(self, parameters: Tensor) -> Self:
        """Return the distribution of this kind with other `parameters` [..., P]."""
        return type(self)(parameters)


class MultiCategorical(NamedTuple):
    """A product of K categoricals: `logits` [..., sizes[0] + ... + sizes[K-1]]; actions are [..., K]."""

    logits: Tensor
    sizes: tuple[int, ...]

    def _factors(self) -> list[Categorical]:
        return [Categorical(logits) for logits in self.logits.split(self.sizes, -1)]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([factor.sample(generator) for factor in self._factors()], -1)

    def mode(self) -> Tensor:
        return torch.stack([factor.mode() for factor in self._factors()], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log pi(action), [...], for integer `action` [..., K]: the sum over factors."""
        return sum(factor.log_prob(a) for factor, a in zip(self._factors(), action.unbind(-1), strict=True))

    def entropy(self) -> Tensor:
        """Return the entropy in nats, [...]: the sum over factors."""
        return sum(factor.entropy() for factor in self._factors())

    def kl(self, other: Self) -> Tensor:
        """Return KL(self || other) in nats, [...]: the sum over factors."""
        return sum(p.kl(q) for p, q in zip(self._factors(), other._factors(), strict=True))

    def parameters(self) -> Tensor:
        """Return the logits of all factors, [..., P]."""
        return self.logits

    def like(self, parameters: Tensor) -> Self:
        return type(self)(parameters, self.sizes)


class Gaussian(NamedTuple):
    """Independent normals over A dimensions: `mean` and `std` [..., A], std > 0."""

    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw actions [..., A], unbounded; the environment clips them to its box."""
        return self.mean + self.std * torch.empty_like(self.mean).normal_(generator=generator)

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log density of `action` [..., A], summed over A: [...]."""
        z = (action - self.mean) / self.std
        return -(0.5 * z.square() + self.std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, [...]."""
        return (self.std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """Return KL(self || other) in nats, [...] (V-MPO eq. 25)."""
        return other.kl_mean(self) + self.kl_std(other)

    def kl_mean(self, other: Self) -> Tensor:
        """Return the KL in nats, [...], if only the mean differed, both with this covariance (V-MPO eq. 26)."""
        return 0.5 * ((self.mean - other.mean) / self.std).square().sum(-1)

    def kl_std(self, other: Self) -> Tensor:
        """Return the KL in nats, [...], if only the covariance differed, both with this mean (V-MPO eq. 27)."""
        ratio = self.std / other.std
        return (0.5 * (ratio.square() - 1) - ratio.log()).sum(-1)

    def parameters(self) -> Tensor:
        """Return means, then standard deviations, [..., 2A]."""
        return torch.cat([self.mean, self.std], -1)

    def like(self, parameters: Tensor) -> Self:
        return type(self)(*parameters.chunk(2, -1))


Distribution = Categorical | MultiCategorical | Gaussian


@dataclass(frozen=True)
class Choice:
    """Space of one choice among `size` actions."""

    size: int

    @property
    def parameters(self) -> int:
        """Return P, the number of a distribution's parameters."""
        return self.size

    def distribution(self, parameters: Tensor) -> Categorical:
        """Make the distribution of `parameters` [..., P]."""
        return Categorical(parameters)

    def embed(self, action: Tensor) -> Tensor:
        """Return one-hot vectors [..., size] of actions [...]."""
        return one_hot(action.long(), self.size)


@dataclass(frozen=True)
class Choices:
    """Space of K choices at once, the k-th among `sizes[k]` actions."""

    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.sizes)

    @property
    def parameters(self) -> int:
        return self.size

    def distribution(self, parameters: Tensor) -> MultiCategorical:
        return MultiCategorical(parameters, self.sizes)

    def embed(self, action: Tensor) -> Tensor:
        """Return one-hot vectors of the K choices, joined: [..., size] for actions [..., K]."""
        each = zip(action.long().unbind(-1), self.sizes, strict=True)
        return torch.cat([one_hot(a, size) for a, size in each], -1)


@dataclass(frozen=True)
class Reals:
    """Space of vectors of `size` reals in the cube [-1, 1]."""

    size: int

    @property
    def parameters(self) -> int:
        return 2 * self.size

    def distribution(self, parameters: Tensor) -> Gaussian:
        return Gaussian(*parameters.chunk(2, -1))

    def embed(self, action: Tensor) -> Tensor:
        return action


ActionSpace = Choice | Choices | Reals
