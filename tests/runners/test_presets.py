"""Presets: which defaults a command line starts from."""

import pytest

from runners.cli import parse
from runners.presets import preset_for, small_atari, small_control, small_memory, small_minigrid, small_mujoco


@pytest.mark.parametrize("agent", ["vmpo", "ppo", "awr"])
def test_a_suite_may_have_defaults_of_its_own(agent: str) -> None:
    config, _ = parse("control", ["--env", "MiniGrid-MemoryS7-v0", "--agent", agent])
    preset = small_minigrid(agent)
    assert (config.agent, config.training) == (preset.agent, preset.training) != (small_control(agent).agent, None)
    assert parse("control", ["--env", "MiniGrid-MemoryS7-v0", "--discount", "0.9"])[0].agent.discount == 0.9


@pytest.mark.parametrize("env", [None, "CartPole-v1", "Pendulum-v1", "no-such-env"])
def test_the_others_have_those_of_their_command(env: str | None) -> None:
    assert preset_for("control", env, "small") is small_control
    assert preset_for("atari", env, "no such preset") is small_atari
    assert preset_for("control", "MiniGrid-MemoryS7-v0", "paper")("vmpo").training.preset == "paper"


def test_memory_tasks_have_sharper_targets_and_mujoco_a_covariance_that_moves_slowly() -> None:
    for env in ("recall-10", "numpad-2", "popgym-RepeatFirstEasy-v0"):
        assert preset_for("control", env, "small") is small_memory
    for env in ("Hopper-v5", "WalkerWalk-v1"):
        assert preset_for("control", env, "small") is small_mujoco
    assert small_memory("vmpo").agent.epsilon_eta > small_control("vmpo").agent.epsilon_eta
    assert small_mujoco("vmpo").agent.epsilon_alpha_sigma < small_control("vmpo").agent.epsilon_alpha_sigma
    assert small_memory("ppo") == small_control("ppo")
