"""Numpad against a simulation in plain Python, and against the return of a player that knows the path."""

import numpy as np
import pytest

from envs.config import EnvConfig
from envs.factory import make_env
from envs.interface import EnvError
from envs.numpad import STEPS_PER_PAD, paths

MOVES = {0: (-1, 0), 1: (1, 0), 2: (0, -1), 3: (0, 1)}


def neighbour(pad: int, action: int, side: int) -> int:
    row, column = pad // side + MOVES[action][0], pad % side + MOVES[action][1]
    return row * side + column if 0 <= row < side and 0 <= column < side else pad


def distance(a: int, b: int, side: int) -> int:
    return abs(a // side - b // side) + abs(a % side - b % side)


class Player:
    """Plays one episode in plain Python."""

    def __init__(self, path: list[int], pad: int, side: int) -> None:
        self.path, self.pad, self.side, self.lit = path, pad, side, 0

    def step(self, action: int) -> int:
        there = neighbour(self.pad, action, self.side)
        if there == self.pad:
            return 0
        self.pad = there
        if there != self.path[self.lit]:
            self.lit = 0
            return 0
        self.lit = (self.lit + 1) % len(self.path)
        return 1

    def observe(self) -> list[float]:
        shown = [0.0] * 2 * self.side**2
        shown[self.pad] = 1.0
        for pad in self.path[: self.lit]:
            shown[self.side**2 + pad] = 1.0
        return shown


@pytest.mark.parametrize("side", [2, 3, 4])
def test_numpad_is_the_game_of_a_plain_simulation(side):
    env, n, limit = make_env(EnvConfig(f"numpad-{side}", "control"), 5, 1), 5, STEPS_PER_PAD * side**2
    rng, step = np.random.default_rng(0), None
    for t in range(3 * (limit + 1)):
        action = rng.integers(4, size=n)
        step = env.reset() if step is None else env.step(action)
        assert step.first.all() == (t % (limit + 1) == 0) and not step.terminated.any()
        assert step.truncated.all() == (t % (limit + 1) == limit) == step.truncated.any()
        if step.first.all():
            pads = step.observation[:, : side**2].argmax(1)
            players = [Player(list(path), pad, side) for path, pad in zip(env._path, pads, strict=True)]
            rewards, total = np.zeros(n), np.zeros(n)
        else:
            rewards = np.array([player.step(a) for player, a in zip(players, action, strict=True)])
        total += rewards
        assert np.array_equal(step.reward, rewards)
        assert np.array_equal(step.observation, [player.observe() for player in players])
        if step.truncated.all():
            assert np.array_equal(step.episode_return, total) and (step.episode_length == limit).all()
    env.close()


@pytest.mark.parametrize(("side", "count"), [(2, 8), (3, 40), (4, 552)])
def test_paths_go_from_neighbour_to_neighbour_over_all_pads_and_are_all_there(side, count):
    found = {tuple(path) for path in paths(side)}
    assert len(found) == count  # directed Hamiltonian paths of the grid, OEIS A096969
    for path in found:
        assert sorted(path) == list(range(side**2))
        assert all(distance(a, b, side) == 1 for a, b in zip(path, path[1:], strict=False))


def play_knowing(side: int, num_envs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the returns of players that know their paths, and those that counting steps predicts."""
    limit = STEPS_PER_PAD * side**2
    env = make_env(EnvConfig(f"numpad-{side}", "control"), num_envs, 2)
    step = env.reset()
    paths = env._path.copy()
    predicted = []
    for path, pad in zip(paths, step.observation[:, : side**2].argmax(1), strict=True):
        left = limit - (distance(pad, path[0], side) or 2)  # where it begins on the first pad it must leave it first
        round_ = len(path) - 1 + distance(path[-1], path[0], side)
        predicted.append(1 + left // round_ * len(path) + min(left % round_, len(path) - 1))
    for _ in range(limit):
        position, lights = np.split(step.observation, [side**2], axis=1)
        pads, lit = position.argmax(1), lights.sum(1).astype(int)
        actions = []
        for path, pad, count in zip(paths, pads, lit, strict=True):
            ranks = [(distance(there, path[count], side), there == pad) for there in _around(pad, side)]
            actions.append(min(range(4), key=lambda a, ranks=ranks: (ranks[a][1], ranks[a][0])))
        step = env.step(np.array(actions))
    env.close()
    return step.episode_return, np.array(predicted)


def _around(pad: int, side: int) -> list[int]:
    return [neighbour(pad, action, side) for action in MOVES]


@pytest.mark.parametrize(("side", "best", "random"), [(2, 63.5, 12.0), (3, 125.1, 13.8), (4, 233.1, 15.9)])
def test_a_player_that_knows_the_path_has_the_return_that_counting_predicts(side, best, random):
    found, predicted = play_knowing(side, 200)
    assert np.array_equal(found, predicted)
    assert found.mean() == pytest.approx(best, rel=0.02)
    env = make_env(EnvConfig(f"numpad-{side}", "control"), 400, 3)
    env.reset()
    rng = np.random.default_rng(0)
    steps = [env.step(rng.integers(4, size=400)) for _ in range(STEPS_PER_PAD * side**2)]
    assert steps[-1].episode_return.mean() == pytest.approx(random, rel=0.1)
    env.close()


@pytest.mark.parametrize("name", ["numpad", "numpad-1", "numpad-5", "numpad-22"])
def test_another_side_is_refused(name):
    with pytest.raises(EnvError, match="numpad-N with a side N of 2 to 4"):
        make_env(EnvConfig(name, "control"), 1, 0)
