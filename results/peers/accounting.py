"""Steps, wall time and processor time of a command and of all that it starts, between two of its marks.

The command reports as drivers/protocol.py says, and has a session of its own, by which its processes are known.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from results.peers.drivers.protocol import session_members
from runners.errors import RunError

WARM_UP = 5.0
"""Seconds between the first mark and that with which the measurement begins: never the first, where marks are rare."""
PATIENCE = 300.0
"""Seconds that a command may take for one mark, the first included."""
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class Usage(NamedTuple):
    """Agent steps, and the seconds of the clock and of processors that they took."""

    steps: int
    wall: float
    cpu: float


class Ended(RunError):
    """The command ended by itself."""

    def __init__(self, code: int, log: Path) -> None:
        super().__init__(f"it ended with exit code {code}: {last_words(log)}")
        self.code = code


def measure(command: Sequence[str], cores: Sequence[int], seconds: float, folder: Path, log: Path) -> tuple[Any, Usage]:
    """What `command` says of itself, and its usage over at least `seconds`; RunError where it leaves its cores, or as
    `reports` has it."""
    with reports(command, cores, folder, log) as (session, lines):
        about = next(lines)
        return about, _between_marks(lines, session, seconds, cores)


@contextmanager
def reports(
    command: Sequence[str], cores: Sequence[int], folder: Path, log: Path, stopped: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, Iterator[dict]]]:
    """The session of `command`, and what it reports, line by line; it is ended when this is left.

    It runs in `folder`, on `cores` alone, with one thread a process; what it prints goes to `log`. The lines end with
    RunError where it falls silent, or `stopped` says so, and with `Ended` where it ends.
    """
    read_end, write_end = os.pipe()
    environment = os.environ | ONE_THREAD | {"MARKS": str(write_end)}
    environment.pop("PYTHONPATH", None)  # this project's packages are not the peer's
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # the command inherits it from this thread
    try:
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[write_end],
                start_new_session=True,
            )
    finally:
        os.sched_setaffinity(0, before)
        os.close(write_end)
    try:
        yield process.pid, _lines(process, read_end, log, stopped)
    finally:
        end_session(process)
        os.close(read_end)


def _between_marks(lines: Iterator[dict], session: int, seconds: float, cores: Sequence[int]) -> Usage:
    begun = usage_at(next(lines))
    first = last = usage_at(next(lines))
    while first.wall - begun.wall < WARM_UP:
        first = last = usage_at(next(lines))
    while last.wall - first.wall < seconds:
        last = usage_at(next(lines))
    _check_cores(session, cores)
    return between(first, last)


def usage_at(mark: dict) -> Usage:
    return Usage(*(mark[name] for name in Usage._fields))


def between(first: Usage, last: Usage) -> Usage:
    return Usage(*(b - a for a, b in zip(first, last, strict=True)))


def _check_cores(session: int, cores: Sequence[int]) -> None:
    for pid in session_members(session):
        try:
            strayed = os.sched_getaffinity(pid) - set(cores)
        except ProcessLookupError:  # it ended meanwhile
            continue
        if strayed:
            raise RunError(f"process {pid} of it runs on cores {sorted(strayed)}, not on {sorted(cores)} alone")


def _lines(process: subprocess.Popen, read_end: int, log: Path, stopped: Callable[[], bool]) -> Iterator[dict]:
    buffer, heard = b"", time.monotonic()
    while True:
        line, newline, rest = buffer.partition(b"\n")
        if newline:
            buffer, heard = rest, time.monotonic()
            yield json.loads(line)
        elif stopped():
            raise RunError("it was stopped")
        elif more := _read(read_end):
            buffer += more
        elif process.poll() is not None:
            raise Ended(process.returncode, log)
        elif time.monotonic() - heard > PATIENCE:
            raise RunError(f"it reported nothing for {PATIENCE:.0f} seconds: {last_words(log)}")


def _read(read_end: int) -> bytes:
    """What there is within a second, or nothing."""
    if select.select([read_end], [], [], 1.0)[0] and (more := os.read(read_end, 65536)):
        return more
    time.sleep(0.1)  # at its end a pipe is always ready
    return b""


def end_session(process: subprocess.Popen, patience: float = 5.0) -> None:
    """Ends the command and every process that it left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in session_members(process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if process.poll() is not None and not session_members(process.pid):
                return
            time.sleep(0.02)


def last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it said nothing'} ({log})"
