"""The network's weights as one shared vector with a version, which the learner publishes and actors fetch."""

from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch import Tensor, nn


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
    """Weights in shared memory, with a version that begins at 1 with a copy of `vector` [P]."""

    def __init__(self, vector: Tensor, context: BaseContext) -> None:
        self.vector = vector.to("cpu", copy=True).share_memory_()
        self.version = context.Value("q", 1)

    def publish(self, module: nn.Module, timeout: float) -> bool:
        """Copy the weights of `module` to the actors and return True; False if the lock is not free for `timeout`
        seconds, as when a process died that held it."""
        vector, lock = flatten_weights(module).cpu(), self.version.get_lock()
        if not lock.acquire(timeout=timeout):
            return False
        try:
            self.vector.copy_(vector)
            self.version.value += 1
        finally:
            lock.release()
        return True

    def fetch(self, load: Callable[[Tensor], None], version: int) -> int:
        """Call `load` with the weights if they are newer than `version`, and return their version."""
        with self.version.get_lock():
            if self.version.value != version:
                load(self.vector)
            return self.version.value


def evaluated(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights to evaluate from a learner's state: their average if there is one, else the last."""
    average = state["average"]
    if average is None:
        return state["network"]
    prefix = "module."
    return {name.removeprefix(prefix): value for name, value in average.items() if name.startswith(prefix)}
