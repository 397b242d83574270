"""Several games together: environments and scores are those of each game alone."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

from envs import factory
from envs.atari57 import RANDOM_AND_HUMAN, human_normalised
from envs.config import EnvConfig
from envs.factory import make_env
from envs.interface import EnvError
from envs.multi_task import share_out

GAMES = "Pong,Breakout,Freeway"


@pytest.mark.parametrize(
    ("games", "envs", "threads", "each"),
    [("Pong", 2, 16, [2]), (GAMES, 12, 12, [4, 4, 4]), (GAMES, 3, 16, [1, 1, 1]), (GAMES, 12, 1, [1, 1, 1])],
)
def test_the_simulators_share_the_threads(games, envs, threads, each, monkeypatch) -> None:
    made = []
    make = lambda config, suite, envs, seed, threads, render: made.append(threads) or Mock()  # noqa: E731
    monkeypatch.setattr(factory, "backend_class", lambda suite, backend: make)
    monkeypatch.setattr(factory, "MultiTask", lambda parts, name: parts)
    make_env(EnvConfig(suite="atari", name=games), envs, seed=0, threads=threads)
    assert made == each


@pytest.mark.parametrize("backend", ["envpool", "ale"])
def test_environments_are_those_of_each_game(backend):
    """Alone, with all 18 actions and the seed that its part is given, a game shows and pays the same."""
    config = EnvConfig(GAMES, backend=backend, max_episode_frames=400)
    together = make_env(config, 5, seed=3, tasks=[0, 0, 1, 2, 2])
    assert together.spec.action.n == 18 and together.spec.name == GAMES and together.num_envs == 5
    actions = np.random.default_rng(0).integers(18, size=(230, 5))
    steps = [together.reset(), *(together.step(a) for a in actions)]
    together.close()
    for task, columns in enumerate((slice(0, 2), slice(2, 3), slice(3, 5))):
        seed = int(np.random.SeedSequence((3, task)).generate_state(1)[0] >> 1)
        one = replace(config, name=config.tasks[task], full_actions=True)
        env = make_env(one, columns.stop - columns.start, seed)
        expected = [env.reset(), *(env.step(a[columns]) for a in actions)]
        env.close()
        for there, here in zip(steps, expected, strict=True):
            for a, b in zip(there, here, strict=True):
                np.testing.assert_array_equal(a[columns], b)
    assert any((~np.isnan(step.episode_return)).any() for step in steps)


def test_tasks_are_shared_out_in_blocks():
    assert share_out(1, 4).tolist() == [0, 0, 0, 0]
    assert share_out(3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert np.bincount(share_out(57, 114)).tolist() == [2] * 57
    assert EnvConfig("atari57").tasks == tuple(RANDOM_AND_HUMAN) and len(RANDOM_AND_HUMAN) == 57


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("Pong,Pnog", "did you mean Pong"), ("Pong,Pong", "named twice"), ("Pong,AirRaid", "one of the 57")],
)
def test_lists_that_cannot_be_played_are_named(name, complaint):
    with pytest.raises(EnvError, match=complaint):
        EnvConfig(name)
    with pytest.raises(EnvError, match="for Atari"):
        EnvConfig("CartPole-v1,Acrobot-v1", "control")


def test_human_normalised_scores():
    assert human_normalised("Pong", RANDOM_AND_HUMAN["Pong"][0]) == 0
    assert human_normalised("Pong", RANDOM_AND_HUMAN["Pong"][1]) == 100
    assert human_normalised("Breakout", 1.7 + 2 * (30.5 - 1.7)) == pytest.approx(200)
