"""Time that a run has taken, over all its starts."""

import time

import torch

from runners.machine.devices import cpu_seconds
from runners.machine.ranks import Ranks
from runners.records.tracker import Rate


class Clock:
    """Wall seconds, and processor seconds of all ranks, as of the last `read`, over all starts of the run."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.wall_seconds = self.cpu_seconds = 0.0
        self.start()

    def start(self) -> None:
        """Count from now on; the time since the last `read` is left out."""
        self._before = self.wall_seconds, self.cpu_seconds
        self._began = time.perf_counter(), cpu_seconds()

    def read(self, others: float = 0.0) -> None:
        """Update both; `others` are processor seconds of other processes of this rank since `start`."""
        (wall, cpu), (wall_before, cpu_before) = self._began, self._before
        self.wall_seconds = wall_before + time.perf_counter() - wall
        spent = torch.tensor(cpu_seconds() - cpu + others, dtype=torch.float64)
        self.cpu_seconds = cpu_before + float(self.ranks.total(spent))

    def get_state(self) -> dict[str, float]:
        return {"wall_seconds": self.wall_seconds, "cpu_seconds": self.cpu_seconds}

    def set_state(self, state: dict[str, float]) -> None:
        self.wall_seconds, self.cpu_seconds = state["wall_seconds"], state["cpu_seconds"]


ROWS = 10_000
"""Number of rows of metrics after which further ones come a ROWS-th of the run's age apart: each doubling of its age
then adds at most ROWS ln 2 of them, 7,000."""


class Pace:
    """Timer of rows of metrics, due every `seconds`, in an old run less often, which measures the speed since the last
    row; with `seconds` 0 a row is always due."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.seconds, self.clock = seconds, clock
        self.rate = Rate()
        self.last, self.waited = time.perf_counter(), 0.0

    def due(self) -> bool:
        apart = self.seconds and max(self.seconds, self.clock.wall_seconds / ROWS)
        return time.perf_counter() - self.last >= apart

    def since_last(self, steps: int, waited: float) -> tuple[float, float]:
        """Return steps per second, and the share of the time since the last row that the learner waited; `steps` and
        the seconds `waited` are totals."""
        now = time.perf_counter()
        share = (waited - self.waited) / (now - self.last)
        self.last, self.waited = now, waited
        return self.rate.update(steps), share
