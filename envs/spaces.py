"""From gymnasium's spaces, which envpool speaks too, to ours."""

import gymnasium
import numpy as np

from envs.interface import Box, Discrete, EnvError, EnvSpec


class ActionScale:
    """The cube [-1, 1]^k onto a simulator's own bounds."""

    def __init__(self, space: gymnasium.spaces.Box):
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise EnvError("the task's actions have no bounds: they cannot be rescaled from [-1, 1]")
        self._dtype = space.dtype
        self._centre = (space.high + space.low) / 2
        self._half_range = (space.high - space.low) / 2

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """[N, k] float32 in [-1, 1] -> [N, k] in the simulator's bounds and type."""
        return (self._centre + action * self._half_range).astype(self._dtype, copy=False)


def vector_spec(
    name: str, observation: gymnasium.Space, action: gymnasium.Space, max_episode_steps: int | None
) -> EnvSpec:
    """Spec of a task that observes one flat vector of reals; EnvError where it does not."""
    if (
        not isinstance(observation, gymnasium.spaces.Box)
        or len(observation.shape) != 1
        or not np.issubdtype(observation.dtype, np.floating)
    ):
        raise EnvError(f"{name} does not observe one flat vector of reals: take another task, as CartPole-v1")
    if isinstance(action, gymnasium.spaces.Discrete) and action.start == 0:
        kind: Discrete | Box = Discrete(int(action.n))
    elif isinstance(action, gymnasium.spaces.Box) and len(action.shape) == 1:
        kind = Box(tuple(action.shape))
    else:
        raise EnvError(f"{name} has actions that are neither 0..n-1 nor vectors of reals: take another, as CartPole-v1")
    if max_episode_steps is None:
        raise EnvError(f"{name} has no time limit: an episode might never end")
    return EnvSpec(name, tuple(observation.shape), "float32", kind, 1, int(max_episode_steps))
