"""Several tasks behind one interface: environments of each, side by side."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from envs.interface import EnvError, TimeStep, VectorEnv


def share_out(tasks: int, num_envs: int) -> np.ndarray:
    """Which of `tasks` each environment plays, [N] int64, in blocks: as evenly as can be."""
    return np.arange(num_envs) * tasks // num_envs


class MultiTask:
    """A `VectorEnv` of the environments of `parts`, in their order; all must show and take the same."""

    def __init__(self, parts: Sequence[VectorEnv], name: str):
        self.spec = replace(parts[0].spec, name=name)
        for part in parts:
            if replace(part.spec, name=name) != self.spec:
                raise EnvError(f"{parts[0].spec.name} and {part.spec.name} differ in what they show or take")
        self.num_envs = sum(part.num_envs for part in parts)
        self._parts = parts
        self._starts = np.cumsum([part.num_envs for part in parts])[:-1]

    def reset(self) -> TimeStep:
        return _joined([part.reset() for part in self._parts])

    def send(self, action: np.ndarray) -> None:
        action = self.spec.action.validate(action, self.num_envs)
        for part, own in zip(self._parts, np.split(action, self._starts), strict=True):
            part.send(own)

    def recv(self) -> TimeStep:
        return _joined([part.recv() for part in self._parts])

    def step(self, action: np.ndarray) -> TimeStep:
        self.send(action)
        return self.recv()

    def render(self) -> np.ndarray:
        return np.concatenate([part.render() for part in self._parts])

    def close(self) -> None:
        for part in self._parts:
            part.close()


def _joined(steps: list[TimeStep]) -> TimeStep:
    return TimeStep(*map(np.concatenate, zip(*steps, strict=True)))
