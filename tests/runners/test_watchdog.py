"""What hangs is named, and where it hangs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from runners.config import TrainingConfig
from runners.lm import training as lm_training
from runners.lm.cli import parse
from runners.lm.config import LearnerConfig
from runners.machine import watchdog
from runners.machine.watchdog import patiently, watched
from support import ROOT

HANGING = """
import time
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

class Hangs(CartPoleEnv):
    def step(self, action):
        if getattr(self, "steps", 0) > {steps}:
            self.wait_for_a_server()
        self.steps = getattr(self, "steps", 0) + 1
        return super().step(action)

    def wait_for_a_server(self):
        time.sleep(1000)

gymnasium.register("Hangs-v0", entry_point=Hangs)
"""


def test_what_ends_in_time_ends_nothing() -> None:
    with watched("a quick one", 0.2):
        pass
    time.sleep(0.4)
    with pytest.raises(ValueError), watched("one that fails", 0.2):
        raise ValueError
    time.sleep(0.4)


@pytest.mark.parametrize(
    ("steps", "what"), [(1000, "rank 0, which steps hanging:Hangs-v0,"), (32, "evaluation on hanging:Hangs-v0")]
)
def test_a_simulator_that_hangs_ends_the_run_in_a_line_with_its_stack(steps: int, what: str, tmp_path: Path) -> None:
    """While it trains, or in the last evaluation, where an environment has more steps before it."""
    (tmp_path / "hanging.py").write_text(HANGING.format(steps=100))
    flags = "-m runners.control --env hanging:Hangs-v0 --core feedforward --actors 0 --envs 2 --unroll 16"
    flags += f" --minibatches 1 --embedding 16 --no-video --patience 5 --run-dir {tmp_path / 'run'}"
    flags += f" --steps {steps} --eval-episodes 1000"
    done = subprocess.run(
        [sys.executable, *flags.split()],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    line = f"error: {what} gave nothing for 5 s (--patience); its stack is above"
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == line
    assert "in wait_for_a_server" in done.stderr


SUSPENDED = """
import time
from runners.machine.watchdog import watched

with watched("a loop", 3):
    print("begun", flush=True)
    for _ in range(15):
        time.sleep(0.1)
"""


def test_time_in_which_a_process_is_suspended_does_not_count() -> None:
    process = subprocess.Popen([sys.executable, "-c", SUSPENDED], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0


def test_waits_add_up_to_the_patience() -> None:
    waits = []
    assert not patiently(lambda seconds: bool(waits.append(seconds)), 2.5)
    assert waits == [1, 1, 0.5]
    assert patiently(lambda seconds: True, 2.5)


def test_a_reward_that_hangs_in_an_evaluation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of which comes before any training."""
    ended = []
    monkeypatch.setattr(watchdog, "_end", lambda *what: ended.append(what))
    flags = "--task support.lm_task:TASK --eval-prompts 4 --patience 0.2"
    training = lm_training.LMTraining(parse(flags.split())[0], fresh=False)
    monkeypatch.setattr(training.problem, "rewards", lambda rows, _: (time.sleep(0.5), torch.zeros(len(rows)))[1])
    training.prepare()
    assert ended == [("evaluation, which draws and judges completions,", 0.2)]


@pytest.mark.parametrize("config", [TrainingConfig, LearnerConfig])
@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e10])
def test_a_patience_that_no_clock_counts_is_refused(config: type, seconds: float) -> None:
    with pytest.raises(ValueError, match="--patience must be"):
        config(patience=seconds)
