"""Stopping and going on: the same command again continues a run; a signal saves it whatever it is doing."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from runners import run as run_module
from runners import training as training_module
from runners.acting.samplers import ProcessSampler
from runners.errors import RunError, UsageError
from runners.launch import main
from runners.learning.learner import Learner
from runners.lm.batches import Rollouts
from runners.lm.launch import main as lm_main
from runners.machine import signals
from runners.machine.signals import REPEAT, StopSignal
from runners.records.checkpoint import Checkpoints
from runners.records.files import held

SMALL = "--env CartPole-v1 --core feedforward --envs 4 --unroll 16 --minibatches 2 --embedding 16 --no-video"
SMALL += " --actors 0 --steps 640 --eval-episodes 2 --log-seconds 0"
LM = "--task support.lm_task:TASK --prompts 2 --completions 2 --rollouts 6 --updates 2"
LM += " --eval-prompts 8 --log-rollouts 1"


def asked_in(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int = 1, hang: bool = True) -> None:
    """Send a SIGTERM in a `call` of `owner.name`, which then takes for ever, or goes on where it is not to `hang`."""
    before, calls = getattr(owner, name), 0

    def asked(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(signal.SIGTERM)
            if hang:
                time.sleep(60)
        return before(*arguments, **options)

    monkeypatch.setattr(owner, name, asked)


def control(run_dir: Path, *more: str) -> None:
    began = time.monotonic()
    assert main("control", [*SMALL.split(), "--run-dir", str(run_dir), *more]) == 0
    assert time.monotonic() - began < 30


def steps(run_dir: Path) -> list[int]:
    return [int(line.partition(",")[0]) for line in (run_dir / "metrics.csv").read_text().splitlines()[1:]]


def test_the_same_command_again_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with monkeypatch.context() as patched:
        asked_in(patched, run_module.Records, "write", 4, hang=False)
        control(tmp_path)
    assert f"stopped at step 256; continue: python -m runners.control --resume {tmp_path}" in capsys.readouterr().out
    for other in (["--learning-rate", "2e-3"], ["--core", "lstm"], ["--seed", "1"]):
        with pytest.raises(UsageError, match=f"another .*{other[0]}.*: continue it with --resume") as error:
            control(tmp_path, *other)
        assert "\n" not in str(error.value)
    control(tmp_path, "--eval-episodes", "3")  # what a resumed run may change, it may change
    assert steps(tmp_path) == list(range(64, 641, 64))
    assert json.loads((tmp_path / "summary.json").read_text())["eval"]["episodes"] == 3
    with pytest.raises(UsageError, match="holds a run that ended"):
        control(tmp_path)


def test_a_run_that_has_saved_nothing_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run_module.Records, "write", lambda *_: signal.default_int_handler(2, None))
        control(tmp_path)
    assert (tmp_path / "config.json").exists() and not (tmp_path / "checkpoints").exists()
    (tmp_path / ".metrics.csv.gempi-tmp").touch()
    (tmp_path / ".model-7.gempi-old").mkdir()
    (tmp_path / ".somebody-elses.old").mkdir()
    control(tmp_path, "--learning-rate", "2e-3")
    assert steps(tmp_path) == list(range(64, 641, 64))
    assert list(tmp_path.glob(".*")) == [tmp_path / ".somebody-elses.old"]


def test_of_another_runner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        asked_in(patched, run_module.Records, "write", hang=False)
        control(tmp_path)
    with pytest.raises(UsageError, match="is a run of runners.control, not of runners.lm"):
        lm_main([*LM.split(), "--run-dir", str(tmp_path)])


def test_a_signal_in_an_evaluation_saves_and_it_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        asked_in(patched, training_module, "evaluate_briefly", 2)
        control(tmp_path, "--evaluations", "2")
    saved = Checkpoints(tmp_path / "checkpoints").latest()
    assert (saved.step, saved.state["counters"]["evaluated_at"]) == (640, 320)
    control(tmp_path, "--evaluations", "2")
    assert (tmp_path / "summary.json").exists()
    assert Checkpoints(tmp_path / "checkpoints").latest().state["counters"]["evaluated_at"] == 640


def test_a_signal_in_the_last_evaluation_leaves_it_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        asked_in(patched, training_module, "evaluate")
        control(tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").latest().step == 640 and not (tmp_path / "summary.json").exists()
    control(tmp_path)
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("actors", [0, 1])
def test_a_signal_while_the_learner_waits(actors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = ProcessSampler if actors else training_module.LocalSampler
    with monkeypatch.context() as patched:
        asked_in(patched, owner, "next", 3)
        control(tmp_path, "--actors", str(actors), "--learner-envs", "0" if actors else "-1")
    assert Checkpoints(tmp_path / "checkpoints").latest().step == 128


def test_a_batch_that_takes_too_long_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(signals, "GRACE", 0.0)
        asked_in(patched, Learner, "_step", 3, hang=False)  # of the first batch's four
        control(tmp_path)
    saved = Checkpoints(tmp_path / "checkpoints").latest()
    assert (saved.step, saved.state["learner"]["updates"]) == (64, 3)


def test_a_language_model_whose_rollout_was_cut_short_draws_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(run_dir: Path) -> dict[str, torch.Tensor]:
        return Checkpoints(run_dir / "checkpoints").latest().state["policies"]["model"]

    lm_main([*LM.split(), "--run-dir", str(tmp_path / "whole")])
    with monkeypatch.context() as patched:
        drawn = Rollouts.draw
        patched.setattr(Rollouts, "draw", lambda self, *rest: (drawn(self, *rest), self._asked())[0])
        patched.setattr(Rollouts, "_asked", lambda self: None, raising=False)
        asked_in(patched, Rollouts, "_asked", 3)
        lm_main([*LM.split(), "--run-dir", str(tmp_path / "cut")])
    assert Checkpoints(tmp_path / "cut/checkpoints").latest().step == 2
    lm_main([*LM.split(), "--run-dir", str(tmp_path / "cut")])
    whole, cut = (weights(tmp_path / name) for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    with pytest.raises(UsageError, match="holds a run that ended"):
        lm_main([*LM.split(), "--run-dir", str(tmp_path / "cut")])


def test_a_folder_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(RunError, match="another process"), held(tmp_path):
        pass
    with held(tmp_path):  # free again
        pass


def test_a_run_that_goes_on_with_more_steps_keeps_the_summary_of_its_end(tmp_path: Path) -> None:
    control(tmp_path)
    ended = (tmp_path / "summary.json").read_text()
    assert main("control", ["--resume", str(tmp_path), "--steps", "1280"]) == 0
    assert (tmp_path / "summary_640.json").read_text() == ended != (tmp_path / "summary.json").read_text()


def test_a_run_goes_on_with_fewer_steps_than_planned_but_not_than_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 64 steps: 600 are planned, and 640 taken when a signal comes in the last evaluation."""
    with monkeypatch.context() as patched:
        asked_in(patched, training_module, "evaluate")
        control(tmp_path, "--steps", "600")
    before = (tmp_path / "config.json").read_bytes()
    for first in (["--resume"], [*SMALL.split(), "--run-dir"]):
        with pytest.raises(UsageError, match="has 640 steps already, more than --"):
            main("control", [*first, str(tmp_path), "--steps", "100"])
    with pytest.raises(UsageError, match="^--eval-from has no effect without --evaluations"):
        main("control", ["--resume", str(tmp_path), "--eval-from", "0.5"])
    assert (tmp_path / "config.json").read_bytes() == before and not (tmp_path / "summary.json").exists()
    for taken in ("600", "640"):
        assert main("control", ["--resume", str(tmp_path), "--steps", taken]) == 0
        assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 640


def test_a_language_model_goes_on_with_as_many_rollouts_as_taken_but_not_with_fewer(tmp_path: Path) -> None:
    lm_main([*LM.split(), "--run-dir", str(tmp_path)])
    with pytest.raises(UsageError, match="has 6 rollouts already, more than --"):
        lm_main(["--resume", str(tmp_path), "--rollouts", "5"])
    (tmp_path / "summary.json").unlink()
    assert lm_main(["--resume", str(tmp_path), "--rollouts", "6"]) == 0
    assert (tmp_path / "summary.json").exists()


def test_only_a_signal_that_comes_later_is_a_second_one() -> None:
    """A signal that arrives twice at once, as torchrun passes it on, is one request."""
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        stop._asked_at -= REPEAT
        signal.raise_signal(signal.SIGINT)
