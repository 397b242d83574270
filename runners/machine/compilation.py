"""torch.compile as runs use it: one fixed graph and, on a GPU, calls replayed as CUDA graphs."""

import warnings
from collections.abc import Callable

import torch

# A table that the networks keep between calls is part of the graph here, which is just as right.
warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")


def compiled(function: Callable, device: torch.device) -> Callable:
    """`function` (or module) compiled for `device`; on a GPU what it returns lasts until the next step is marked."""
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return torch.compile(function, fullgraph=True, dynamic=False, mode=mode)
