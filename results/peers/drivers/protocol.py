"""What every driver shares: its flags, and the lines that it reports.

A driver runs with the Python of a peer's own environment and imports nothing of this project. It writes lines of JSON
to the file descriptor that the variable MARKS names (stdout without it): what it runs, `{"settings", "versions"}`, and
from then on marks, `{"steps", "wall", "cpu"}`: after a batch that was learned from, the agent steps so far and what
they took by then. Clocks are read where the steps are counted: whoever reads the lines may come late.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

FRAME_SKIP = 4
LEARNING_RATE = 2.5e-4
CLIP = 0.1
ENTROPY, VALUE = 0.01, 0.5
DISCOUNT, GAE_LAMBDA = 0.99, 0.95
GRADIENT_NORM = 0.5

INTERVAL = 1.0
"""Seconds between marks, at least."""
_last = [0.0]


def options() -> argparse.Namespace:
    """The flags: what both sides of a comparison have in common. A batch is `envs` x `unroll` agent steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", choices=("feedforward", "lstm"), required=True)
    for name in ("hidden", "envs", "unroll", "minibatches", "passes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


def describe(packages: Sequence[str], **settings: object) -> None:
    """Tell what runs, and with which releases of `packages`."""
    _write({"settings": settings, "versions": {name: version(name) for name in packages}})


def mark(steps: int) -> None:
    """Tell that `steps` agent steps have been taken and learned from; at most once a second, as it takes some work."""
    now = time.monotonic()
    if now - _last[0] >= INTERVAL:
        _last[0] = now
        _write({"steps": steps, "wall": now, "cpu": cpu_seconds(os.getsid(0))})


def cpu_seconds(session: int) -> float:
    """User and system time of a session's processes, of those that have ended and were waited for, too.

    By its session a process is known whoever started it and whoever its parent is by now. The system rounds each
    process's times down to ticks, mostly of 0.01 s.
    """
    ticks = sum(int(x) for _, fields in process_stats() if int(fields[3]) == session for x in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def session_members(session: int) -> list[int]:
    """The processes of a session that still run."""
    return [pid for pid, fields in process_stats() if int(fields[3]) == session and fields[0] != "Z"]


def process_stats() -> Iterator[tuple[int, list[str]]]:
    """Of every process its number, and the fields of /proc/N/stat from the third (state) on."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue


def _write(line: dict) -> None:
    os.write(int(os.environ.get("MARKS", 1)), json.dumps(line).encode() + b"\n")
