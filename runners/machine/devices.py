"""What a process runs on, and what it has used of it."""

import resource

import torch

from runners.errors import UsageError


def device_named(wanted: str) -> torch.device:
    """`auto`: CUDA where there is any."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; take --device cpu or auto")
    return torch.device(wanted)


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
