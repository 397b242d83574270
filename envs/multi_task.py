"""Several tasks behind one interface: environments of each, side by side."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from envs.backend import ids_of
from envs.interface import EnvError, TimeStep, VectorEnv


def share_out(tasks: int, num_envs: int) -> np.ndarray:
    """Return the task, 0 .. tasks-1, of each environment, [N] int64: in blocks as even as possible."""
    return np.arange(num_envs) * tasks // num_envs


class MultiTask:
    """A `VectorEnv` of the environments of `parts`, in their order, whose observations and actions must be alike."""

    def __init__(self, parts: Sequence[VectorEnv], name: str):
        self.spec = replace(parts[0].spec, name=name)
        for part in parts:
            if replace(part.spec, name=name) != self.spec:
                raise EnvError(f"{parts[0].spec.name} and {part.spec.name} differ in their observations or actions")
        self.num_envs = sum(part.num_envs for part in parts)
        self._parts = parts
        self._starts = np.cumsum([part.num_envs for part in parts])[:-1]
        self._steps: list[TimeStep | None] = [None] * len(parts)
        self._plays = [True] * len(parts)

    def reset(self) -> TimeStep:
        self._steps = [part.reset() for part in self._parts]
        return _joined(self._steps)

    def send(self, action: np.ndarray, playing: np.ndarray | None = None) -> None:
        action = self.spec.action.validate(action, self.num_envs)
        plays = np.ones(self.num_envs, bool) if ids_of(playing, self.num_envs) is None else playing
        split = zip(self._parts, np.split(action, self._starts), np.split(plays, self._starts), strict=True)
        self._plays = []
        for part, own, own_plays in split:
            self._plays.append(bool(own_plays.any()))
            if own_plays.any():
                part.send(own, own_plays)

    def recv(self) -> TimeStep:
        each = zip(self._parts, self._plays, self._steps, strict=True)
        self._steps = [part.recv() if plays else standing(step) for part, plays, step in each]
        return _joined(self._steps)

    def step(self, action: np.ndarray, playing: np.ndarray | None = None) -> TimeStep:
        self.send(action, playing)
        return self.recv()

    def render(self) -> np.ndarray:
        return np.concatenate([part.render() for part in self._parts])

    def get_state(self) -> Any:
        raise EnvError("several games at once cannot be saved: leave out --save-environments")

    def set_state(self, state: Any) -> None:
        self.get_state()  # there is none to continue from

    def close(self) -> None:
        for part in self._parts:
            part.close()


def standing(step: TimeStep) -> TimeStep:
    """Return the step of environments that stand still: the observation of `step`, reward 0, no flag."""
    nothing = TimeStep(*map(np.zeros_like, step))
    return nothing._replace(observation=step.observation, episode_return=np.full_like(step.episode_return, np.nan))


def _joined(steps: list[TimeStep]) -> TimeStep:
    return TimeStep(*map(np.concatenate, zip(*steps, strict=True)))
