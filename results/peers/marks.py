"""Steps, wall time and processor time of a command and of all that it starts, between two of its marks.

The command reports as drivers/protocol.py says, and has a session of its own, by which its processes are known.
"""

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from results import jobs
from results.peers.drivers.protocol import session_members
from runners.errors import RunError

WARM_UP = 5.0
"""Seconds between the first mark and that with which the measurement begins: never the first, where marks are rare."""
PATIENCE = 300.0
"""Seconds that a command may take for one mark, the first included."""


class Usage(NamedTuple):
    """Agent steps, and the seconds of the clock and of processors that they took."""

    steps: int
    wall: float
    cpu: float

    @classmethod
    def at(cls, mark: dict[str, Any]) -> "Usage":
        return cls(*(mark[name] for name in cls._fields))

    def since(self, first: "Usage") -> "Usage":
        return Usage(*(b - a for a, b in zip(first, self, strict=True)))


class Ended(RunError):
    """The command ended by itself, without an error."""


def measure(command: Sequence[str], cores: Sequence[int], seconds: float, log: Path) -> tuple[Any, Usage]:
    """Return how `command` describes itself, and its usage over at least `seconds`.

    RunError where it leaves its cores, and where `reports` raises it.
    """
    with reports(command, cores, log) as (session, lines):
        about = next(lines)
        begun = Usage.at(next(lines))
        first = last = Usage.at(next(lines))
        while first.wall - begun.wall < WARM_UP:
            first = last = Usage.at(next(lines))
        while last.wall - first.wall < seconds:
            last = Usage.at(next(lines))
        check_cores(session, cores)
        return about, last.since(first)


@contextmanager
def reports(
    command: Sequence[str], cores: Sequence[int], log: Path, stop: jobs.Stop | None = None
) -> Iterator[tuple[int, Iterator[dict]]]:
    """Give the session of `command` and what it reports, line by line; the command is ended when this is left.

    The lines end with RunError where the command falls silent, fails or `stop` asks for it, and with `Ended` where it
    ends.
    """
    read_end, write_end = os.pipe()
    try:
        with jobs.measured(command, cores, log, {"MARKS": str(write_end)}, pass_fds=[write_end]) as process:
            os.close(write_end)
            yield process.pid, _lines(process, read_end, log, stop or jobs.Stop())
    finally:
        os.close(read_end)


def check_cores(session: int, cores: Sequence[int]) -> None:
    for pid in session_members(session):
        try:
            strayed = os.sched_getaffinity(pid) - set(cores)
        except ProcessLookupError:  # it ended meanwhile
            continue
        if strayed:
            raise RunError(f"process {pid} of it runs on cores {sorted(strayed)}, not on {sorted(cores)} alone")


def _lines(process: subprocess.Popen, read_end: int, log: Path, stop: jobs.Stop) -> Iterator[dict]:
    buffer, heard = b"", time.monotonic()
    while True:
        line, newline, rest = buffer.partition(b"\n")
        if newline:
            buffer, heard = rest, time.monotonic()
            yield json.loads(line)
        elif stop.asked:
            raise RunError("it was stopped")
        elif more := _read(read_end):
            buffer += more
        elif process.poll() is not None:
            raise jobs.failure(process.returncode, log) if process.returncode else Ended(f"it ended: {log}")
        elif time.monotonic() - heard > PATIENCE:
            raise RunError(f"it reported nothing for {PATIENCE:.0f} seconds: {jobs.last_line(log)}")


def _read(read_end: int) -> bytes:
    """Return what there is within a second, or nothing."""
    if select.select([read_end], [], [], 1.0)[0] and (more := os.read(read_end, 65536)):
        return more
    time.sleep(0.1)  # at its end a pipe is always ready
    return b""
