"""One batch spread over several processes (ranks): sums over all of it. What a process is, the runners know."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Ranks(Protocol):
    """Every rank holds an equal part of the batch and calls the same methods in the same order.

    Losses made of `total` have the whole batch's value on every rank, and on each the gradient of its own part of the
    batch: summed over ranks, the gradients of the network are those of the whole.
    """

    def total(self, x: Tensor) -> Tensor:
        """The sum of `x` over ranks; its gradient is that of this rank's `x`."""
        ...

    def gather(self, x: Tensor) -> Tensor:
        """[N] on each of R ranks -> [R N], the same on all; without gradient."""
        ...

    def own(self, x: Tensor) -> Tensor:
        """This rank's [N] of `gather`'s [R N]."""
        ...


class Alone:
    """The only rank there is."""

    def total(self, x: Tensor) -> Tensor:
        return x

    def gather(self, x: Tensor) -> Tensor:
        return x

    def own(self, x: Tensor) -> Tensor:
        return x


ALONE = Alone()
