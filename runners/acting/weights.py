"""The network's weights as one shared vector with a version: the learner publishes, actors fetch."""

from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch import Tensor, nn


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
    """Version 1 is `vector` [P], which is copied; `context` is that of the processes that share them."""

    def __init__(self, vector: Tensor, context: BaseContext) -> None:
        self.vector = vector.to("cpu", copy=True).share_memory_()
        self.version = context.Value("q", 1)

    def publish(self, module: nn.Module, timeout: float) -> bool:
        """Copy the weights of `module` to the actors, or return False if the lock stays taken for `timeout` seconds, as
        it does where a process died that held it."""
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
        """`load` what is newer than `version`; the version that there is then."""
        with self.version.get_lock():
            if self.version.value != version:
                load(self.vector)
            return self.version.value


def evaluated(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights to evaluate in a learner's state: the average where there is one, else the last."""
    average = state["average"]
    if average is None:
        return state["network"]
    prefix = "module."
    return {name.removeprefix(prefix): value for name, value in average.items() if name.startswith(prefix)}
