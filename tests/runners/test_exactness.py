"""A seed makes one run: to the byte, and, where environments are saved, however often it is cut."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from envs.interface import EnvError
from runners.errors import UsageError
from runners.launch import main
from runners.machine.ranks import OneRank
from runners.records.checkpoint import Checkpoints
from runners.training import AgentTraining
from support import ROOT
from support.runs import small

TIMES = ("wall_seconds", "cpu_seconds", "speed/")


def rows(path: Path) -> list[dict[str, str]]:
    """A table's rows, without what depends on the time of day."""
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in csv.DictReader(file)]


def test_a_seed_makes_one_table(tmp_path: Path) -> None:
    flags = "--env CartPole-v1 --core lstm --envs 4 --unroll 16 --minibatches 2 --embedding 16 --no-video --actors 0"
    for name in ("one", "two"):
        more = f"--steps 640 --eval-episodes 1 --log-seconds 0 --run-dir {tmp_path / name}"
        assert main("control", [*flags.split(), *more.split()]) == 0
    assert rows(tmp_path / "one/metrics.csv") == rows(tmp_path / "two/metrics.csv")
    assert len(rows(tmp_path / "one/metrics.csv")) == 10


@pytest.mark.parametrize(
    ("env", "backend", "core", "agent", "target_period"),
    [
        ("recall-3", "auto", "gtrxl", "vmpo", 1),
        ("recall-3", "auto", "gtrxl", "at-dar", 3),
        ("numpad-2", "auto", "lstm", "vmpo", 1),
        ("CartPole-v1", "gymnasium", "lstm", "vmpo", 3),
        ("Pendulum-v1", "gymnasium", "gtrxl", "ppo", 1),
        ("MountainCar-v0", "gymnasium", "feedforward", "vmpo", 1),
    ],
)
def test_a_run_that_was_cut_equals_one_that_never_was(
    env: str, backend: str, core: str, agent: str, target_period: int, tmp_path: Path
) -> None:
    config = small(core, env, agent, save_environments=True, target_period=target_period, actors=0)
    config = replace(config, env=replace(config.env, backend=backend))

    def trained(cuts: list[int]) -> tuple[dict[str, torch.Tensor], list[dict]]:
        seen, batches, state = [], 0, None
        for cut in [*cuts, 8]:
            training = AgentTraining(config, fresh=state is None)
            if state is not None:
                training.set_state(state)
            loop = training.run()
            while batches < cut:
                row = next(loop)
                seen.append({k: v for k, v in row.items() if not k.startswith(TIMES)})
                batches += 1
            Checkpoints(tmp_path).save_last(training.steps, training.get_state())
            loop.close()
            state = Checkpoints(tmp_path).latest().state
        return training.network.state_dict() | training.learner.agent.state_dict(), seen

    (whole, rows_whole), (cut, rows_cut) = trained([]), trained([1, 3, 6])
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    for one, other in zip(rows_whole, rows_cut, strict=True):
        assert one.keys() == other.keys()
        assert all(one[name] == other[name] or one[name] != one[name] for name in one), (one, other)


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from runners.launch import main

*flags, folder = sys.argv[1:]
table, random = Path(folder) / "metrics.csv", random.Random(0)

def rows():
    return table.read_text().count("\\n") if table.exists() else 0

kills = 0
while not (Path(folder) / "summary.json").exists():
    began, enough = rows(), random.randint(2, 6)
    if not (child := os.fork()):
        os._exit(main("control", [*flags, folder]))
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if rows() >= began + enough:
            time.sleep(random.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            kills += 1
            os.waitpid(child, 0)
            break
        time.sleep(0.005)
    else:
        break
print("kills", kills)
"""
"""Program that starts a run again and again, and kills it at random moments until it ends."""


@pytest.mark.slow
def test_a_run_that_was_killed_at_random_moments_equals_one_that_never_was(tmp_path: Path) -> None:
    flags = "--env CartPole-v1 --backend gymnasium --core gtrxl --memory 12 --envs 4 --unroll 16 --minibatches 2"
    flags += " --embedding 16 --no-video --actors 0 --steps 1280 --save-environments --log-seconds 0"
    flags += " --checkpoint-seconds 0.001 --eval-episodes 1 --run-dir"
    killer = [sys.executable, "-c", KILLER, *flags.split(), str(tmp_path / "killed")]
    done = subprocess.run(killer, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert int(done.stdout.split()[-1]) >= 3
    assert main("control", [*flags.split(), str(tmp_path / "whole")]) == 0
    assert rows(tmp_path / "killed/metrics.csv") == rows(tmp_path / "whole/metrics.csv")
    killed, whole = (Checkpoints(tmp_path / name / "checkpoints").latest() for name in ("killed", "whole"))
    assert killed.step == whole.step == 1280 and not killed.warning
    for name, value in whole.state["learner"]["network"].items():
        assert torch.equal(value, killed.state["learner"]["network"][name]), name


def test_what_cannot_be_saved_is_said_at_the_start() -> None:
    config = small("lstm", actors=0, save_environments=True)
    with pytest.raises(EnvError, match="CartPole-v1 cannot be saved on this backend"):
        AgentTraining(replace(config, env=replace(config.env, backend="envpool")))
    with pytest.raises(ValueError, match="--save-environments needs --actors 0"):
        small("lstm", actors=1, save_environments=True)


def test_environments_of_several_ranks_are_not_saved() -> None:
    """Only the first rank writes checkpoints, so the others would act as it does when the run goes on."""

    class Ranks(OneRank):
        size = 2

    with pytest.raises(UsageError, match="--save-environments is for one process"):
        AgentTraining(small("lstm", "recall-3", "vmpo", save_environments=True, actors=0), Ranks())
