"""Steps, wall time and processor time of a command and of all that it starts, between two of its marks.

The command reports as drivers/protocol.py says, and has a session of its own, by which its processes are known.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from results import jobs
from results.peers.catalogue import Task
from results.peers.drivers.protocol import MARK, session_members
from runners.errors import RunError

PATIENCE = 300.0
"""Seconds that a command may take for one mark, the first included."""
POINTS = 100
"""Most points of a curve that is kept: one each time that a hundredth of the seconds has passed."""


class Ended(RunError):
    """The command ended by itself, without an error."""


def follow(
    command: Sequence[str], cores: Sequence[int], log: Path, task: Task, seconds: float, stop: jobs.Stop | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how `command` describes itself, and how it went until the task's bar, its end, or `seconds` of a core.

    How it went is the usage since its first mark, or the first after the task's `warm_up`; whether it came to the bar,
    its mean return then, and a curve of [steps, core-seconds, mean return]. RunError where it leaves its cores, fails
    or falls silent, or `stop` asks for it.
    """
    curve: list[list[float | None]] = []
    with jobs.running(command, cores, log) as process:
        lines = marks(process, log, stop or jobs.Stop())
        about, begun = next(lines), next(lines)
        warm = (x for x in lines if x["wall"] - begun["wall"] >= task.warm_up)
        mark = next(warm) if task.warm_up else begun
        first, spent, solved = mark, usage(mark, mark), False
        try:
            for mark in lines:
                spent = usage(first, mark)
                if not curve or spent["cpu"] >= curve[-1][1] + seconds / POINTS:
                    curve.append([spent["steps"], round(spent["cpu"], 2), mark["mean_return"]])
                solved = None not in (task.bar, mark["mean_return"]) and mark["mean_return"] >= task.bar
                if solved or spent["cpu"] >= seconds:
                    break
        except Ended:  # its own steps were over
            pass
        check_cores(process.pid, cores)
    return about, {"solved": solved, "mean_return": mark["mean_return"], **spent, "curve": curve}


def usage(first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """Return the agent steps, and the seconds of the clock and of processors that they took, between two marks."""
    return {name: last[name] - first[name] for name in ("steps", "wall", "cpu")}


def marks(process: subprocess.Popen, log: Path, stop: jobs.Stop) -> Iterator[dict[str, Any]]:
    """Give what the process reports in its log as it comes; at its end raise RunError, `Ended` where all was well."""
    rest, heard = "", time.monotonic()
    with open(log, errors="replace") as file:
        while True:
            ended = process.poll() is not None  # before reading: what it wrote by then is read
            *lines, rest = (rest + file.read()).split("\n")
            for line in lines:
                if line.startswith(MARK):
                    heard = time.monotonic()
                    yield json.loads(line.removeprefix(MARK))
            if stop.asked:
                raise RunError("it was stopped")
            if ended:
                raise jobs.failure(process.returncode, log) if process.returncode else Ended(f"it ended: {log}")
            if time.monotonic() - heard > PATIENCE:
                raise RunError(f"it reported nothing for {PATIENCE:.0f} seconds: {jobs.last_line(log)}")
            time.sleep(0.05)


def check_cores(session: int, cores: Sequence[int]) -> None:
    for pid in session_members(session):
        with suppress(ProcessLookupError):  # it ended meanwhile
            if strayed := os.sched_getaffinity(pid) - set(cores):
                raise RunError(f"process {pid} of it runs on cores {sorted(strayed)}, not on {sorted(cores)} alone")
