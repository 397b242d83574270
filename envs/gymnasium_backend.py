"""Vector-observation tasks simulated by gymnasium itself, one after the other: slow, and any registered task."""

import warnings

import gymnasium
import numpy as np

from envs.backend import BackendEnv, RawStep, environment_seeds, one_line
from envs.config import EnvConfig
from envs.interface import Box, EnvError
from envs.spaces import ActionScale, vector_spec


def task_names() -> list[str]:
    """Everything registered with gymnasium, whatever it observes."""
    return sorted(gymnasium.registry)


class GymnasiumControl(BackendEnv):
    """A `SyncVectorEnv`: it steps in `recv`, in this thread."""

    def __init__(self, config: EnvConfig, num_envs: int, seed: int, render: bool):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notes on newer versions of a task
                self._env = gymnasium.make_vec(
                    config.name,
                    num_envs,
                    vectorization_mode="sync",
                    render_mode="rgb_array" if render else None,
                    vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP},
                )
        except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
            raise EnvError(f"gymnasium cannot make {config.name}: {one_line(error)}") from error
        space = self._env.single_action_space
        spec = vector_spec(
            config.name, self._env.single_observation_space, space, gymnasium.spec(config.name).max_episode_steps
        )
        self._scale = ActionScale(space) if isinstance(spec.action, Box) else None
        super().__init__(spec, num_envs, render)
        self._seeds = environment_seeds(seed, num_envs)

    def _reset(self) -> np.ndarray:
        observation, _ = self._env.reset(seed=self._seeds)
        return observation.astype(np.float32, copy=False)

    def _send(self, action: np.ndarray) -> None:
        self._action = self._scale(action) if self._scale else action

    def _recv(self) -> RawStep:
        observation, reward, terminated, truncated, _ = self._env.step(self._action)
        return RawStep(observation.astype(np.float32, copy=False), reward, terminated, truncated)

    def _render(self) -> np.ndarray:
        try:
            return np.stack(self._env.render())
        except (gymnasium.error.Error, ImportError) as error:
            raise EnvError(f"gymnasium cannot draw {self.spec.name}: {one_line(error)}") from error

    def _close(self) -> None:
        self._env.close()
