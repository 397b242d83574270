"""The device of a process, and the processor time that it has used."""

import resource

import torch

from runners.errors import UsageError


def device_named(wanted: str) -> torch.device:
    """Return the device of an option, `auto` meaning CUDA if there is any; UsageError if it is missing."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; take --device cpu or auto")
    return torch.device(wanted)


def cpu_seconds() -> float:
    """Return user and system seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
