"""The table of suites: what belongs where, what its options are, and what people type."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from envs.atari57 import RANDOM_AND_HUMAN
from envs.config import EnvConfig, hidden_options
from envs.factory import make_env, prepare, resolve, steps_in_python
from envs.interface import EnvError, Part
from envs.names import atari_name
from envs.suites import SUITES, backend_class, known_names
from support import PYTHONPATH

memory = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("popgym", "minigrid")), reason="needs the extra memory"
)


def control(name: str, **options) -> EnvConfig:
    return EnvConfig(name, "control", **options)


@pytest.mark.parametrize(
    ("config", "suite", "backend"),
    [
        (EnvConfig("Pong"), "atari", "envpool"),
        (EnvConfig("Pong", backend="ale"), "atari", "ale"),
        (EnvConfig("atari57"), "atari", "envpool"),
        (control("CartPole-v1"), "control", "envpool"),
        (control("CartPole-v1", backend="gymnasium"), "control", "gymnasium"),
        (control("HalfCheetah-v5"), "mujoco", "envpool"),
        (control("CarRacing-v3"), "control", "envpool"),
        (control("CheetahRun-v1"), "dm_control", "envpool"),
        (control("MiniGrid-MemoryS7-v0"), "minigrid", "envpool"),
        (control("BabyAI-GoToLocal-v0"), "minigrid", "envpool"),
        (control("popgym-RepeatFirstEasy-v0"), "popgym", "gymnasium"),
        (control("recall-30"), "recall", "envpool"),
        (control("recall-30", backend="envpool"), "recall", "envpool"),
        (control("FetchReach-v4"), "envpool", "envpool"),
        (control("Taxi-v4"), "gymnasium", "gymnasium"),
        (control("support.envs_for_tests:NoLimit-v0"), "gymnasium", "gymnasium"),
    ],
)
def test_a_name_has_one_suite_and_a_backend(config, suite, backend):
    found, chosen = resolve(config)
    assert (found.name, chosen) == (suite, backend)
    assert steps_in_python(config) == (backend == "gymnasium")
    assert callable(backend_class(found, chosen))


def test_every_suite_lists_names_of_its_own():
    for suite in SUITES:
        names = known_names(suite.name)
        assert names == sorted(names) and (names or suite.name == "popgym")
        if suite.preset == "control":
            for name in names[:: max(1, len(names) // 5)]:
                found = resolve(control(name))[0].name
                assert found == suite.name or suite.name == "gymnasium"
    with pytest.raises(EnvError, match="unknown suite 'controll': did you mean control"):
        known_names("controll")


def test_options_follow_from_the_table():
    assert set(hidden_options("control")) == {
        "frame_stack",
        "sticky_actions",
        "eval_sticky_actions",
        "noop_max",
        "episodic_life",
        "max_episode_frames",
        "full_actions",
    }
    assert set(hidden_options("atari")) == {"max_episode_steps", "action_bound"}
    with pytest.raises(EnvError, match="--max-episode-steps is an option of popgym, .*: atari cannot honour it"):
        EnvConfig("Pong", max_episode_steps=5)
    with pytest.raises(EnvError, match="--max-episode-steps is an option of .*: recall-5 cannot honour it"):
        make_env(control("recall-5", max_episode_steps=5), 1, 0)
    for wrong in ({"max_episode_steps": -1}, {"action_bound": -1.0}, {"action_bound": float("inf")}):
        with pytest.raises(EnvError, match="must"):
            control("CartPole-v1", **wrong)


def test_configurations_of_earlier_runs_still_load():
    saved = json.loads(json.dumps({"name": "recall-5", "suite": "control", "backend": "envpool", "reward_scale": 1.0}))
    assert make_env(EnvConfig(**saved), 2, 0).spec.max_episode_steps == 7
    assert make_env(EnvConfig("CartPole-v1", "control", "envpool"), 2, 0).spec.max_episode_steps == 500


# Time limits


@pytest.mark.parametrize("name", ["CartPole-v1", "support.envs_for_tests:NoLimit-v0", "MiniGrid-MemoryS7-v0"])
@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_a_time_limit_truncates(name, backend):
    if "for_tests" in name and backend == "envpool" or "MiniGrid" in name and backend == "gymnasium":
        return
    env = make_env(control(name, backend=backend, max_episode_steps=5), 4, 0)
    assert env.spec.max_episode_steps == 5
    step, done = env.reset(), np.zeros(4, bool)
    for t in range(1, 6):
        step = env.step(np.full(4, t % 2))
        done |= step.terminated
    assert (step.truncated | done).all() and step.truncated.any() and (step.episode_length[step.truncated] == 5).all()
    env.close()


def test_a_registration_needs_no_time_limit():
    env = make_env(control("support.envs_for_tests:NoLimit-v0"), 2, 0)
    assert env.spec.max_episode_steps == 0
    env.close()


# Names


@pytest.mark.parametrize(
    ("typed", "game", "differs"),
    [
        ("Pong", "Pong", None),
        ("pong", "Pong", "taken as Pong"),
        ("ms_pacman", "MsPacman", "taken as MsPacman"),
        ("PongNoFrameskip-v4", "Pong", "4 frames for each action, the maximum of the last two"),
        ("MsPacmanNoFrameskip-v4", "MsPacman", "as its usual wrappers have it"),
        ("SpaceInvadersNoFrameskip-v0", "SpaceInvaders", "0.25 there"),
        ("ALE/Pong-v5", "Pong", "--sticky-actions 0.25"),
        ("PongDeterministic-v4", "Pong", "4 frames"),
        ("Pong-v5", "Pong", "taken as Pong"),
        ("Pong-v4", "Pong", "at random"),
    ],
)
def test_games_as_other_projects_write_them(typed, game, differs):
    found, note = atari_name(typed, known_names("atari"))
    assert found == game and (note is None if differs is None else differs in note and "\n" not in note)
    config, notes = prepare(EnvConfig(typed))
    assert config == EnvConfig(game) and notes == (() if note is None else (note,))


def test_other_games_get_suggestions():
    for typed, says in (
        ("Pongg", "did you mean Pong"),
        ("Pong-ram-v4", "did you mean Pong"),
        ("Chess", "unknown game"),
        ("CartPole-v1", "is of suite control: python -m runners.control --env CartPole-v1"),
    ):
        with pytest.raises(EnvError, match=says):
            prepare(EnvConfig(typed))
    for typed in ("PongNoFrameskip-v4,Breakout", "Breakout,pong"):
        with pytest.raises(EnvError, match="one of the 57 of atari57, .* did you mean Pong"):
            EnvConfig(typed)
    several, notes = prepare(EnvConfig("Pong,Breakout"))
    assert several.name == "Pong,Breakout" and not notes
    assert prepare(EnvConfig("atari57"))[0].tasks == tuple(RANDOM_AND_HUMAN)


def test_what_is_not_shown_is_said():
    assert prepare(control("CartPole-v1")) == (control("CartPole-v1"), ())
    (note,) = prepare(control("MiniGrid-MemoryS7-v0"))[1]
    assert "not the text of the mission" in note


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (control("Plainn-v0"), "must be registered with gymnasium in a module that is imported, --env module:Name-v0"),
        (control("Plainn-v0"), 'if __name__ == "__main__"'),
        (control("no_such_module:Plain-v0"), "needs the module no_such_module: No module named 'no_such_module'"),
        (control("json:Plain-v0"), "importing json registers no Plain-v0 with gymnasium"),
        (control("ALE/Pong-v5"), "but an Atari game: python -m runners.atari --game Pong"),
        (EnvConfig("CartPole-v1"), "is of suite control: python -m runners.control --env CartPole-v1"),
        (control("MiniGrid-MemoryS8-v0"), "or MiniGrid-MemoryS7-v0"),
        (control("CheetahRunn-v1"), "did you mean CheetahRun-v1"),
        (
            control("support.envs_for_tests:NoLimit-v0", backend="envpool"),
            "leave the backend at auto, or take gymnasium",
        ),
        (control("CheetahRun-v1", backend="gymnasium"), "leave the backend at auto, or take envpool"),
    ],
)
def test_names_that_nobody_has(config, says):
    with pytest.raises(EnvError) as error:
        make_env(config, 1, 0)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_module_that_fails_is_named(tmp_path, monkeypatch):
    (tmp_path / "half_written.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvError, match="needs the module half_written: No module named 'nothing_of_that_name'"):
        make_env(control("half_written:X-v0"), 1, 0)


def test_a_registered_environment_needs_no_backend_named():
    from support import envs_for_tests  # noqa: F401 (registers)

    env = make_env(control("NoLimit-v0"), 2, 0)
    assert env.spec.name == "NoLimit-v0"
    env.close()


def test_a_module_is_imported_wherever_environments_are_made():
    """As in a process that was spawned: nothing but the name tells it of the module."""
    code = "from envs.config import EnvConfig; from envs.factory import make_env; import sys\n"
    code += "make_env(EnvConfig(sys.argv[1], 'control'), 2, 0).reset()"
    run = [sys.executable, "-c", code, "support.envs_for_tests:NoLimit-v0"]
    subprocess.run(run, env={**os.environ, "PYTHONPATH": PYTHONPATH}, check=True, timeout=120)


# What suites show


def test_minigrid_shows_symbols_and_a_direction():
    env = make_env(control("MiniGrid-MemoryS7-v0"), 3, 0)
    assert env.spec.parts == (Part("direction", "onehot", (4,)), Part("image", "symbols", (7, 7, 3), (11, 6, 3)))
    observation = env.reset().observation
    assert observation.shape == (3, 151) and (observation[:, :4].sum(1) == 1).all()
    assert (observation[:, 4:].reshape(3, -1, 3) < [11, 6, 3]).all()
    env.close()


@pytest.mark.parametrize(
    ("name", "package"), [("popgym-RepeatFirstEasy-v0", "popgym"), ("MiniGrid-Empty-5x5-v0", "minigrid")]
)
def test_a_missing_extra_is_named_with_its_remedy(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvError, match=rf"^{name} needs the module {package}: .*\(pip install -e '.\[memory\]'\)$"):
        make_env(replace(control(name), backend="gymnasium"), 1, 0)


@memory
def test_popgym_needs_a_memory():
    """RepeatPreviousEasy pays for the card of 3 steps before."""
    env = make_env(control("popgym-RepeatPreviousEasy-v0"), 4, 0)
    assert env.spec.max_episode_steps == 0 and env.spec.parts == (Part("", "onehot", (4,)),)
    seen, total = [env.reset().observation.argmax(1)], np.zeros(4)
    step = env.step(np.zeros(4, int))
    while not step.terminated.any():
        seen.append(step.observation.argmax(1))
        step = env.step(seen[-4] if len(seen) > 3 else np.zeros(4, int))
        total += step.reward
    np.testing.assert_allclose(step.episode_return, total, atol=1e-5)
    assert (step.episode_return > 0.9).all()
    env.close()


@memory
@pytest.mark.parametrize("name", ["popgym-BattleshipEasy-v0", "popgym-AutoencodeEasy-v0", "popgym-CountRecallEasy-v0"])
def test_popgym_of_other_spaces(name):
    env = make_env(control(name), 2, 0)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert env.step(env.spec.action.sample(rng, 2)).observation.shape == (2, *env.spec.observation_shape)
    env.close()


@memory
def test_minigrid_of_gymnasium_is_that_of_envpool():
    one, other = (make_env(control("MiniGrid-MemoryS7-v0", backend=x), 2, 0).spec for x in ("envpool", "gymnasium"))
    assert replace(one, max_episode_steps=0) == replace(other, max_episode_steps=0)


def test_envpool_pictures_have_their_channels_first():
    env = make_env(control("CarRacing-v3"), 2, 0)
    assert env.spec.parts == (Part("", "picture", (3, 96, 96)),)
    step = env.step(np.zeros((2, 3), np.float32)) if env.reset() else None
    assert step.observation.dtype == np.uint8 and step.observation.shape == (2, 3, 96, 96)
    env.close()


# Pictures that cannot be had


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Draws", "its metadata has no render mode rgb_array"),
        ("Fails", "gladLoadGL error second line"),
        ("Wrong-picture", "its render"),
    ],
)
def test_a_failure_to_draw_is_one_line(name, says):
    with pytest.raises(EnvError, match="cannot draw support.envs_for_tests") as error:
        env = make_env(control(f"support.envs_for_tests:{name}-v0"), 1, 0, render=True)
        env.reset()
        env.render()
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="needs the extra mujoco")
def test_mujoco_draws_or_says_why_not():
    env = make_env(control("HalfCheetah-v5", backend="gymnasium"), 1, 0, render=True)
    env.reset()
    try:
        assert env.render().shape[-1] == 3
    except EnvError as error:
        assert "cannot draw" in str(error)
    assert gymnasium.spec("HalfCheetah-v5").max_episode_steps == env.spec.max_episode_steps
