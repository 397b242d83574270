"""A dozen kills of a real run, at every moment that there is: it goes on, and loses no more than an interval."""

from pathlib import Path

import numpy as np
import pytest

from results.faults import GONE
from results.faults.kills import RUNS, kill, plan
from results.faults.table import lost


@pytest.mark.slow
def test_a_dozen_kills_lose_no_more_than_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results.faults.kills.INTERVAL", 1.0)  # seconds between checkpoints
    found = [
        kill(run, tmp_path / "run", moment, np.random.default_rng(i))
        for i, (run, moment) in enumerate(plan(12, RUNS[:1]))
    ]
    assert {each["moment"] for each in found} == set(RUNS[0].moments)
    for each in found:
        assert each["whole"] and not lost(each), each
        assert each["seconds_until_gone"] < GONE and not each["left"], each
        assert each["tracebacks"] == 0 and each.get("goes_on", True), each
