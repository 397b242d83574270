"""The network's weights as one shared vector with a version, which the learner publishes and actors fetch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from runners.acting.shared import share

SLOTS = 4
"""Number of versions of the weights in memory."""


@torch.no_grad()
def flatten_weights(module: nn.Module) -> Tensor:
    """Copy all parameters and saved buffers of `module`, in order, into one vector [P] of the parameters' type.

    Among the buffers are PopArt's statistics, without which values have no unit.
    """
    tensors = list(module.state_dict().values())
    dtype = next(module.parameters()).dtype
    return torch.cat([tensor.to(dtype).reshape(-1) for tensor in tensors])


@torch.no_grad()
def load_weights(module: nn.Module, vector: Tensor) -> None:
    """Copy `vector`, made by `flatten_weights`, into `module`; views of it would lose the channels-last strides."""
    tensors = list(module.state_dict().values())
    for tensor, part in zip(tensors, vector.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


class SharedWeights:
    """The newest weights [P] and their version, from 1, in memory that processes share without locks: a process that
    dies or is stopped holds up no other.

    Version v is in slot v % SLOTS. Version v + SLOTS overwrites it, after v + SLOTS - 1 was announced: a reader's copy
    is whole if no more than v + SLOTS - 2 was announced when it was done.
    """

    def __init__(self, vector: Tensor) -> None:
        self._slots = share(vector.to("cpu").repeat(SLOTS, 1))
        self._version = share(torch.ones(1, dtype=torch.int64))

    @property
    def version(self) -> int:
        return int(self._version)

    @property
    def vector(self) -> Tensor:
        """Return the newest weights, in the process that publishes them."""
        return self._slots[self.version % SLOTS]

    def publish(self, module: nn.Module) -> None:
        """Copy the weights of `module` to a slot, and then announce it."""
        version = self.version + 1
        self._slots[version % SLOTS].copy_(flatten_weights(module))
        self._version.fill_(version)

    def fetch(self, load: Callable[[Tensor], None], version: int) -> int:
        """Call `load` with the weights if they are newer than `version`, again if they were overwritten meanwhile, and
        return their version."""
        while (newest := self.version) != version:
            load(self._slots[newest % SLOTS])
            if self.version <= newest + SLOTS - 2:
                return newest
        return version


def evaluated(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights to evaluate from a learner's state: their average if there is one, else the last."""
    average = state["average"]
    if average is None:
        return state["network"]
    prefix = "module."
    return {name.removeprefix(prefix): value for name, value in average.items() if name.startswith(prefix)}
