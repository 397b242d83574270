"""The seam between simulators and everything else: specs, the time step, and what a vector environment does.

Autoreset is *next step* everywhere. The step that ends an episode carries the true last observation with `terminated`
or `truncated`; the step after it ignores its action, has `first`, reward 0, and the new episode's first observation.
Learners must mask the transition into a `first` step; a truncated episode bootstraps from the observation that came
with the flag.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

HUGE = 1e6
"""Bounds of real actions from here on are none: nobody wants a policy to begin there."""


class EnvError(ValueError):
    """One line that says what is wrong with an environment, its options or its actions, and what would be right."""


@dataclass(frozen=True)
class Discrete:
    """Actions 0 .. n-1."""

    n: int
    shape = ()
    dtype = "int64"

    def sample(self, rng: np.random.Generator, num_envs: int) -> np.ndarray:
        """Draw uniform actions [N]."""
        return rng.integers(self.n, size=num_envs)

    def validate(self, action: np.ndarray, num_envs: int) -> np.ndarray:
        """Integer actions [N] as they are; EnvError for a wrong shape or type, or an action outside 0 .. n-1."""
        action = np.asarray(action)
        if action.shape != (num_envs,) or action.dtype.kind not in "iu":
            raise EnvError(f"actions must be integers of shape ({num_envs},), got {action.dtype} {action.shape}")
        # Simulators index arrays with these unchecked: an action out of range can crash the process.
        if action.min() < 0 or action.max() >= self.n:
            wrong = action[(action < 0) | (action >= self.n)][0]
            raise EnvError(f"actions must lie in 0..{self.n - 1}, got {wrong}")
        return action


@dataclass(frozen=True)
class MultiDiscrete:
    """K choices at once, the k-th of 0 .. sizes[k]-1."""

    sizes: tuple[int, ...]
    dtype = "int64"

    @property
    def shape(self) -> tuple[int]:
        return (len(self.sizes),)

    def sample(self, rng: np.random.Generator, num_envs: int) -> np.ndarray:
        """Draw uniform actions [N, K]."""
        return rng.integers(self.sizes, size=(num_envs, *self.shape))

    def validate(self, action: np.ndarray, num_envs: int) -> np.ndarray:
        """Return integer actions [N, K] as they are; EnvError for a wrong shape or type, or an action out of range."""
        action = np.asarray(action)
        shape = (num_envs, len(self.sizes))
        if action.shape != shape or action.dtype.kind not in "iu":
            raise EnvError(f"actions must be integers of shape {shape}, got {action.dtype} {action.shape}")
        wrong = (action < 0) | (action >= self.sizes)
        if wrong.any():
            raise EnvError(
                f"actions must be at least 0 and less than {self.sizes}, got {action[wrong.any(1)][0].tolist()}"
            )
        return action


@dataclass(frozen=True)
class Box:
    """Real actions in the cube [-1, 1]^shape; a backend rescales them to its simulator's own bounds."""

    shape: tuple[int, ...]
    dtype = "float32"

    def sample(self, rng: np.random.Generator, num_envs: int) -> np.ndarray:
        """Draw uniform actions [N, *shape]."""
        return rng.uniform(-1, 1, (num_envs, *self.shape)).astype(np.float32)

    def validate(self, action: np.ndarray, num_envs: int) -> np.ndarray:
        """Actions [N, *shape] clipped to the cube, float32; EnvError for a wrong shape or type, NaN or infinity."""
        action = np.asarray(action)
        shape = (num_envs, *self.shape)
        if action.shape != shape or action.dtype.kind != "f":
            raise EnvError(f"actions must be floats of shape {shape}, got {action.dtype} {action.shape}")
        if not np.isfinite(action).all():
            raise EnvError("actions must be finite, got NaN or infinity")
        return action.astype(np.float32, copy=False).clip(-1.0, 1.0)


Action = Discrete | MultiDiscrete | Box

Kind = Literal["vector", "onehot", "picture", "symbols", "mask"]


@dataclass(frozen=True)
class Part:
    """One part of an observation.

    `kind` says what its numbers are: a `vector` [n] of reals; `onehot` [n], zeros and ones; a `picture` [C, H, W] of
    0..255; `symbols` [H, W, C], a grid whose cells hold C numbers, the c-th one of `symbols[c]`, that name things; a
    `mask` [n], 1 where an action is allowed, of all choices of a MultiDiscrete in a row.
    """

    name: str
    """Where the environment's own observation has it, as "image" or "agent/position"; empty for the whole."""
    kind: Kind
    shape: tuple[int, ...]
    symbols: tuple[int, ...] = ()
    """How many values each of a cell's numbers may take."""
    unbounded: bool = False
    """A vector whose bounds are absent, or wider than [-10, 10]."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> str:
        """Type of the part where it is the whole observation."""
        return "uint8" if self.kind in ("picture", "symbols") else "float32"


@dataclass(frozen=True)
class EnvSpec:
    """Description of one environment, as an agent has to know it.

    An observation of one part has that part's shape and type. Several parts are one float32 vector: flattened, one
    after the other.
    """

    name: str
    parts: tuple[Part, ...]
    action: Action
    frames_per_step: int
    """Emulator frames that one agent step takes: 4 for Atari, 1 elsewhere."""
    max_episode_steps: int
    """Time limit in agent steps; 0 where the environment alone knows when an episode ends."""

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return self.parts[0].shape if len(self.parts) == 1 else (sum(part.size for part in self.parts),)

    @property
    def observation_dtype(self) -> str:
        """ "uint8" for pictures and symbols alone, "float32" for all else."""
        return self.parts[0].dtype if len(self.parts) == 1 else "float32"


class TimeStep(NamedTuple):
    """One step of N environments; every array starts with N and is in the order of the environments."""

    observation: np.ndarray
    """[N, *observation_shape]"""
    reward: np.ndarray
    """[N] float32: reward received on arriving here; 0 on a reset step."""
    first: np.ndarray
    """[N] bool: begins a new episode, the action that led here was ignored."""
    terminated: np.ndarray
    """[N] bool: the true last observation of an episode that ended."""
    truncated: np.ndarray
    """[N] bool: the same, cut by the time limit; never together with `terminated`."""
    episode_return: np.ndarray
    """[N] float64: raw return where a true episode ended (the end of a game, never of a life), NaN elsewhere."""
    episode_length: np.ndarray
    """[N] int64: agent steps of that episode, 0 elsewhere."""


class VectorEnv(Protocol):
    """N environments stepped together. `send` starts the simulators, `recv` waits for them: think in between."""

    spec: EnvSpec
    num_envs: int

    def reset(self) -> TimeStep:
        """First step of every environment (`first` is all True). Call it once; episodes restart by themselves."""
        ...

    def send(self, action: np.ndarray, playing: np.ndarray | None = None) -> None:
        """Start a step with actions: [N] or [N, K] integers, or [N, *shape] floats.

        `playing` [N] bool says which environments take it. The others stand still: `recv` returns their last
        observation again, with reward 0 and no flag. EnvError for actions that are not valid.
        """
        ...

    def recv(self) -> TimeStep:
        """Wait for the step that `send` started."""
        ...

    def step(self, action: np.ndarray, playing: np.ndarray | None = None) -> TimeStep:
        """`send`, then `recv`."""
        ...

    def render(self) -> np.ndarray:
        """[N, H, W, 3] uint8 pictures of the environments; only when made with `render=True`."""
        ...

    def close(self) -> None:
        """Release the simulators; closing twice does no harm."""
        ...
