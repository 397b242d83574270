"""What the machine can hold and do, and the network can read, asked before anything starts."""

import math
import os
import shutil
from pathlib import Path

import numpy as np

from envs.interface import EnvSpec
from runners.config import RunConfig
from runners.errors import UsageError

COMPILERS = ("c++", "g++", "clang++")


def check_memory(config: RunConfig, spec: EnvSpec, buffers: int, ranks: int) -> None:
    """UsageError where `buffers` batches and a learner's copy of one, each of them of `ranks` ranks on this machine, do
    not fit, in memory or in /dev/shm."""
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
    """UsageError where a torso for pixels is to read a vector, or the one for vectors pixels."""
    pixels = len(spec.observation_shape) == 3
    if pixels and config.network.torso == "mlp":
        raise UsageError(f"--torso mlp reads vectors; {spec.name} shows pixels: take --torso nature or resnet")
    if not pixels and config.network.torso != "mlp":
        raise UsageError(
            f"--torso {config.network.torso} reads pixels; {spec.name} shows a vector of shape "
            f"{spec.observation_shape}: take --torso mlp"
        )


def check_compile(config: RunConfig) -> None:
    """UsageError where --compile cannot work: torch.compile needs a C++ compiler on the CPU, and one fixed graph."""
    if not config.training.compile:
        return
    if not any(map(shutil.which, COMPILERS)):
        raise UsageError(f"--compile needs a C++ compiler ({', '.join(COMPILERS)}), and none is on the path")
    if config.network.core == "lstm":
        raise UsageError("--compile does not go with --core lstm, which cuts its unrolls where episodes end")


def _available() -> float:
    """Bytes that programs may still take; unlimited where the system does not tell."""
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
