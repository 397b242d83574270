"""Ranks that die or hang: the others end in one line each, and a job that is started again goes on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.networks import two_networks
from support.torchrun import rank_of, torchrun

FLAGS = "--env CartPole-v1 --core feedforward --embedding 16 --envs 4 --unroll 16 --minibatches 2 --actors 0"
FLAGS += " --eval-episodes 2 --no-video --log-seconds 0 --checkpoint-seconds 0.5 --run-dir"


def started(folder: Path, run: subprocess.Popen) -> None:
    """Wait until the run has saved."""
    deadline = time.monotonic() + 200
    while not list(folder.glob("checkpoints/step_*")) and time.monotonic() < deadline:
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.2)


@pytest.mark.slow
def test_of_four_ranks_one_is_killed_and_the_job_goes_on(tmp_path: Path) -> None:
    folder, steps = tmp_path / "run", 8192
    run = torchrun("runners.control", *FLAGS.split(), str(folder), "--steps", str(steps), ranks=4, restarts=1)
    started(folder, run)
    os.kill(rank_of(run, 3), signal.SIGKILL)
    said, _ = run.communicate(timeout=500)
    assert run.returncode == 0, said
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 3 and all("lost another rank" in line or "waited for others" in line for line in errors), said
    assert "Traceback" not in said and sum(line.startswith("watch: ") for line in lines) == 2
    with open(folder / "metrics.csv") as file:
        rows = [int(row["steps"]) for row in csv.DictReader(file)]
    assert rows == list(range(256, steps + 1, 256))
    assert json.loads((folder / "summary.json").read_text())["ranks"] == 4


@pytest.mark.slow
def test_a_network_that_is_cut_ends_both_ranks_in_a_line_each(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["-m", "runners.control", *FLAGS.split(), str(folder), "--steps", "100000000", "--patience", "5"]
    with two_networks() as (start, cut):
        runs = [start(rank, sys.executable, *flags) for rank in range(2)]
        started(folder, runs[0])
        cut()
        said = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [1, 1], said
    for rank, text in enumerate(said):
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and errors[0].startswith(f"error: rank {rank} waited for others (--patience 5)"), text
        # Where the ranks were when the network was cut decides which of its waits ends.
        whys = ("Ranks 1 failed to pass", "no answer of rank 0", "no answer while learning")
        assert any(why in errors[0] for why in whys) and "Traceback" not in text, text


@pytest.mark.slow
def test_a_stopped_first_rank_ends_the_other_in_time(tmp_path: Path) -> None:
    """As one behind a network that is cut: it neither answers nor ends."""
    folder = tmp_path / "run"
    run = torchrun("runners.control", *FLAGS.split(), str(folder), "--steps", "100000000", "--patience", "5")
    started(folder, run)
    stopped, other = rank_of(run, 0), rank_of(run, 1)
    os.kill(stopped, signal.SIGSTOP)
    deadline = time.monotonic() + 30
    try:
        while Path(f"/proc/{other}").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert time.monotonic() < deadline
    finally:
        os.kill(stopped, signal.SIGKILL)
    said, _ = run.communicate(timeout=100)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert run.returncode == 1 and len(errors) == 1, said
    assert "rank 1 waited for others (--patience 5): no answer" in errors[0]


@pytest.mark.slow
def test_a_signal_in_the_last_evaluation_ends_all_ranks_and_it_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["runners.control", *FLAGS.split(), str(folder), "--steps", "256"]
    run = torchrun(*flags, "--eval-episodes", "1000000", "--eval-steps", "10000000", PYTHONUNBUFFERED="1")
    assert any("evaluating 1000000 episodes" in line for line in run.stdout)
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=20)
    assert f"stopped at step 256; continue: python -m runners.control --resume {folder}" in said
    assert "error: " not in said and not (folder / "summary.json").exists(), said

    run = torchrun(*flags)
    said, _ = run.communicate(timeout=100)
    assert run.returncode == 0, said
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["ranks"], summary["steps"], summary["eval"]["episodes"]) == (2, 256, 2)
