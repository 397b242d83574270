"""The interface between simulators and everything else: specs, the time step, and the vector environment.

Autoreset is *next step* everywhere. The step that ends an episode carries the true last observation with `terminated`
or `truncated`; the step after it ignores its action, has `first`, reward 0, and the new episode's first observation.
Learners must mask the transition into a `first` step; a truncated episode bootstraps from the observation that came
with the flag.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

HUGE = 1e6
"""Bounds of real actions of this size and more count as no bounds: no policy could usefully start at their scale."""


class EnvError(ValueError):
    """Error in an environment, its options or its actions: one line that says what is wrong and what would be right."""


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
        """Return integer actions [N] as they are; EnvError for a wrong shape or type, or an action outside 0 .. n-1."""
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
        """Return actions [N, *shape] clipped to the cube, float32; EnvError for a wrong shape or type or infinity."""
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

    `kind` says what its numbers are. A `vector` [n] has reals, a `onehot` [n] zeros and ones, a `picture` [C, H, W]
    0..255. `symbols` [H, W, C] is a grid whose cells hold C categories, the c-th below `symbols[c]`. A `mask` [n] is 1
    where an action is allowed; the choices of a MultiDiscrete follow one another.
    """

    name: str
    """Path of the part in the environment's own observation, as "image" or "agent/position"; empty for the whole."""
    kind: Kind
    shape: tuple[int, ...]
    symbols: tuple[int, ...] = ()
    """Number of values that each of a cell's categories may take."""
    unbounded: bool = False
    """True of a vector whose bounds are absent, or wider than [-10, 10]."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> str:
        """Type of the part where it is the whole observation."""
        return "uint8" if self.kind in ("picture", "symbols") else "float32"


@dataclass(frozen=True)
class EnvSpec:
    """Description of one environment for an agent.

    An observation of one part has that part's shape and type. Several parts are flattened and joined into one float32
    vector.
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
        """Return "uint8" where a picture or symbols are the whole observation, else "float32"."""
        return self.parts[0].dtype if len(self.parts) == 1 else "float32"


class TimeStep(NamedTuple):
    """One step of N environments; the first axis of every array is N, in the order of the environments."""

    observation: np.ndarray
    """Observations, [N, *observation_shape]."""
    reward: np.ndarray
    """Reward that came with this observation, [N] float32; 0 on a reset step."""
    first: np.ndarray
    """True where a new episode begins, [N] bool: the action before it was ignored."""
    terminated: np.ndarray
    """True at the last observation of an episode that the environment ended, [N] bool."""
    truncated: np.ndarray
    """True at the last observation of an episode that a time limit cut, [N] bool; never where `terminated` is."""
    episode_return: np.ndarray
    """Raw return where a true episode ended (a game, not a life), [N] float64; NaN elsewhere."""
    episode_length: np.ndarray
    """Agent steps of that episode, [N] int64; 0 elsewhere."""


class VectorEnv(Protocol):
    """N environments stepped together. `send` starts the simulators, `recv` waits; the network can run in between."""

    spec: EnvSpec
    num_envs: int

    def reset(self) -> TimeStep:
        """Return the first step of every environment (`first` is all True). To be called once: episodes restart."""
        ...

    def send(self, action: np.ndarray, playing: np.ndarray | None = None) -> None:
        """Start a step with actions: [N] or [N, K] integers, or [N, *shape] floats.

        `playing` [N] bool says which environments take it. The others stand still: `recv` returns their last
        observation again, with reward 0 and no flag. EnvError for actions that are not valid.
        """
        ...

    def recv(self) -> TimeStep:
        """Wait for the step that `send` started, and return it."""
        ...

    def step(self, action: np.ndarray, playing: np.ndarray | None = None) -> TimeStep:
        """Call `send`, then `recv`."""
        ...

    def render(self) -> np.ndarray:
        """Return pictures of the environments, [N, H, W, 3] uint8; only when made with `render=True`."""
        ...

    def get_state(self) -> Any:
        """Return everything that the next steps depend on; EnvError if the simulator cannot be saved."""
        ...

    def set_state(self, state: Any) -> None:
        """Continue from what `get_state` returned."""
        ...

    def close(self) -> None:
        """Release the simulators; closing twice does no harm."""
        ...
