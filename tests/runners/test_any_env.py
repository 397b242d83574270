"""Environments that users bring, through the command line: names, processes, bounds on evaluations, normalisation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from runners.build import build_env
from runners.cli import parse
from runners.config import AtariEnv, ControlEnv
from runners.control import main
from runners.errors import RunError
from runners.records.checkpoint import Checkpoints
from runners.training import AgentTraining


def run(folder: Path, *flags: str) -> dict:
    arguments = ["--core", "feedforward", "--no-video", "--run-dir", str(folder)]
    assert main([*arguments, *" ".join(flags).split()]) == 0
    return json.loads((folder / "summary.json").read_text())


def test_an_evaluation_that_would_never_end_is_cut_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = "--actors 0 --steps 4096 --eval-episodes 4 --eval-steps 1000 --reward-scale 3"
    result = run(tmp_path / "run", "--env support.envs_for_runs:Endless-v0", flags)["eval"]
    assert result["cut"] == 4 and result["returns"] == [250.0] * 4, "raw, each its share of the steps"
    assert "cut after 1,000 steps" in result["protocol"]
    assert "4 of 4 episodes had not ended after --eval-steps 1,000" in capsys.readouterr().out


def test_an_environment_that_breaks_while_it_runs_is_no_wrong_usage(tmp_path: Path) -> None:
    for actors in ("0", "1"):
        with pytest.raises(RunError, match=r"observation\[1\] is NaN"):
            run(tmp_path / actors, f"--env support.envs_for_runs:Breaks-v0 --steps 4096 --actors {actors}")


def test_units_of_the_observation_do_not_matter(tmp_path: Path) -> None:
    """CartPole is learned from observations that are multiplied by 100, and then raised by 1000."""
    flags = "--env support.envs_for_runs:FarCartPole-v0 --actors 0 --steps 120000 --eval-episodes 20"
    assert run(tmp_path / "run", flags)["eval"]["mean"] > 400
    state = Checkpoints(tmp_path / "run" / "checkpoints").latest().state["learner"]["network"]
    assert (state["torso.normaliser.mean"].abs() > 500).all()
    assert state["torso.normaliser.count"] > 100_000


def test_moments_are_saved_and_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, "--actors 0 --steps 4096 --eval-episodes 2")
    config, resumed = parse("control", ["--resume", str(folder)])
    training = AgentTraining(config, fresh=False)
    training.set_state(Checkpoints(resumed / "checkpoints").latest().state)
    before = training.network.torso.normaliser.state_dict()
    saved = Checkpoints(folder / "checkpoints").latest().state["learner"]["network"]
    for name, value in before.items():
        assert torch.equal(value, saved[f"torso.normaliser.{name}"])


@pytest.mark.parametrize("there,expected", [(1, 0), (2, 1), (4, 2), (16, 8), (64, 32)])
def test_environments_that_step_in_python_have_processes_of_their_own(
    there: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as share 32 environments evenly and leave the learner a core."""
    monkeypatch.setattr("runners.cli.cores", lambda: there)
    for flags, actors in (
        ("--env support.envs_for_runs:Endless-v0", expected),
        ("--env CartPole-v1 --backend gymnasium", expected),
        ("--env CartPole-v1 --backend gymnasium --actors 0", 0),
        ("--env CartPole-v1", 0),
    ):
        config, _ = parse("control", flags.split())
        assert config.training.actors == actors


def test_names_of_games_that_people_type(capsys: pytest.CaptureFixture) -> None:
    config, _ = parse("atari", ["--game", "PongNoFrameskip-v4"])
    assert config.env.name == "Pong"
    assert "PongNoFrameskip-v4 is taken as Pong" in capsys.readouterr().out
    assert parse("atari", ["--game", "Pong"])[0].env.name == "Pong" and not capsys.readouterr().out


def test_command_lines_have_the_options_that_some_suite_of_theirs_honours() -> None:
    hidden = {name for name, kind in ControlEnv.__annotations__.items() if "Suppress" in str(kind)}
    assert {"sticky_actions", "frame_stack", "noop_max", "suite"} <= hidden
    assert not {"max_episode_steps", "action_bound"} & hidden
    hidden = {name for name, kind in AtariEnv.__annotations__.items() if "Suppress" in str(kind)}
    assert {"max_episode_steps", "action_bound", "suite"} <= hidden and "sticky_actions" not in hidden


def test_a_time_limit_for_an_environment_without_one() -> None:
    config, _ = parse("control", "--env support.envs_for_runs:Endless-v0 --max-episode-steps 7".split())
    env = build_env(config, 2, stream=0)
    env.reset()
    steps = [env.step(np.zeros(2, np.int64)) for _ in range(8)]
    env.close()
    assert env.spec.max_episode_steps == 7
    assert [bool(step.truncated.all()) for step in steps] == [False] * 6 + [True, False]
    assert not any(step.terminated.any() for step in steps)
