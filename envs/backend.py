"""Parts that all backends share: the order of calls, next-step autoreset, and returns and lengths of true episodes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from envs.interface import EnvError, EnvSpec, MultiDiscrete, TimeStep


def environment_seeds(seed: int, num_envs: int) -> list[int]:
    """Return a seed of 31 bits for each environment, drawn from `seed`.

    Simulators would take seed, seed + 1, ...: two actors with neighbouring seeds would then play the same episodes.
    """
    return (np.random.SeedSequence(seed).generate_state(num_envs) >> 1).tolist()


def to_float32(values: np.ndarray) -> np.ndarray:
    """Return `values` in float32; numbers too large for it become infinite."""
    if values.dtype == np.float32:
        return values
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def one_line(error: BaseException) -> str:
    """Return the message of `error` without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


class RawStep(NamedTuple):
    """Result of one step of a simulator, a row for each environment that took it, in their order."""

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    game_over: np.ndarray | None = None
    """End of a true episode, [N] bool; None where that is `terminated | truncated`, as it is not with Atari lives."""


class EpisodeAccount:
    """Raw returns and lengths of true episodes, [N]: a lost life does not end one, a reset step adds nothing."""

    def __init__(self, num_envs: int):
        self._return = np.zeros(num_envs)
        self._length = np.zeros(num_envs, np.int64)

    def discard(self, where: np.ndarray) -> None:
        """Set return and length to 0 `where` [N] bool."""
        self._return[where] = 0.0
        self._length[where] = 0

    def update(self, reward: np.ndarray, counts: np.ndarray, over: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add a step where it `counts`; return (return, length), which are NaN and 0 except where `over`."""
        self._return += reward
        self._length += counts
        if not over.any():
            return np.full(over.shape, np.nan), np.zeros(over.shape, np.int64)
        closed = np.where(over, self._return, np.nan), np.where(over, self._length, 0)
        self.discard(over)
        return closed

    def get_state(self) -> tuple[np.ndarray, np.ndarray]:
        return self._return.copy(), self._length.copy()

    def set_state(self, state: tuple[np.ndarray, np.ndarray]) -> None:
        self._return, self._length = (x.copy() for x in state)


class BackendEnv(ABC):
    """Base of all backends: a `VectorEnv` whose simulator is in the underscored methods that subclasses fill in.

    `reward_scale` multiplies rewards, not the returns of true episodes. Observations and rewards that are not finite
    raise EnvError here, where the environment that sent them is still known.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, render: bool):
        self.spec = spec
        self.num_envs = num_envs
        self.reward_scale = 1.0
        self._can_render = render
        self._account = EpisodeAccount(num_envs)
        self._first = np.ones(num_envs, bool)
        self._steps = 0
        self._ids: np.ndarray | None = None
        self._choices = list(_masked_choices(spec))
        self._phase = "made"

    @abstractmethod
    def _reset(self) -> np.ndarray:
        """Return the first observations, [N, *observation_shape]."""

    @abstractmethod
    def _send(self, action: np.ndarray, ids: np.ndarray | None) -> None:
        """Start a step of the environments `ids`, ascending, or of all; `action` [N, ...] has passed `validate`."""

    @abstractmethod
    def _recv(self) -> RawStep:
        """Wait for the step of the environments that `_send` named."""

    def _render(self) -> np.ndarray:
        """Return pictures [N, H, W, 3] uint8."""
        raise EnvError(f"{self.spec.name} has no pictures on this backend")

    def _get_state(self) -> Any:
        """Return the state of the simulator, of types that a checkpoint can hold."""
        raise EnvError(f"{self.spec.name} cannot be saved on this backend: leave out --save-environments")

    def _set_state(self, state: Any) -> None:  # noqa: B027 (called where `_get_state` gave one)
        """Continue from what `_get_state` returned."""

    def _close(self) -> None:  # noqa: B027 (a simulator in numpy has nothing to release)
        """Release the simulator."""

    def reset(self) -> TimeStep:
        self._expect("made", "reset is called once, before the first step: episodes restart by themselves")
        n = self.num_envs
        self._observation = self._checked(self._reset(), np.zeros(n, bool))
        self._phase = "idle"
        self._first = np.zeros(n, bool)
        return TimeStep(
            observation=self._observation,
            reward=np.zeros(n, np.float32),
            first=np.ones(n, bool),
            terminated=np.zeros(n, bool),
            truncated=np.zeros(n, bool),
            episode_return=np.full(n, np.nan),
            episode_length=np.zeros(n, np.int64),
        )

    def send(self, action: np.ndarray, playing: np.ndarray | None = None) -> None:
        self._expect("idle", "send comes after reset, and after recv has returned the step before")
        action = self.spec.action.validate(action, self.num_envs)
        self._ids = ids_of(playing, self.num_envs)
        self._send(action, self._ids)
        self._phase = "sent"

    def recv(self) -> TimeStep:
        self._expect("sent", "recv comes after send")
        raw = self._recv()
        self._phase = "idle"
        self._steps += 1
        plays = np.ones(self.num_envs, bool)
        if self._ids is not None:
            plays = np.isin(np.arange(self.num_envs), self._ids)
            raw = self._spread(raw, plays)
        first = self._first & plays
        # Some simulators leave a reset step's reward uninitialised, so it is masked by selection, never multiplied.
        reward = np.where(first, 0, raw.reward)
        scaled = to_float32(self.reward_scale * reward)
        if not np.isfinite(scaled).all():
            i = np.flatnonzero(~np.isfinite(scaled))[0]
            raise self._not_finite("reward", reward[i], i)
        truncated = raw.truncated & ~raw.terminated
        ended = raw.terminated | truncated
        self._observation = self._checked(raw.observation, ended)
        self._first = np.where(plays, ended, self._first)
        over = ended if raw.game_over is None else raw.game_over
        episode_return, episode_length = self._account.update(reward, plays & ~first, over)
        return TimeStep(
            observation=self._observation,
            reward=scaled,
            first=first,
            terminated=raw.terminated,
            truncated=truncated,
            episode_return=episode_return,
            episode_length=episode_length,
        )

    def step(self, action: np.ndarray, playing: np.ndarray | None = None) -> TimeStep:
        self.send(action, playing)
        return self.recv()

    def render(self) -> np.ndarray:
        if not self._can_render:
            raise EnvError("made without pictures: pass render=True to make_env")
        self._expect("idle", "render shows the step that recv or reset returned")
        return self._render()

    def get_state(self) -> dict[str, Any]:
        """Return everything that the next steps depend on; EnvError if the simulator cannot be saved."""
        self._expect("idle", "environments are saved between steps")
        own = {name: getattr(self, name).copy() for name in ("_first", "_observation")}
        return {**own, "_steps": self._steps, "account": self._account.get_state(), "simulator": self._get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a `get_state` of environments like these, which have been reset."""
        self._expect("idle", "environments are saved between steps")
        self._first, self._observation = state["_first"].copy(), state["_observation"].copy()
        self._steps = state["_steps"]
        self._account.set_state(state["account"])
        self._set_state(state["simulator"])

    def close(self) -> None:
        if self._phase != "closed":
            self._phase = "closed"
            self._close()

    def _expect(self, phase: str, rule: str) -> None:
        # A simulator would wait for ever for a step that nobody sent.
        if self._phase != phase:
            raise EnvError("the environment is closed" if self._phase == "closed" else rule)

    def _spread(self, raw: RawStep, plays: np.ndarray) -> RawStep:
        """Give the environments that stood still their rows: the last observation, and zeros."""
        whole = [self._observation.copy()]
        whole += [np.zeros(self.num_envs, rows.dtype) for rows in raw[1:] if rows is not None]
        for there, rows in zip(whole, raw, strict=False):
            there[plays] = rows
        return RawStep(*whole)

    def _checked(self, observation: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Return `observation`; EnvError unless it is finite and its masks allow an action.

        An episode's last observation needs no mask, and often has none: there everything is allowed.
        """
        if observation.dtype.kind == "f" and not np.isfinite(observation).all():
            i, *index = np.argwhere(~np.isfinite(observation))[0]
            raise self._not_finite(self._place(index), observation[i, *index], i)
        for choice in self._choices:
            nothing = ~observation[:, choice].any(1)
            if (nothing & ~ended).any():
                i = np.flatnonzero(nothing & ~ended)[0]
                raise EnvError(f"{self.spec.name}: the action mask of environment {i} allows nothing {self._when}")
            if nothing.any():
                observation[nothing, choice] = 1.0
        return observation

    @property
    def _when(self) -> str:
        return f"at step {self._steps}" if self._steps else "at its reset"

    def _not_finite(self, what: str, value: float, i: int) -> EnvError:
        number = "NaN" if np.isnan(value) else f"{value:g}"
        return EnvError(
            f"{self.spec.name}: {what} is {number} {self._when} of environment {i}: an environment must return finite "
            "numbers, within float32"
        )

    def _place(self, index: list[int]) -> str:
        """Return the environment's own name for the number at `index` of an observation, as "position[2]"."""
        parts = self.spec.parts
        if len(parts) > 1:
            (flat,) = index
            for part in parts:
                if flat < part.size:
                    break
                flat -= part.size
            index = list(np.unravel_index(flat, part.shape))
        else:
            (part,) = parts
        return f"{part.name or 'observation'}[{', '.join(map(str, index))}]"


def ids_of(playing: np.ndarray | None, num_envs: int) -> np.ndarray | None:
    """Return the indices of the environments that step, None for all; EnvError unless `playing` is such a mask."""
    if playing is None:
        return None
    playing = np.asarray(playing)
    if playing.shape != (num_envs,) or playing.dtype != bool or not playing.any():
        raise EnvError(f"playing must be {num_envs} booleans, one at least True")
    return None if playing.all() else np.flatnonzero(playing)


def _masked_choices(spec: EnvSpec) -> Iterator[slice]:
    """Yield the slice of an observation that holds the mask of each choice."""
    sizes = spec.action.sizes if isinstance(spec.action, MultiDiscrete) else (getattr(spec.action, "n", 0),)
    start = 0
    for part in spec.parts:
        if part.kind == "mask":
            edges = start + np.cumsum([0, *sizes])
            yield from (slice(a, b) for a, b in zip(edges, edges[1:], strict=False))
        start += part.size
