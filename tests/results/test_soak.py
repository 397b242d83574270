"""The slope of what a long run uses, on series whose slope is known."""

import numpy as np
import pytest

from results.faults.soak import EVERY, trend, trends
from results.faults.table import memory_in_quarters, soak_table

HOURS = np.arange(361) * EVERY / 3600


def test_the_slope_of_a_line_is_its_own_whatever_a_fifth_of_the_samples_are() -> None:
    line = 5.0 + 3.0 * HOURS
    assert trend(HOURS, line) == pytest.approx({"median": 6.5, "slope": 3.0, "low": 3.0, "high": 3.0})
    line[::5] = 1e6
    assert trend(HOURS, line)["slope"] == pytest.approx(3.0)


def test_the_interval_holds_the_slope_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    found = [trend(HOURS[::6], 3.0 * HOURS[::6] + rng.normal(size=61)) for _ in range(200)]
    held = np.mean([each["low"] <= 3.0 <= each["high"] for each in found])
    assert 0.9 < held < 0.99


def test_the_warm_up_and_samples_without_a_new_row_do_not_count() -> None:
    """Memory grows in the first ten minutes; speed is that of 100 steps a processor second, and every third sample sees
    the row of metrics of the one before."""
    samples = []
    for i, hours in enumerate(HOURS):
        row = i - (i % 3 == 2)
        samples.append({"hours": hours, "memory": min(hours, 1 / 6), "steps": 2000 * row, "cpu_seconds": 20.0 * row})
    found = trends(samples)
    assert found["memory"] == pytest.approx({"median": 1 / 6, "slope": 0, "low": 0, "high": 0})
    speed = found["agent steps a processor second"]
    assert speed == pytest.approx({"median": 100, "slope": 0, "low": 0, "high": 0})
    assert soak_table({"trends": found}).splitlines()[2] == "| memory | 0.1667 | +0 | +0 to +0 |"


def test_memory_that_settles_is_seen_in_its_quarters() -> None:
    samples = [{"memory, MiB": 700.0 - 8 * np.exp(-8 * hours)} for hours in HOURS]
    want = [700 - 8 * np.exp(-2 * middle) for middle in (0.5, 1.5, 2.5, 3.5)]
    assert memory_in_quarters({"samples": samples}) == ", ".join(f"{x:.1f}" for x in want)
