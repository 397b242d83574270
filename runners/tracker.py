"""Statistics of a run that its agents know nothing of: recent episodes and speed."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np


class EpisodeTracker:
    """The last `capacity` training episodes: raw return and length in agent steps."""

    def __init__(self, capacity: int = 100):
        self.count = 0  # episodes ever
        self._returns, self._lengths = np.full(capacity, np.nan), np.zeros(capacity, np.int64)

    def add(self, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Takes arrays of one shape, time first; where the return is NaN no episode ended."""
        ended = ~np.isnan(returns)
        for episode_return, length in zip(np.asarray(returns)[ended], np.asarray(lengths)[ended], strict=True):
            slot = self.count % len(self._returns)
            self._returns[slot], self._lengths[slot] = episode_return, length
            self.count += 1

    @property
    def returns(self) -> np.ndarray:
        """The returns held, in no particular order [min(count, capacity)]."""
        return self._returns[: self.count]

    @property
    def full(self) -> bool:
        """Whether as many episodes have ended as it holds."""
        return self.count >= len(self._returns)

    @property
    def mean_return(self) -> float:
        """NaN before the first episode ends, as `mean_length`."""
        return float(self._returns[: self.count].mean()) if self.count else float("nan")

    @property
    def mean_length(self) -> float:
        return float(self._lengths[: self.count].mean()) if self.count else float("nan")

    def get_state(self) -> dict[str, Any]:
        return {"count": self.count, "returns": self._returns.copy(), "lengths": self._lengths.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        self.count, self._returns, self._lengths = state["count"], state["returns"].copy(), state["lengths"].copy()


class Rate:
    """Units per second of a growing total, over the last `window` seconds."""

    def __init__(self, window: float = 30.0, clock: Callable[[], float] = time.monotonic):
        self._window, self._clock = window, clock
        self._points: deque[tuple[float, int]] = deque()

    def update(self, total: int) -> float:
        """Records the total and returns the rate; NaN until two moments are known."""
        now = self._clock()
        self._points.append((now, total))
        while (
            len(self._points) > 2 and self._points[1][0] <= now - self._window
        ):  # keep one point from before the window
            self._points.popleft()
        then, before = self._points[0]
        return (total - before) / (now - then) if now > then else float("nan")
