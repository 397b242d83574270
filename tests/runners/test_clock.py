"""Clocks: one that is set back an hour while a run goes on, as only those that never go back decide anything, and rows
of metrics, which come further apart the older a run is."""

import csv
import math
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runners import run as run_module
from runners.launch import main
from runners.lm import training as lm_training
from runners.lm.cli import parse
from runners.machine.ranks import ONE_RANK
from runners.records import clock as clock_module
from runners.records import display
from runners.records.checkpoint import Checkpoints
from runners.records.clock import Clock, Pace

FLAGS = "--env CartPole-v1 --core feedforward --envs 4 --unroll 16 --minibatches 2 --embedding 16 --no-video --actors 1"
FLAGS += " --steps 1280 --eval-episodes 2 --log-seconds 0.001 --checkpoint-seconds 0.001 --run-dir"


def test_a_clock_that_goes_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows, saved, right, write, save = 0, [], time.time, run_module.Records.write, Checkpoints.save_last

    def counted(*arguments) -> None:
        nonlocal rows
        rows += 1
        write(*arguments)

    monkeypatch.setattr(time, "time", lambda: right() - 3600 * (rows >= 5))
    monkeypatch.setattr(run_module.Records, "write", counted)
    monkeypatch.setattr(
        Checkpoints, "save_last", lambda self, step, state: saved.append(step) or save(self, step, state)
    )
    monkeypatch.setattr(display, "LINE_SECONDS", 0.001)
    began = time.monotonic()
    assert main("control", [*FLAGS.split(), str(tmp_path)]) == 0
    took, steps = time.monotonic() - began, list(range(64, 1281, 64))

    with open(tmp_path / "metrics.csv") as file:
        found = list(csv.DictReader(file))
    seconds = [float(row["wall_seconds"]) for row in found]
    assert [int(row["steps"]) for row in found] == steps == saved[:-1]
    assert seconds == sorted(seconds) and 0 < seconds[-1] < took
    assert all(float(row["speed/steps_per_second"]) > 0 for row in found[1:])
    assert capsys.readouterr().out.count("time left 0:00:") == len(steps) - 1
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("e_step/eta")
    assert [event.step for event in events] == steps and events[-1].wall_time < events[0].wall_time


def ages_of_rows(
    monkeypatch: pytest.MonkeyPatch, seconds: float, starts: int, age: float, batch: float = 1.0
) -> list[float]:
    """Return the ages at which a run has a row, of batches of `batch` seconds and as many `starts` of one length."""
    now, found, state = 0.0, [], {"wall_seconds": 0.0, "cpu_seconds": 0.0}
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: now)
    for _ in range(starts):
        now += 1e6  # of which the run, which is stopped, knows nothing
        clock = Clock(ONE_RANK)
        clock.set_state(state)
        clock.start()
        pace = Pace(seconds, clock)
        for _ in range(round(age / starts / batch)):
            now += batch
            clock.read()
            if pace.due():
                pace.since_last(0, 0.0)
                found.append(clock.wall_seconds)
        state = clock.get_state()
    return found


def test_rows_of_a_long_run_grow_with_the_logarithm_of_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "ROWS", 100)
    for starts in (1, 16):
        found = ages_of_rows(monkeypatch, 10.0, starts, 32_000.0)
        assert np.diff(found[:90]) == pytest.approx(10.0)
        for age in (1000, 2000, 4000, 8000, 16_000, 32_000):
            count = sum(row <= age for row in found)
            bound = 100 * (1 + math.log(age / 1000))
            assert bound - starts - 8 * math.log2(age / 500) < count <= bound, (starts, age, count)


def test_all_rows_are_kept_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "ROWS", 100)
    assert len(ages_of_rows(monkeypatch, 0.0, 1, 5000.0)) == 5000
    assert len(ages_of_rows(monkeypatch, 10.0, 1, 5000.0, batch=200.0)) == 25  # batches that take longer than that


def test_rows_of_a_language_model_grow_with_the_logarithm_of_its_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_training, "ROWS", 4)
    flags = "--task support.lm_task:TASK --prompts 2 --completions 2 --updates 1 --eval-prompts 4 --log-rollouts 2"
    training = lm_training.LMTraining(parse([*flags.split(), "--rollouts", "33"])[0])
    found = [row for row in training.run() if row]
    assert [row["rollouts"] for row in found] == [2, 4, 6, 8, 10, 12, 15, 16, 20, 24, 28, 32, 33]
