"""Configuration of an environment: its name, its simulator, its rules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from envs.atari57 import RANDOM_AND_HUMAN
from envs.interface import HUGE, EnvError
from envs.names import atari_name
from envs.suites import SUITES, Preset, joined

Backend = Literal["auto", "envpool", "ale", "gymnasium"]
ATARI57 = "atari57"
FRAME_SKIP = 4
"""Emulator frames of an Atari step."""
ALWAYS = ("name", "suite", "backend", "reward_scale")
"""Options that every environment honours."""


@dataclass(frozen=True)
class EnvConfig:
    """Options of an environment. The defaults are the papers' Atari preprocessing and evaluation (DQN, IMPALA, GTrXL,
    V-MPO). DQN also clips rewards and ends an episode with each life; here neither is done."""

    name: str = "Pong"
    """Atari game (Pong, MsPacman, ...) or any other environment (CartPole-v1, MiniGrid-MemoryS7-v0, recall-30, a
    module:Name-v0 of your own, ...)."""
    suite: Preset = "atari"
    """Kind of environment that the name is of: an Atari game, or anything else (control)."""
    backend: Backend = "auto"
    """Simulator: auto takes envpool where it knows the name, otherwise gymnasium; ale is a second one for Atari."""
    reward_scale: float = 1.0
    """Factor on the rewards that the agent learns from and observes; reported returns are raw."""
    frame_stack: int = 4
    """Number of Atari pictures in an observation, the newest last; one may be enough for a core with a memory."""
    sticky_actions: float = 0.0
    """Probability that Atari repeats the previous action, each frame (0.25 in Machado et al. 2018)."""
    eval_sticky_actions: float | None = None
    """The same probability in evaluations; by default that of training. Sticky actions in training alone keep a policy
    from relying on one exact course of the game, and leave the papers' protocol of evaluation as it is."""
    noop_max: int = 30
    """Largest number of no-ops at the start of an Atari episode; the number is drawn uniformly."""
    episodic_life: bool = False
    """End the learner's episode at a lost Atari life; reported returns are of whole games."""
    max_episode_frames: int = 108_000
    """Time limit of an Atari episode in frames (4 a step): 30 minutes of play."""
    full_actions: bool = False
    """Give all 18 Atari actions, not the game's minimal set; with several games always."""
    max_episode_steps: int = 0
    """Time limit of an episode in steps, of environments other than Atari; 0: the environment's own, or none."""
    action_bound: float = 0.0
    """Cut real actions to [-B, B], for environments whose own bounds are infinite; 0 leaves the bounds as they are."""

    def __post_init__(self) -> None:
        """Check values: EnvError in one line for those that no environment could honour."""
        for option, value, allowed in (
            ("suite", self.suite, get_args(Preset)),
            ("--backend", self.backend, get_args(Backend)),
        ):
            if value not in allowed:
                raise EnvError(f"unknown {option} {value!r}: choose one of {', '.join(allowed)}")
        known = ("auto", *joined(self.suite, lambda suite: tuple(suite.backends)))
        backends = [backend for backend in known if backend in get_args(Backend)]  # not those of tasks built in
        if self.backend not in backends:
            raise EnvError(f"--backend {self.backend} does not run {self.suite}: choose {' or '.join(backends)}")
        if not 0 < self.reward_scale < math.inf:
            raise EnvError(f"--reward-scale must be greater than 0, got {self.reward_scale}")
        if not 1 <= self.frame_stack <= 16:
            raise EnvError(f"--frame-stack must lie in 1..16, got {self.frame_stack}")
        for option in ("sticky_actions", "eval_sticky_actions"):
            value = getattr(self, option)
            if value is not None and not 0.0 <= value < 1.0:
                raise EnvError(f"{flag(option)} is a probability in [0, 1), got {value}")
        if self.noop_max < 0:
            raise EnvError(f"--noop-max must be 0 or more, got {self.noop_max}")
        if self.max_episode_frames < FRAME_SKIP or self.max_episode_frames % FRAME_SKIP:
            multiple = f"a multiple of {FRAME_SKIP} (frames a step)"
            raise EnvError(f"--max-episode-frames must be {multiple}, got {self.max_episode_frames}")
        if self.max_episode_steps < 0:
            raise EnvError(f"--max-episode-steps must be 0 or more, got {self.max_episode_steps}")
        if not 0 <= self.action_bound < HUGE:
            raise EnvError(f"--action-bound must lie in [0, {HUGE:g}), got {self.action_bound}")
        self.check_honoured(self.suite, joined(self.suite, lambda suite: suite.options))
        if len(self.tasks) > 1:
            self._check_tasks()

    def check_honoured(self, who: str, options: Sequence[str]) -> None:
        """Raise EnvError if an option is set that is neither among `options` nor honoured by all environments."""
        for option in fields(self):
            if option.name not in (*ALWAYS, *options) and getattr(self, option.name) != EnvConfig.default(option.name):
                others = ", ".join(suite.name for suite in SUITES if option.name in suite.options)
                raise EnvError(f"{flag(option.name)} is an option of {others}: {who} cannot honour it")

    @staticmethod
    def default(option: str) -> Any:
        return EnvConfig.__dataclass_fields__[option].default

    @property
    def evaluated(self) -> "EnvConfig":
        """Return the configuration for evaluations, which may have other sticky actions."""
        sticky = self.sticky_actions if self.eval_sticky_actions is None else self.eval_sticky_actions
        return replace(self, sticky_actions=sticky)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names in `name`: one, several with commas between, or all of atari57."""
        return tuple(RANDOM_AND_HUMAN) if self.name == ATARI57 else tuple(self.name.split(","))

    def _check_tasks(self) -> None:
        if self.suite != "atari":
            raise EnvError(f"several tasks at once are for Atari: name one of {', '.join(self.tasks)}")
        for game in self.tasks:
            if self.tasks.count(game) > 1:
                raise EnvError(f"{game} is named twice in {self.name}")
            if game not in RANDOM_AND_HUMAN:
                wrong = f"among several games each must be one of the 57 of {ATARI57}, {game!r} is not"
                raise EnvError(f"{wrong}: {_nearest(game)}")


def _nearest(game: str) -> str:
    try:
        return f"did you mean {atari_name(game, tuple(RANDOM_AND_HUMAN))[0]}?"
    except EnvError as error:
        return str(error)


def hidden_options(preset: Preset) -> tuple[str, ...]:
    """Return the options that no environment of a preset honours, which its command line need not show."""
    shown = (*ALWAYS, *joined(preset, lambda suite: suite.options))
    return tuple(option.name for option in fields(EnvConfig) if option.name not in shown)


def flag(option: str) -> str:
    """Return the command line's name of an option."""
    return "--" + option.replace("_", "-")
