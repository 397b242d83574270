"""Compilation by torch.compile: one fixed graph and, on a GPU, calls replayed as CUDA graphs."""

import warnings
from collections.abc import Callable

import torch

# The table of positions that attention caches becomes a constant of the graph, which is right.
warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")


def compiled(function: Callable, device: torch.device) -> Callable:
    """Return `function`, or a module, compiled for `device`; on a GPU its results last until the next marked step."""
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return torch.compile(function, fullgraph=True, dynamic=False, mode=mode)
