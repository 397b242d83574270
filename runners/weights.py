"""The network's weights as one shared vector with a version: the learner publishes, actors fetch."""

import torch
from torch import Tensor, nn


def flatten_parameters(module: nn.Module) -> Tensor:
    """Make every parameter of `module` a view of one new vector, and return the vector."""
    flat = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    nn.utils.vector_to_parameters(flat, module.parameters())
    return flat


class SharedWeights:
    """`context`: the multiprocessing context of the processes that share it."""

    def __init__(self, size: int, context) -> None:
        self.vector = torch.zeros(size).share_memory_()
        self.version = context.Value("q", 0)

    def publish(self, module: nn.Module) -> None:
        vector = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
        with self.version.get_lock():
            self.vector.copy_(vector)
            self.version.value += 1

    def fetch(self, into: Tensor, version: int) -> int:
        """Copy into the vector of `flatten_parameters` what is newer than `version`; the version it then holds."""
        with self.version.get_lock():
            if self.version.value != version:
                into.copy_(self.vector)
            return self.version.value
