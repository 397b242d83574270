"""Flags, settings and reports that every driver shares.

A driver runs with the Python of a peer's own environment and imports nothing else of this project. It prints lines of
JSON, each after the word MARK: what it runs, `{"settings", "versions"}`, and from then on marks, `{"steps", "wall",
"cpu", "mean_return"}`: after a batch that was learned from, the agent steps so far, what they took by then, and the
mean return of the last 100 training episodes, null before there are as many. Clocks are read where the steps are
counted: whoever reads the lines may come late.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PONG = {"num_threads": 1, "frame_skip": 4, "episodic_life": True, "reward_clip": True}
"""Options of envpool's Pong."""
LEARNING_RATE, ANNEALED_OVER = 2.5e-4, 10_000_000
"""The rate falls linearly to nothing over so many agent steps: CleanRL's default, and that of SB3's zoo. The driver of
sample-factory, which is timed and not raced, keeps it constant."""
CLIP = 0.1
ENTROPY, VALUE = 0.01, 0.5
DISCOUNT, GAE_LAMBDA = 0.99, 0.95
GRADIENT_NORM = 0.5
ABOUT = {"arithmetic": "float32, channels first", "simulator": "envpool, one thread"}

MARK = "mark: "
EPISODES = 100
"""Episodes that the mean return is taken of."""
INTERVAL = 1.0
"""Seconds between marks, at least."""


def options() -> argparse.Namespace:
    """Return the flags that drivers share. A batch is `envs` x `unroll` agent steps."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--env", choices=("Pong", "CartPole-v1"), default="Pong")
    parser.add_argument("--core", choices=("feedforward", "lstm"), default="feedforward")
    for name in ("hidden", "envs", "unroll", "minibatches", "passes", "seed"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--bar", type=float, help="a mean return that is marked when it is reached")
    return parser.parse_args()


def describe(packages: Sequence[str], parameters: Iterable[Any], **settings: object) -> None:
    """Report what runs, how many of its `parameters` learn, and with which releases of `packages`."""
    counted = {"parameters": sum(p.numel() for p in parameters if p.requires_grad)}
    _write({"settings": settings | counted, "versions": {name: version(name) for name in packages}})


class Marks:
    """Reports of the steps learned from: once in INTERVAL, as a report costs work, and whenever `bar` is reached."""

    def __init__(self, bar: float | None = None) -> None:
        self.bar, self.last = math.inf if bar is None else bar, -math.inf

    def __call__(self, steps: int, mean_return: float | None = None) -> None:
        now = time.monotonic()
        solved = mean_return is not None and mean_return >= self.bar
        if solved or now - self.last >= INTERVAL:
            self.last = now
            _write({"steps": steps, "wall": now, "cpu": cpu_seconds(os.getsid(0)), "mean_return": mean_return})


def mean_of(returns: Sequence[float]) -> float | None:
    """Return the mean of the last EPISODES `returns`; None where there are fewer."""
    return sum(returns) / EPISODES if len(returns) == EPISODES else None


def cpu_seconds(session: int) -> float:
    """Return user and system time of a session's processes, with those that have ended and were waited for.

    A process is known by its session, whoever started it and whoever its parent is by now. The system rounds each
    process's times down to ticks, mostly of 0.01 s.
    """
    ticks = sum(int(x) for _, fields in process_stats() if int(fields[3]) == session for x in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def session_members(session: int) -> list[int]:
    """Return the processes of a session that still run."""
    return [pid for pid, fields in process_stats() if int(fields[3]) == session and fields[0] != "Z"]


def process_stats() -> Iterator[tuple[int, list[str]]]:
    """Give of every process its number, and the fields of /proc/N/stat from the third (state) on."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue


def _write(line: dict) -> None:
    os.write(1, f"\n{MARK}{json.dumps(line)}\n".encode())  # whatever else was printed, on a line of its own
