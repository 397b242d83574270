"""The network's weights as one shared vector with a version: the learner publishes, actors fetch."""

from collections.abc import Callable
from multiprocessing.context import BaseContext

import torch
from torch import Tensor, nn


@torch.no_grad()
def flatten_parameters(module: nn.Module) -> Tensor:
    """Every parameter of `module`, in its order, copied into one vector [P]."""
    return torch.cat([parameter.reshape(-1) for parameter in module.parameters()])


@torch.no_grad()
def load_parameters(module: nn.Module, vector: Tensor) -> None:
    """The inverse. It writes in place: parameters made views of `vector` would lose their channels-last strides."""
    parameters = list(module.parameters())
    for parameter, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))


class SharedWeights:
    """Version 1 is `vector` [P], which is copied; `context` is that of the processes that share them."""

    def __init__(self, vector: Tensor, context: BaseContext) -> None:
        self.vector = vector.to("cpu", copy=True).share_memory_()
        self.version = context.Value("q", 1)

    def publish(self, module: nn.Module, timeout: float) -> bool:
        """False, and nothing done, if the lock stays taken for `timeout` seconds: who died with it never lets go."""
        vector, lock = flatten_parameters(module).cpu(), self.version.get_lock()
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
