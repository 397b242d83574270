"""Atari games and vector-observation tasks simulated by envpool (Weng et al. 2022), the default backend."""

import warnings
from typing import Any

import envpool
import numpy as np
from envpool.registration import registry

from envs.backend import BackendEnv, RawStep, environment_seeds, one_line
from envs.config import FRAME_SKIP, EnvConfig
from envs.interface import Box, Discrete, EnvError, EnvSpec
from envs.spaces import ActionScale, vector_spec

ATARI = "envpool.atari"
# Families that observe vectors. Tasks of other families work too if theirs is one; they are only not suggested.
CONTROL = ("envpool.classic_control", "envpool.mujoco.gym", "envpool.box2d")


def atari_names() -> list[str]:
    """Every game, as in Pong, MsPacman."""
    return [task.removesuffix("-v5") for task, entry in registry.specs.items() if entry[0] == ATARI]


def control_names() -> list[str]:
    """Tasks of the families known to observe vectors."""
    return [
        task
        for task, entry in registry.specs.items()
        if entry[0] in CONTROL and "/" not in task and not task.startswith("CarRacing")
    ]


def is_control(name: str) -> bool:
    """Return whether envpool has a task of this name outside Atari."""
    return name in registry.specs and registry.specs[name][0] != ATARI


class EnvpoolEnv(BackendEnv):
    """One synchronous envpool: `recv` returns all environments in their order, on any number of threads."""

    def __init__(self, spec: EnvSpec, num_envs: int, pool: Any, render: bool):
        super().__init__(spec, num_envs, render)
        self._pool = pool

    def _reset(self) -> np.ndarray:
        self._pool.async_reset()
        return self._pool.recv()[0]

    def _send(self, action: np.ndarray) -> None:
        self._pool.send(action)

    def _render(self) -> np.ndarray:
        try:
            return self._pool.render(np.arange(self.num_envs))
        except RuntimeError as error:
            raise EnvError(f"envpool cannot draw {self.spec.name}: {one_line(error)}") from error

    def _close(self) -> None:
        self._pool.close()
        del self._pool  # its threads and emulators go with the last reference


class EnvpoolAtari(EnvpoolEnv):
    """Observation [frame_stack, 84, 84] uint8: the last agent steps in grey, each the maximum of 2 frames of its 4.

    FIRE is pressed on reset in games that have it (some start only then), and again after a lost life where that ends
    the learner's episode.
    """

    def __init__(self, config: EnvConfig, num_envs: int, seed: int, threads: int, render: bool):
        if config.noop_max < 1:
            raise EnvError("envpool needs noop_max of 1 or more: ale takes 0")  # at 0 it never returns from a reset
        max_episode_steps = config.max_episode_frames // FRAME_SKIP
        pool = _make(
            f"{config.name}-v5",
            num_envs,
            seed,
            threads,
            render,
            frame_skip=FRAME_SKIP,
            stack_num=config.frame_stack,
            noop_max=config.noop_max,
            episodic_life=config.episodic_life,
            reward_clip=False,
            full_action_space=config.full_actions,
            repeat_action_probability=config.sticky_actions,
            max_episode_steps=max_episode_steps,
        )
        action = Discrete(int(pool.action_space.n))
        spec = EnvSpec(config.name, pool.observation_space.shape, "uint8", action, FRAME_SKIP, max_episode_steps)
        super().__init__(spec, num_envs, pool, render)
        self._lives = np.zeros(num_envs, np.int32)

    def _recv(self) -> RawStep:
        observation, reward, terminated, truncated, info = self._pool.recv()
        game_over = info["terminated"].astype(bool)
        # envpool calls a game that is lost on the very last step allowed a truncation.
        terminated |= truncated & game_over
        # The no-ops after a lost life may lose the last one: the next game then starts without a word.
        lost_in_noops = self._first & (info["elapsed_step"] > 0) & (info["lives"] > self._lives)
        self._lives = info["lives"]
        return RawStep(observation, reward, terminated, truncated, game_over | truncated | lost_in_noops)


class EnvpoolControl(EnvpoolEnv):
    """Any envpool task that observes one flat vector: classic control, MuJoCo, Box2D.

    A failure on the very last step allowed counts as truncated: here envpool does not tell the two apart.
    """

    def __init__(self, config: EnvConfig, num_envs: int, seed: int, threads: int, render: bool):
        if render and registry.specs[config.name][0].startswith("envpool.mujoco"):
            # Without a display its OpenGL ends the whole process: there is no error to catch.
            raise EnvError(f"envpool draws {config.name} only with a display: for pictures take backend gymnasium")
        pool = _make(config.name, num_envs, seed, threads, render)
        spec = vector_spec(config.name, pool.observation_space, pool.action_space, pool.spec.config.max_episode_steps)
        self._scale = ActionScale(pool.action_space) if isinstance(spec.action, Box) else None
        super().__init__(spec, num_envs, pool, render)

    def _reset(self) -> np.ndarray:
        return super()._reset().astype(np.float32, copy=False)

    def _send(self, action: np.ndarray) -> None:
        super()._send(self._scale(action) if self._scale else action)

    def _recv(self) -> RawStep:
        observation, reward, terminated, truncated, _ = self._pool.recv()
        return RawStep(observation.astype(np.float32, copy=False), reward, terminated, truncated)


def _make(task: str, num_envs: int, seed: int, threads: int, render: bool, **options: Any) -> Any:
    """A synchronous pool; EnvError in one line for anything that envpool refuses."""
    seeds = environment_seeds(seed, num_envs)
    if render:
        options["render_mode"] = "rgb_array"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium's notes on the precision of bounds
            pool = envpool.make(
                task, env_type="gymnasium", num_envs=num_envs, num_threads=threads, seed=seeds, **options
            )
            _ = pool.observation_space, pool.action_space  # built on first use, with those notes
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise EnvError(f"envpool cannot make {task}: {one_line(error)}") from error
    return pool
