"""Atari simulated by ale-py's own vector environment: a second implementation to hold the first against."""

import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv

from envs.backend import BackendEnv, RawStep, environment_seeds, one_line
from envs.config import FRAME_SKIP, EnvConfig
from envs.interface import Discrete, EnvError, EnvSpec, Part
from envs.suites import Suite


class AleAtari(BackendEnv):
    """Atari with the preprocessing and actions of `EnvpoolAtari`, but FIRE before the no-ops of a reset, not after.

    Where an episode ends, ale leaves the newest frame out of the maximum of two: some pixels of the last observation
    are one agent step old. `render` shows the agent's own view, 84x84 grey. All environments step together: one that
    `playing` leaves out goes on all the same, so it must stay left out from then on.
    """

    def __init__(self, config: EnvConfig, suite: Suite, num_envs: int, seed: int, threads: int, render: bool):
        if config.episodic_life:
            raise EnvError("ale restarts the whole game at a lost life: for episodic_life take backend envpool")
        try:
            self._ale = AtariVectorEnv(
                _rom(config.name),
                num_envs,
                num_threads=threads,
                max_num_frames_per_episode=config.max_episode_frames,
                repeat_action_probability=config.sticky_actions,
                noop_max=config.noop_max,
                frameskip=FRAME_SKIP,
                stack_num=config.frame_stack,
                reward_clipping=False,
                full_action_space=config.full_actions,
            )
        except (AssertionError, RuntimeError, ValueError, OSError) as error:
            raise EnvError(f"ale cannot make {config.name}: {one_line(error)}") from error
        action = Discrete(int(self._ale.single_action_space.n))
        picture = Part("", "picture", self._ale.single_observation_space.shape)
        spec = EnvSpec(config.name, (picture,), action, FRAME_SKIP, config.max_episode_frames // FRAME_SKIP)
        super().__init__(spec, num_envs, render)
        self._seeds = np.array(environment_seeds(seed, num_envs))

    def _reset(self) -> np.ndarray:
        return self._ale.reset(seed=self._seeds)[0]

    def _send(self, action: np.ndarray, ids: np.ndarray | None) -> None:
        self._plays = slice(None) if ids is None else ids
        self._ale.send(action.astype(np.int64, copy=False))

    def _recv(self) -> RawStep:
        observation, reward, terminated, truncated, _ = self._ale.recv()
        return RawStep(*(rows[self._plays] for rows in (observation, reward, terminated, truncated)))

    def _render(self) -> np.ndarray:
        return np.repeat(self._observation[:, -1, :, :, None], 3, axis=-1)

    def _close(self) -> None:
        self._ale.close()
        del self._ale


def _rom(name: str) -> str:
    """Return ale's name of a game: MsPacman -> ms_pacman."""
    return next((rom for rom in roms.get_all_rom_ids() if rom.replace("_", "") == name.lower()), name)
