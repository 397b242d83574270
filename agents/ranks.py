"""Sums over a batch that is spread over several processes (ranks); the runners implement them."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Ranks(Protocol):
    """The ranks that share a batch: each holds an equal part, and all call the same methods in the same order.

    Losses made of `total` have the whole batch's value on every rank, but on each the gradient of its own part of the
    batch: summed over ranks, the gradients of the network are those of the whole batch.
    """

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of `x` over ranks, whose gradient is that of this rank's `x`."""
        ...

    def gather(self, x: Tensor) -> Tensor:
        """Return the `x` [N] of all R ranks joined, [R N], the same on all; without gradient."""
        ...

    def own(self, x: Tensor) -> Tensor:
        """Return this rank's part [N] of `x` [R N], in the order of `gather`."""
        ...


class Alone:
    """A single rank, without others."""

    def total(self, x: Tensor) -> Tensor:
        return x

    def gather(self, x: Tensor) -> Tensor:
        return x

    def own(self, x: Tensor) -> Tensor:
        return x


ALONE = Alone()
