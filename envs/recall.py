"""Recall: a memory diagnostic in which only the first observation holds the answer."""

import re
from typing import Any

import numpy as np

from envs.backend import BackendEnv, RawStep
from envs.config import EnvConfig
from envs.interface import Discrete, EnvError, EnvSpec, Part
from envs.suites import Suite

CUES = 4
FEATURES = 4
GO = CUES + FEATURES
SIZE = 72
MARGIN = 12
COLOURS = np.array([[228, 87, 86], [76, 120, 168], [84, 162, 75], [238, 202, 59]], np.uint8)


def delay_of(name: str) -> int:
    """Return the N of `recall-N`; EnvError unless it is a number of 1 or more."""
    match = re.fullmatch(r"recall-([1-9]\d{0,6})", name)
    if match is None:
        raise EnvError(f"{name!r} is not a recall task: write recall-N with a delay N of 1 or more, as recall-30")
    return int(match[1])


class Recall(BackendEnv):
    """Task `recall-N`: one of 4 cues is shown, and after N more steps the agent must name it. Chance is 0.25.

    Observation [9] float32 = (cue one-hot [4], distractors uniform in [-1, 1] [4], go [1]), zero but for:
      step 0         the cue
      steps 1..N     new distractors
      step N + 1     go: the action taken here is the answer
      step N + 2     nothing, the end: reward 1 if the answer was the cue, else 0
    All other rewards are 0, other actions have no effect, and distractors are independent of the cue: nothing after
    step 0 depends on it. (An agent that observes its own last action could pass the cue along as actions: compare with
    a memoryless agent of the same inputs.)
    An episode has N + 2 agent steps. Environment i of n begins with i (N + 3) / n empty steps, or whole batches would
    hold no answer at all. These end as truncated, so that no memory of them reaches the first episode, and do not
    count as an episode.
    """

    def __init__(self, config: EnvConfig, suite: Suite, num_envs: int, seed: int, threads: int, render: bool):
        delay = delay_of(config.name)
        spec = EnvSpec(config.name, (Part("", "vector", (GO + 1,)),), Discrete(CUES), 1, delay + 2)
        super().__init__(spec, num_envs, render)
        self._go = delay + 1
        self._rng = np.random.default_rng(seed)
        waits = np.arange(num_envs) * (delay + 3) // num_envs
        self._t = -np.where(waits == 1, 0, waits)  # the first step cannot be the last
        self._cue = self._rng.integers(CUES, size=num_envs)

    def _reset(self) -> np.ndarray:
        return self._observe()

    def _send(self, action: np.ndarray, ids: np.ndarray | None) -> None:
        self._action = action
        self._plays = slice(None) if ids is None else ids

    def _recv(self) -> RawStep:
        ended = self._t == self._go
        reward = (ended & (self._action == self._cue)).astype(np.float32)
        begins = self._t > self._go
        cue = np.where(begins, self._rng.integers(CUES, size=self.num_envs), self._cue)
        plays = self._plays
        self._t[plays] = np.where(begins, 0, self._t + 1)[plays]
        self._cue[plays] = cue[plays]
        self._account.discard(self._t == 0)
        observation, ended, truncated = self._observe()[plays], ended[plays], self._t[plays] == -1
        return RawStep(observation, reward[plays], ended, truncated, game_over=ended)

    def _observe(self) -> np.ndarray:
        observation = np.zeros((self.num_envs, GO + 1), np.float32)
        shows_cue, shows_go = np.flatnonzero(self._t == 0), self._t == self._go
        observation[shows_cue, self._cue[shows_cue]] = 1.0
        distracts = ((self._t > 0) & (self._t < self._go))[:, None]
        observation[:, CUES:GO] = distracts * self._rng.uniform(-1.0, 1.0, (self.num_envs, FEATURES))
        observation[:, GO] = shows_go
        return observation

    def _get_state(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state, "t": self._t.copy(), "cue": self._cue.copy()}

    def _set_state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._t, self._cue = state["t"].copy(), state["cue"].copy()

    def _render(self) -> np.ndarray:
        """Draw the observation: a coloured square for the cue, grey bars for distractors, a white frame for go."""
        picture = np.full((self.num_envs, SIZE, SIZE, 3), 24, np.uint8)
        inside = picture[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
        for i, t in enumerate(self._t):
            if t == 0:
                inside[i] = COLOURS[self._cue[i]]
            elif 0 < t < self._go:
                grey = (128 + 100 * self._observation[i, CUES:GO]).astype(np.uint8)
                inside[i] = np.repeat(grey, inside.shape[2] // FEATURES)[:, None]
            elif t == self._go:
                picture[i] = 255
                inside[i] = 24
        return picture
