"""The network's weights as one shared vector with a version: the learner publishes, actors fetch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SLOTS = 4
"""Versions of the weights in memory at a time: a reader may be as many less 2 behind when it ends."""


@torch.no_grad()
def flatten_weights(module: nn.Module) -> Tensor:
    """Copy every parameter and saved buffer of `module`, in their order, into one vector [P] of the parameters' type.

    The buffers are PopArt's statistics, without which a value means nothing.
    """
    tensors = list(module.state_dict().values())
    dtype = next(module.parameters()).dtype
    return torch.cat([tensor.to(dtype).reshape(-1) for tensor in tensors])


@torch.no_grad()
def load_weights(module: nn.Module, vector: Tensor) -> None:
    """Invert `flatten_weights`, in place: parameters made views of `vector` would lose their channels-last strides."""
    tensors = list(module.state_dict().values())
    for tensor, part in zip(tensors, vector.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


class SharedWeights:
    """The newest weights [P] and their version, from 1, in memory that processes share. Nobody waits for anybody, so
    that no process which dies, or is stopped, holds up another.

    Version v lies in slot v % SLOTS. It is written over by version v + SLOTS, after v + SLOTS - 1 was announced: what
    was read is whole if by then no more than v + SLOTS - 2 was.
    """

    def __init__(self, vector: Tensor) -> None:
        self._slots = vector.to("cpu").repeat(SLOTS, 1).share_memory_()
        self._version = torch.ones(1, dtype=torch.int64).share_memory_()

    @property
    def version(self) -> int:
        return int(self._version)

    @property
    def vector(self) -> Tensor:
        """The newest, for the process that publishes."""
        return self._slots[self.version % SLOTS]

    def publish(self, module: nn.Module) -> None:
        """Copy the weights of `module` to a slot, and then announce it."""
        version = self.version + 1
        self._slots[version % SLOTS].copy_(flatten_weights(module))
        self._version.fill_(version)

    def fetch(self, load: Callable[[Tensor], None], version: int) -> int:
        """`load` what is newer than `version`, again where it was written over meanwhile; returns its version."""
        while (newest := self.version) != version:
            load(self._slots[newest % SLOTS])
            if self.version <= newest + SLOTS - 2:
                return newest
        return version


def evaluated(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights to evaluate in a learner's state: the average where there is one, else the last."""
    average = state["average"]
    if average is None:
        return state["network"]
    prefix = "module."
    return {name.removeprefix(prefix): value for name, value in average.items() if name.startswith(prefix)}
