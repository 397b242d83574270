"""Checks before a run starts: memory, a compiler, and a torso for the observations."""

import math
import os
import shutil
from pathlib import Path

import numpy as np

from envs.interface import EnvSpec
from networks.cores import CORES, RecurrentCore
from networks.torsos import SMALLEST_NATURE
from runners.config import RunConfig
from runners.errors import UsageError

COMPILERS = ("c++", "g++", "clang++")


def check_memory(config: RunConfig, spec: EnvSpec, buffers: int, ranks: int) -> None:
    """Raise UsageError if `buffers` batches and a learner's copy of one, for each of `ranks` ranks on this machine, do
    not fit into memory or /dev/shm."""
    training = config.training
    picture = math.prod(spec.observation_shape) * np.dtype(spec.observation_dtype).itemsize
    batch = ranks * (training.unroll + 1) * training.envs * picture
    for needed, there, where in (
        ((buffers + 1) * batch, _available(), "memory is free"),
        (buffers * batch if training.actors else 0, _shared(), "/dev/shm is free"),
    ):
        if needed > there:
            raise UsageError(
                f"batches of --envs {training.envs} x --unroll {training.unroll} take {needed / 1e9:.1f} GB, and only "
                f"{there / 1e9:.1f} GB of {where}: lower one of them"
            )


def check_torso(config: RunConfig, spec: EnvSpec) -> None:
    """Raise UsageError if an option does not suit the observations, or pictures are too small for the torso."""
    pictures = [part for part in spec.parts if part.kind == "picture"]
    torso, shown = config.network.torso, ", ".join(f"{part.kind} {part.shape}" for part in spec.parts)
    if not pictures and torso != "auto":
        raise UsageError(f"--torso {torso} reads pictures; {spec.name} shows {shown}: leave --torso at auto")
    if not pictures and config.network.centre_pixels:
        raise UsageError(f"--centre-pixels is for pictures; {spec.name} shows {shown}: leave it out")
    if torso == "nature" and (small := [p for p in pictures if min(p.shape[1:]) < SMALLEST_NATURE]):
        raise UsageError(
            f"--torso nature needs pictures of at least {SMALLEST_NATURE} pixels a side, and {spec.name} shows "
            f"{small[0].shape}: take --torso small"
        )
    if config.network.normalise == "on" and not any(part.kind == "vector" for part in spec.parts):
        raise UsageError(f"--normalise on is for vectors; {spec.name} shows {shown}: leave it out")


def check_compile(config: RunConfig) -> None:
    """Raise UsageError if --compile cannot work: torch.compile needs a C++ compiler, and a core with a fixed graph."""
    if not config.training.compile:
        return
    if not any(map(shutil.which, COMPILERS)):
        raise UsageError(f"--compile needs a C++ compiler ({', '.join(COMPILERS)}), and none is on the path")
    if issubclass(CORES[core := config.network.core], RecurrentCore):
        raise UsageError(f"--compile does not go with --core {core}, which cuts its unrolls where episodes end")


def _available() -> float:
    """Return the bytes of memory that are free; infinity if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


def _shared() -> float:
    try:
        disk = os.statvfs("/dev/shm")
    except OSError:
        return math.inf
    return disk.f_bavail * disk.f_frsize
