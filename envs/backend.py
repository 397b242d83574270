"""What every backend shares: the order of calls, next-step autoreset, and the accounting of true episodes."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

from envs.interface import EnvError, EnvSpec, TimeStep


def environment_seeds(seed: int, num_envs: int) -> list[int]:
    """A seed for each environment, 31 bits, scattered.

    Simulators number them seed, seed + 1, ...: the pools of neighbouring seeds, as two actors have, would then hold the
    same environments.
    """
    return (np.random.SeedSequence(seed).generate_state(num_envs) >> 1).tolist()


def one_line(error: Exception) -> str:
    """What a simulator complains of."""
    return " ".join(str(error).split())


class RawStep(NamedTuple):
    """What a simulator says after one step of N environments, in their order."""

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    game_over: np.ndarray | None = None
    """[N] bool: a true episode ended here, where that is not `terminated | truncated` (Atari lives)."""


class EpisodeAccount:
    """Raw returns and lengths of true episodes, [N]: a lost life closes nothing, a reset step counts for nothing."""

    def __init__(self, num_envs: int):
        self._return = np.zeros(num_envs)
        self._length = np.zeros(num_envs, np.int64)

    def discard(self, where: np.ndarray) -> None:
        """Forget what has added up where [N] bool."""
        self._return[where] = 0.0
        self._length[where] = 0

    def update(self, reward: np.ndarray, first: np.ndarray, over: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add a step; (return, length), which are NaN and 0 except where `over`."""
        self._return += reward
        self._length += ~first
        if not over.any():
            return np.full(over.shape, np.nan), np.zeros(over.shape, np.int64)
        closed = np.where(over, self._return, np.nan), np.where(over, self._length, 0)
        self.discard(over)
        return closed


class BackendEnv(ABC):
    """A `VectorEnv` from what a simulator does: subclasses fill in the methods with an underscore.

    `reward_scale` multiplies rewards, not the returns of true episodes.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, render: bool):
        self.spec = spec
        self.num_envs = num_envs
        self.reward_scale = 1.0
        self._can_render = render
        self._account = EpisodeAccount(num_envs)
        self._first = np.ones(num_envs, bool)
        self._phase = "made"

    @abstractmethod
    def _reset(self) -> np.ndarray:
        """First observations."""

    @abstractmethod
    def _send(self, action: np.ndarray) -> None:
        """Start a step; the action is valid, reals lie in [-1, 1]."""

    @abstractmethod
    def _recv(self) -> RawStep:
        """Wait for the step."""

    def _render(self) -> np.ndarray:
        """[N, H, W, 3] uint8."""
        raise EnvError(f"{self.spec.name} has no pictures on this backend")

    def _close(self) -> None:  # noqa: B027 (a simulator in numpy has nothing to release)
        """Release the simulator."""

    def reset(self) -> TimeStep:
        self._expect("made", "reset is called once, before the first step: episodes restart by themselves")
        n = self.num_envs
        observation = self._reset()
        self._phase = "idle"
        self._first = np.zeros(n, bool)
        return TimeStep(
            observation=observation,
            reward=np.zeros(n, np.float32),
            first=np.ones(n, bool),
            terminated=np.zeros(n, bool),
            truncated=np.zeros(n, bool),
            episode_return=np.full(n, np.nan),
            episode_length=np.zeros(n, np.int64),
        )

    def send(self, action: np.ndarray) -> None:
        self._expect("idle", "send comes after reset, and after recv has returned the step before")
        self._send(self.spec.action.validate(action, self.num_envs))
        self._phase = "sent"

    def recv(self) -> TimeStep:
        self._expect("sent", "recv comes after send")
        raw = self._recv()
        self._phase = "idle"
        first = self._first
        # Some simulators leave a reset step's reward uninitialised, so it is masked by selection, never multiplied.
        reward = np.where(first, 0, raw.reward)
        truncated = raw.truncated & ~raw.terminated
        self._first = raw.terminated | truncated
        over = self._first if raw.game_over is None else raw.game_over
        episode_return, episode_length = self._account.update(reward, first, over)
        return TimeStep(
            observation=raw.observation,
            reward=(self.reward_scale * reward).astype(np.float32, copy=False),
            first=first,
            terminated=raw.terminated,
            truncated=truncated,
            episode_return=episode_return,
            episode_length=episode_length,
        )

    def step(self, action: np.ndarray) -> TimeStep:
        self.send(action)
        return self.recv()

    def render(self) -> np.ndarray:
        if not self._can_render:
            raise EnvError("made without pictures: pass render=True to make_env")
        self._expect("idle", "render shows the step that recv or reset returned")
        return self._render()

    def close(self) -> None:
        if self._phase != "closed":
            self._phase = "closed"
            self._close()

    def _expect(self, phase: str, rule: str) -> None:
        # A simulator waits for ever for a step that nobody sent.
        if self._phase != phase:
            raise EnvError("the environment is closed" if self._phase == "closed" else rule)
