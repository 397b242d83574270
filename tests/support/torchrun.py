"""Runs under torchrun, and their ranks."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from support import ROOT


def torchrun(*arguments: str, ranks: int = 2, restarts: int = 0, **variables: str) -> subprocess.Popen:
    """Start `python -m` with these arguments on several ranks; what they say is on its stdout."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["--max-restarts", str(restarts), "-m", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rank_of(run: subprocess.Popen, rank: int) -> int:
    """Return the process of a rank that `run` has started."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == run.pid and f"RANK={rank}".encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
    raise LookupError(f"no rank {rank}")
