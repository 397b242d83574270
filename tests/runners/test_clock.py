"""A clock that is set back an hour while a run goes on: only clocks that never go back decide anything."""

import csv
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runners import run as run_module
from runners.launch import main
from runners.records import display
from runners.records.checkpoint import Checkpoints

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
