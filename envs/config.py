"""Which environment, simulated by what, under which rules."""

import difflib
import math
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from envs.atari57 import RANDOM_AND_HUMAN
from envs.interface import EnvError

Suite = Literal["atari", "control"]
Backend = Literal["envpool", "ale", "gymnasium"]
BACKENDS: dict[str, tuple[str, ...]] = {"atari": ("envpool", "ale"), "control": ("envpool", "gymnasium")}
ATARI_ONLY = ("frame_stack", "sticky_actions", "eval_sticky_actions", "noop_max", "episodic_life")
ATARI_ONLY += ("max_episode_frames", "full_actions")
ATARI57 = "atari57"
FRAME_SKIP = 4
"""Emulator frames of an Atari step."""


@dataclass(frozen=True)
class EnvConfig:
    """Defaults are the Atari protocol of the papers (DQN, IMPALA, GTrXL, V-MPO). Reported returns are raw, always."""

    name: str = "Pong"
    """Atari game (Pong, MsPacman, ...) or control task (CartPole-v1, Pendulum-v1, recall-30, ...)."""
    suite: Suite = "atari"
    """Family of environments: Atari from pixels, or control from vector observations."""
    backend: Backend = "envpool"
    """Simulator: envpool runs both suites, ale Atari, gymnasium control."""
    reward_scale: float = 1.0
    """Multiplies the reward that the agent learns from, and sees; reported returns are raw all the same."""
    frame_stack: int = 4
    """Pictures of Atari that an observation holds, the newest last; a core with a memory may do with one."""
    sticky_actions: float = 0.0
    """Probability that Atari repeats the previous action, each frame (0.25 in Machado et al. 2018)."""
    eval_sticky_actions: float | None = None
    """The same in evaluations; by default as in training. Chance in training alone keeps a policy from relying on one
    exact course of the game, and leaves the papers' protocol of evaluation as it is."""
    noop_max: int = 30
    """Atari episodes start with up to this many no-ops, in number drawn at random."""
    episodic_life: bool = False
    """Whether losing an Atari life ends the learner's episode; reported returns are of whole games all the same."""
    max_episode_frames: int = 108_000
    """Time limit of an Atari episode in frames (4 a step): 30 minutes of play."""
    full_actions: bool = False
    """All 18 Atari actions, not the game's minimal set; with several games always."""

    def __post_init__(self) -> None:
        """EnvError, one line, for values that no environment could honour."""
        for option, value, allowed in (
            ("suite", self.suite, get_args(Suite)),
            ("backend", self.backend, get_args(Backend)),
        ):
            if value not in allowed:
                raise EnvError(f"unknown {option} {value!r}: choose one of {', '.join(allowed)}")
        if self.backend not in BACKENDS[self.suite]:
            raise EnvError(
                f"backend {self.backend} does not run {self.suite}: choose {' or '.join(BACKENDS[self.suite])}"
            )
        if not 0 < self.reward_scale < math.inf:
            raise EnvError(f"reward_scale must be greater than 0, got {self.reward_scale}")
        if not 1 <= self.frame_stack <= 16:
            raise EnvError(f"frame_stack must lie in 1..16, got {self.frame_stack}")
        for option in ("sticky_actions", "eval_sticky_actions"):
            value = getattr(self, option)
            if value is not None and not 0.0 <= value < 1.0:
                raise EnvError(f"{option} is a probability in [0, 1), got {value}")
        if self.noop_max < 0:
            raise EnvError(f"noop_max must be 0 or more, got {self.noop_max}")
        if self.max_episode_frames < FRAME_SKIP or self.max_episode_frames % FRAME_SKIP:
            multiple = f"a multiple of {FRAME_SKIP} (frames a step)"
            raise EnvError(f"max_episode_frames must be {multiple}, got {self.max_episode_frames}")
        if self.suite != "atari":
            defaults = {field.name: field.default for field in fields(self)}
            for option in ATARI_ONLY:
                if getattr(self, option) != defaults[option]:
                    raise EnvError(f"{option} is an Atari option: {self.suite} tasks cannot honour it")
        if len(self.tasks) > 1:
            self._check_tasks()

    @property
    def evaluated(self) -> "EnvConfig":
        """The environment as evaluations have it."""
        sticky = self.sticky_actions if self.eval_sticky_actions is None else self.eval_sticky_actions
        return replace(self, sticky_actions=sticky)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names in `name`: one, several with commas between, or all of atari57."""
        return tuple(RANDOM_AND_HUMAN) if self.name == ATARI57 else tuple(self.name.split(","))

    def _check_tasks(self) -> None:
        if self.suite != "atari":
            raise EnvError(f"several tasks at once are for Atari: name one of {', '.join(self.tasks)}")
        for game in self.tasks:
            if self.tasks.count(game) > 1:
                raise EnvError(f"{game} is named twice in {self.name}")
            if game not in RANDOM_AND_HUMAN:
                nearest = difflib.get_close_matches(game, RANDOM_AND_HUMAN, n=3)
                hint = f"did you mean {' or '.join(nearest)}?" if nearest else "see envs/atari57.py"
                raise EnvError(f"among several games each must be one of the 57 of {ATARI57}, {game!r} is not: {hint}")
