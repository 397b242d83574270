"""Numpad: a memory diagnostic in which an agent finds a sequence of pads by trial, and is paid for repeating it."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from envs.backend import BackendEnv, RawStep
from envs.config import EnvConfig
from envs.interface import Discrete, EnvError, EnvSpec, Part
from envs.suites import Suite

STEPS_PER_PAD = 16
"""Agent steps of an episode for each pad."""
MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
"""Row and column that each action adds: up, down, left, right."""
SQUARE = 24
UNLIT, LIT, AGENT = (60, 60, 66), (238, 202, 59), (228, 87, 86)


def side_of(name: str) -> int:
    """Return the N of `numpad-N`; EnvError unless it is 2, 3 or 4."""
    match = re.fullmatch(r"numpad-([234])", name)
    if match is None:
        raise EnvError(f"{name!r} is not a numpad task: write numpad-N with a side N of 2 to 4, as numpad-2")
    return int(match[1])


def paths(side: int) -> np.ndarray:
    """Return all paths over a grid from neighbour to neighbour that visit each pad once, [K, side^2] int64."""

    def extend(path: list[int]) -> Iterator[list[int]]:
        if len(path) == side**2:
            yield path
        for pad in sorted(neighbours[path[-1]] - set(path)):
            yield from extend([*path, pad])

    neighbours = [set(row) - {pad} for pad, row in enumerate(moves(side))]
    return np.array([path for pad in range(side**2) for path in extend([pad])])


def moves(side: int) -> np.ndarray:
    """Return the pad that each action leads to from each pad, [side^2, 4] int64: a wall leads back to the same pad."""
    row_and_column = np.stack(np.divmod(np.arange(side**2), side), 1)
    there = np.clip(row_and_column[:, None] + MOVES, 0, side - 1)
    return there @ [side, 1]


class Numpad(BackendEnv):
    """Task `numpad-N`: N x N pads, and a secret path over all of them, drawn for each episode.

    The agent stands on a pad, and an action moves it to a neighbour; at a wall it stays, and nothing happens. A pad
    lights up, with reward 1, if it is the next of the path. Any other pad turns all lights off, and the path begins
    anew, as it does when the last pad has been lit. An agent that remembers what it has found repeats the path until
    the episode's time limit of 16 N^2 steps; one without a memory finds each pad again and again by chance.

    Observation [2 N^2] float32: the agent's pad, one-hot [N^2], and which pads are lit [N^2]. At the start it stands on
    a pad drawn uniformly, and no pad is lit.
    The task is that of GTrXL's figure 3 (arXiv 1910.06764) on a grid, without its physics.
    """

    def __init__(self, config: EnvConfig, suite: Suite, num_envs: int, seed: int, threads: int, render: bool):
        side = side_of(config.name)
        self._side, self._pads, self._limit = side, side**2, STEPS_PER_PAD * side**2
        parts = Part("position", "onehot", (self._pads,)), Part("lights", "vector", (self._pads,))
        super().__init__(EnvSpec(config.name, parts, Discrete(len(MOVES)), 1, self._limit), num_envs, render)
        self._rng = np.random.default_rng(seed)
        self._paths, self._moves = paths(side), moves(side)
        self._t = np.zeros(num_envs, np.int64)
        self._lit = np.zeros(num_envs, np.int64)  # how many pads of the path are lit
        self._path = self._rng.choice(self._paths, num_envs)
        self._pad = self._rng.integers(self._pads, size=num_envs)

    def _reset(self) -> np.ndarray:
        return self._observe()

    def _send(self, action: np.ndarray, ids: np.ndarray | None) -> None:
        self._plays = np.arange(self.num_envs) if ids is None else ids
        self._action = action[self._plays]

    def _recv(self) -> RawStep:
        plays = self._plays
        begins = self._t[plays] == self._limit
        # Drawn for all environments, so that one that stands still changes nothing for the others.
        path = self._rng.choice(self._paths, self.num_envs)[plays]
        pad = self._rng.integers(self._pads, size=self.num_envs)[plays]

        there = self._moves[self._pad[plays], self._action]
        moved = ~begins & (there != self._pad[plays])
        right = moved & (there == self._path[plays, self._lit[plays]])
        lit = np.where(right, self._lit[plays] + 1, np.where(moved | begins, 0, self._lit[plays]))
        self._lit[plays] = lit % self._pads
        self._pad[plays] = np.where(begins, pad, there)
        self._path[plays] = np.where(begins[:, None], path, self._path[plays])
        self._t[plays] = np.where(begins, 0, self._t[plays] + 1)
        never = np.zeros(len(plays), bool)
        return RawStep(self._observe()[plays], right.astype(np.float32), never, self._t[plays] == self._limit)

    def _observe(self) -> np.ndarray:
        observation = np.zeros((self.num_envs, 2, self._pads), np.float32)
        rows = np.arange(self.num_envs)
        observation[rows, 0, self._pad] = 1.0
        lights = np.arange(self._pads) < self._lit[:, None]
        observation[rows[:, None], 1, self._path] = lights
        return observation.reshape(self.num_envs, -1)

    def _get_state(self) -> dict[str, Any]:
        own = {name: getattr(self, name).copy() for name in ("_t", "_lit", "_path", "_pad")}
        return {"rng": self._rng.bit_generator.state, **own}

    def _set_state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        for name in ("_t", "_lit", "_path", "_pad"):
            setattr(self, name, state[name].copy())

    def _render(self) -> np.ndarray:
        """Draw the pads, lit ones yellow, and the agent as a red square."""
        position, lights = self._observe().reshape(self.num_envs, 2, self._side, self._side).swapaxes(0, 1)
        cells = np.where(lights[..., None] > 0, LIT, UNLIT).astype(np.uint8)
        picture = cells.repeat(SQUARE, 1).repeat(SQUARE, 2)
        picture[:, ::SQUARE] = picture[:, :, ::SQUARE] = 0
        for i, row, column in np.argwhere(position):
            y, x = SQUARE * row + SQUARE // 4, SQUARE * column + SQUARE // 4
            picture[i, y : y + SQUARE // 2, x : x + SQUARE // 2] = AGENT
        return picture
