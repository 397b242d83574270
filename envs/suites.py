"""The suites of environments, an entry each: their names, their simulators, their options.

Another suite is another entry, and another backend if none of these can make it. A backend is a class that takes
`(config, suite, num_envs, seed, threads, render)`. It is imported when the first environment is made, because
simulators are slow to import.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from envs.interface import EnvError
from envs.names import unknown

Preset = Literal["atari", "control"]

ENVPOOL = "envs.envpool_backend:EnvpoolControl"
GYMNASIUM = "envs.gymnasium_backend:GymnasiumEnv"


@dataclass(frozen=True)
class Suite:
    """A family of environments with the same backends, options and preset."""

    name: str
    preset: Preset
    """Name of the defaults that its runs start from."""
    backends: Mapping[str, str]
    """Simulators, name to "module:class"; the first is the default."""
    pattern: str | None = None
    """Regular expression of its names; None where its names are those of its families."""
    families: tuple[str, ...] = ()
    """Families of envpool's registry that belong to it."""
    package: str = ""
    """Package of the extra `memory` that registers it with gymnasium when imported."""
    options: tuple[str, ...] = ()
    """Options of `EnvConfig` that it honours, besides those that all do."""
    video_fps: int = 30
    symbols: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Parts of an observation that are grids of symbols, and how many values each number of a cell may take."""
    ignored: tuple[str, ...] = ()
    """Parts of an observation that are left out."""
    notice: str = ""
    """Line to print when a run starts."""
    examples: tuple[str, ...] = ()
    """Names to suggest that no registry has."""

    def has(self, name: str) -> bool:
        """Return whether an environment of this name would be in the suite, whether or not it exists."""
        if self.pattern is not None:
            return re.match(self.pattern, name, re.IGNORECASE) is not None
        return name in envpool_names(self.families)


ATARI = Suite(
    "atari",
    "atari",
    {"envpool": "envs.envpool_backend:EnvpoolAtari", "ale": "envs.ale_backend:AleAtari"},
    families=("atari",),
    options=(
        "frame_stack",
        "sticky_actions",
        "eval_sticky_actions",
        "noop_max",
        "episodic_life",
        "max_episode_frames",
        "full_actions",
    ),
    video_fps=15,
)
RECALL = Suite(
    "recall",
    "control",
    {"envpool": "envs.recall:Recall"},  # built in, but old configurations have envpool for the default backend
    pattern=r"recall(-\d|-?$)",
    video_fps=10,
    examples=("recall-30", "recall-100"),
)
NUMPAD = Suite(
    "numpad",
    "control",
    {"numpy": "envs.numpad:Numpad"},
    pattern=r"numpad(-\d|-?$)",
    video_fps=10,
    examples=("numpad-2", "numpad-3"),
)
POPGYM = Suite(
    "popgym",
    "control",
    {"gymnasium": GYMNASIUM},
    pattern=r"popgym-",
    package="popgym",
    options=("max_episode_steps", "action_bound"),
    video_fps=10,
)
MINIGRID = Suite(
    "minigrid",
    "control",
    {"envpool": ENVPOOL, "gymnasium": GYMNASIUM},
    pattern=r"(MiniGrid|BabyAI)-",
    families=("minigrid",),
    package="minigrid",
    options=("max_episode_steps",),
    video_fps=10,
    symbols={"image": (11, 6, 3)},  # object, colour, state
    ignored=("mission",),
    notice="MiniGrid: agents observe the grid and their direction, not the text of the mission",
)
DM_CONTROL = Suite(
    "dm_control",
    "control",
    {"envpool": ENVPOOL},
    families=("mujoco.dmc",),
    options=("max_episode_steps", "action_bound"),
)
MUJOCO = Suite(
    "mujoco",
    "control",
    {"envpool": ENVPOOL, "gymnasium": GYMNASIUM},
    families=("mujoco.gym",),
    options=("max_episode_steps", "action_bound"),
)
CONTROL = Suite(
    "control",
    "control",
    {"envpool": ENVPOOL, "gymnasium": GYMNASIUM},
    families=("classic_control", "box2d", "toy_text"),
    options=("max_episode_steps", "action_bound"),
)
OTHERS = Suite(
    "envpool",
    "control",
    {"envpool": ENVPOOL},
    families=("highway", "jumanji", "procgen", "vizdoom")
    + ("mujoco.robotics", "mujoco.metaworld", "mujoco.myosuite", "mujoco.playground"),
    options=("max_episode_steps", "action_bound"),
)
ANY = Suite(
    "gymnasium",
    "control",
    {"gymnasium": GYMNASIUM},
    pattern=r"(?!ALE/)",  # registered only if ale-py happens to be imported, and of the suite atari
    options=("max_episode_steps", "action_bound"),
)
SUITES = (ATARI, RECALL, NUMPAD, POPGYM, MINIGRID, DM_CONTROL, MUJOCO, CONTROL, OTHERS, ANY)
"""All suites; an environment belongs to the first that has its name."""


def suite_of(name: str, preset: Preset) -> Suite:
    """Return the suite of an environment among those of a preset; the last one for names that no other has."""
    if preset == "atari":
        return ATARI
    return next((suite for suite in SUITES if suite.preset == preset and suite.has(name)), ANY)


def joined(preset: Preset, values: Callable[[Suite], Sequence[str]]) -> tuple[str, ...]:
    """Return the `values` of all suites of a preset, each once, in the order of the table."""
    return tuple(dict.fromkeys(value for suite in SUITES if suite.preset == preset for value in values(suite)))


def backend_of(suite: Suite, name: str, asked: str) -> str:
    """Return the backend that runs `name`: the one `asked` for, or with "auto" the suite's first."""
    backend = next(iter(suite.backends)) if asked == "auto" else asked
    if backend not in suite.backends:
        if suite in (RECALL, NUMPAD):
            raise EnvError(f"{name} is built in, {asked} does not run it: leave the backend at auto")
        raise EnvError(f"{asked} does not run {name}: leave the backend at auto, or take {' or '.join(suite.backends)}")
    return backend


def backend_class(suite: Suite, backend: str) -> Callable[..., Any]:
    """Import the class that makes environments of the suite."""
    module, _, name = suite.backends[backend].partition(":")
    return getattr(import_module(module), name)


def known_names(suite: str) -> list[str]:
    """Return the names of a suite's environments that the installed simulators know, sorted."""
    entry = next((entry for entry in SUITES if entry.name == suite), None)
    if entry is None:
        raise EnvError(unknown("suite", suite, [entry.name for entry in SUITES]))
    names = [*entry.examples, *envpool_names(entry.families)]
    if entry in (POPGYM, ANY):
        names += gymnasium_names(entry)
    return sorted(name.removesuffix("-v5") if entry is ATARI else name for name in names)


def envpool_names(families: Sequence[str]) -> list[str]:
    """Return the names of envpool's tasks in these families."""
    if not families:
        return []
    from envpool.registration import registry

    return [task for task, (family, *_) in registry.specs.items() if family.removeprefix("envpool.") in families]


def gymnasium_names(suite: Suite) -> list[str]:
    """Return the suite's names in gymnasium's registry; none where its package is not installed."""
    import gymnasium

    if suite.package:
        try:
            import_module(suite.package)
        except ImportError:
            return []
    return [name for name in gymnasium.registry if suite.has(name)]
