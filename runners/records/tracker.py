"""Statistics of a run for logs alone: recent episodes and speed."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from envs.atari57 import human_normalised


class EpisodeTracker:
    """The last `capacity` training episodes: raw return and length in agent steps."""

    def __init__(self, capacity: int = 100):
        self.count = 0  # episodes ever
        self._returns, self._lengths = np.full(capacity, np.nan), np.zeros(capacity, np.int64)

    def add(self, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Add episodes from arrays of one shape, time first; where the return is NaN no episode ended."""
        ended = ~np.isnan(returns)
        for episode_return, length in zip(np.asarray(returns)[ended], np.asarray(lengths)[ended], strict=True):
            slot = self.count % len(self._returns)
            self._returns[slot], self._lengths[slot] = episode_return, length
            self.count += 1

    @property
    def full(self) -> bool:
        """Return whether at least `capacity` episodes have ended."""
        return self.count >= len(self._returns)

    @property
    def mean_return(self) -> float:
        """Return the mean return; NaN before the first episode ends, as `mean_length`."""
        return float(self._returns[: self.count].mean()) if self.count else float("nan")

    @property
    def mean_length(self) -> float:
        return float(self._lengths[: self.count].mean()) if self.count else float("nan")

    def get_state(self) -> dict[str, Any]:
        return {"count": self.count, "returns": self._returns.copy(), "lengths": self._lengths.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        self.count, self._returns, self._lengths = state["count"], state["returns"].copy(), state["lengths"].copy()


class TaskTracker:
    """An `EpisodeTracker` for each task."""

    def __init__(self, tasks: Sequence[str]):
        self._each = {task: EpisodeTracker() for task in tasks}

    def add(self, returns: np.ndarray, lengths: np.ndarray, task: np.ndarray) -> None:
        """Add episodes from arrays [T, B]; `task` [B] is the task of each column."""
        for i, tracker in enumerate(self._each.values()):
            tracker.add(returns[:, task == i], lengths[:, task == i])

    @property
    def count(self) -> int:
        return sum(tracker.count for tracker in self._each.values())

    @property
    def full(self) -> bool:
        return all(tracker.full for tracker in self._each.values())

    @property
    def mean_return(self) -> float:
        """Return the mean return, of several tasks the mean of their human-normalised ones in percent; NaN before an
        episode of every task has ended."""
        means = {task: tracker.mean_return for task, tracker in self._each.items()}
        if len(means) == 1:
            return next(iter(means.values()))
        return float(np.mean([human_normalised(task, mean) for task, mean in means.items()]))

    def metrics(self) -> dict[str, float]:
        """Return scalars to log, of several tasks also the mean raw return of each."""
        lengths = [tracker.mean_length for tracker in self._each.values() if tracker.count]
        metrics = {
            "return/train": self.mean_return,
            "return/length": float(np.mean(lengths)) if lengths else float("nan"),
            "return/episodes": self.count,
        }
        if len(self._each) > 1:
            metrics |= {f"return/{task}": tracker.mean_return for task, tracker in self._each.items()}
        return metrics

    def get_state(self) -> dict[str, Any]:
        return {task: tracker.get_state() for task, tracker in self._each.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        for task, tracker in self._each.items():
            tracker.set_state(state[task])


class Rate:
    """Rate of a growing total, in units per second over the last `window` seconds."""

    def __init__(self, window: float = 30.0, clock: Callable[[], float] = time.monotonic):
        self._window, self._clock = window, clock
        self._points: deque[tuple[float, int]] = deque()

    def update(self, total: int) -> float:
        """Record the total and return the rate; NaN at the first call."""
        now = self._clock()
        self._points.append((now, total))
        while len(self._points) > 2 and self._points[1][0] <= now - self._window:  # keeps one from before the window
            self._points.popleft()
        then, before = self._points[0]
        return (total - before) / (now - then) if now > then else float("nan")
