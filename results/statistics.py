"""Aggregates over runs: the interquartile mean and its bootstrapped interval (Agarwal et al. 2021, 2108.13264)."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import trim_mean


def iqm(scores: Sequence[float]) -> float:
    """Return the mean of scores [N] without the floor(N/4) lowest and highest: the plain mean below 4 scores."""
    return float(trim_mean(scores, 0.25))


def iqm_interval(
    scores: Sequence[float], level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap of the IQM: the central `level` over seeded resamples of scores [N].

    With 2 or 3 scores the lowest and highest each make a whole resample more often than the 2.5% tails, so that the
    95% interval is simply their range.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"scores must be [N] with N >= 1, got shape {list(scores.shape)}")
    drawn = np.random.default_rng(seed).integers(scores.size, size=(resamples, scores.size))
    tail = (1 - level) / 2
    low, high = np.quantile(trim_mean(scores[drawn], 0.25, axis=1), [tail, 1 - tail])
    return float(low), float(high)
