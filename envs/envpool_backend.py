"""Atari games and many other tasks simulated by envpool (Weng et al. 2022), the default backend."""

import warnings
from typing import Any

import envpool
import numpy as np
from envpool.registration import registry

from envs.backend import BackendEnv, RawStep, environment_seeds, one_line
from envs.config import FRAME_SKIP, EnvConfig
from envs.interface import Discrete, EnvError, EnvSpec, Part
from envs.names import unknown
from envs.spaces import Reader, action_of
from envs.suites import Suite, known_names

NO_LIMIT = 2**31 - 1
"""Time limit that envpool states for tasks without one; some have 0."""


class EnvpoolEnv(BackendEnv):
    """A synchronous envpool: `recv` returns the environments that `send` stepped, in that order, on any threads."""

    def __init__(self, spec: EnvSpec, num_envs: int, pool: Any, render: bool):
        super().__init__(spec, num_envs, render)
        self._pool = pool

    def _reset(self) -> np.ndarray:
        self._pool.async_reset()
        return self._pool.recv()[0]

    def _send(self, action: np.ndarray, ids: np.ndarray | None) -> None:
        if ids is None:
            self._pool.send(action)
        else:
            self._pool.send(action[ids], ids.astype(np.int32))

    def _render(self) -> np.ndarray:
        try:
            return self._pool.render(np.arange(self.num_envs))
        except RuntimeError as error:
            raise EnvError(f"envpool cannot draw {self.spec.name}: {one_line(error)}") from error

    def _close(self) -> None:
        self._pool.close()
        del self._pool  # its threads and emulators go with the last reference


class EnvpoolAtari(EnvpoolEnv):
    """Atari games with observations [frame_stack, 84, 84] uint8: the last agent steps in grey, of each the maximum over
    the last 2 of its 4 frames.

    FIRE is pressed on reset in games that have it (some start only then), and again after a lost life where that ends
    the learner's episode. Games without it start with one no-op at least, also where `noop_max` is 0.
    """

    def __init__(self, config: EnvConfig, suite: Suite, num_envs: int, seed: int, threads: int, render: bool):
        max_episode_steps = config.max_episode_frames // FRAME_SKIP
        pool = _make(
            f"{config.name}-v5",
            num_envs,
            seed,
            threads,
            render,
            frame_skip=FRAME_SKIP,
            stack_num=config.frame_stack,
            noop_max=max(1, config.noop_max),  # at 0 it would never return from a reset
            episodic_life=config.episodic_life,
            reward_clip=False,
            full_action_space=config.full_actions,
            repeat_action_probability=config.sticky_actions,
            max_episode_steps=max_episode_steps,
        )
        action = Discrete(int(pool.action_space.n))
        picture = Part("", "picture", pool.observation_space.shape)
        spec = EnvSpec(config.name, (picture,), action, FRAME_SKIP, max_episode_steps)
        super().__init__(spec, num_envs, pool, render)
        self._lives = np.zeros(num_envs, np.int32)

    def _recv(self) -> RawStep:
        observation, reward, terminated, truncated, info = self._pool.recv()
        game_over = info["terminated"].astype(bool)
        # envpool flags a game that is lost on its last allowed step as truncated.
        terminated |= truncated & game_over
        plays = slice(None) if self._ids is None else self._ids
        # The no-ops after a lost life may lose the last one: the next game then starts without a flag.
        lost_in_noops = self._first[plays] & (info["elapsed_step"] > 0) & (info["lives"] > self._lives[plays])
        self._lives[plays] = info["lives"]
        return RawStep(observation, reward, terminated, truncated, game_over | truncated | lost_in_noops)


class EnvpoolControl(EnvpoolEnv):
    """Any other task of envpool: classic control, MuJoCo, Box2D, dm_control, MiniGrid, ...

    A failure on the last allowed step counts as truncated: here envpool does not distinguish the two.
    """

    def __init__(self, config: EnvConfig, suite: Suite, num_envs: int, seed: int, threads: int, render: bool):
        name = config.name
        if name not in registry.specs:
            raise EnvError(unknown("environment", name, known_names(suite.name)))
        if render and registry.specs[name][0].startswith("envpool.mujoco"):
            # Without a display its OpenGL kills the process: there is no error to catch.
            other = ": for pictures take backend gymnasium" if "gymnasium" in suite.backends else ""
            raise EnvError(f"envpool draws {name} only with a display{other}")
        limit = {"max_episode_steps": config.max_episode_steps} if config.max_episode_steps else {}
        pool = _make(name, num_envs, seed, threads, render, **limit)
        action, self._own_action = action_of(name, pool.action_space, config.action_bound)
        self._read = Reader(name, pool.observation_space, action, suite.symbols, suite.ignored)
        limit = int(pool.spec.config.max_episode_steps)
        super().__init__(
            EnvSpec(name, self._read.parts, action, 1, 0 if limit >= NO_LIMIT else limit), num_envs, pool, render
        )

    def _reset(self) -> np.ndarray:
        observation = self._read(super()._reset())
        if len(observation) != self.num_envs:
            raise EnvError(f"{self.spec.name} is for several players: take an environment for one")
        return observation

    def _send(self, action: np.ndarray, ids: np.ndarray | None) -> None:
        super()._send(self._own_action(action), ids)

    def _recv(self) -> RawStep:
        observation, reward, terminated, truncated, _ = self._pool.recv()
        return RawStep(self._read(observation), reward, terminated, truncated)


def _make(task: str, num_envs: int, seed: int, threads: int, render: bool, **options: Any) -> Any:
    """Make a synchronous pool; EnvError in one line for anything that envpool refuses."""
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
