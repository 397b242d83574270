"""Making of environments from a configuration."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from envs.config import ATARI57, EnvConfig
from envs.interface import EnvError, VectorEnv
from envs.multi_task import MultiTask, share_out
from envs.names import atari_name, unknown
from envs.suites import ANY, ATARI, SUITES, Suite, backend_class, backend_of, known_names, suite_of

MAX_SEED = 2**31 - 1
OWN = (
    "An environment of your own must be registered with gymnasium in a module that is imported, --env module:Name-v0: "
    'actor processes do not see what is registered under if __name__ == "__main__"'
)


def make_env(
    config: EnvConfig,
    num_envs: int,
    seed: int,
    threads: int = 1,
    render: bool = False,
    tasks: Sequence[int] | None = None,
) -> VectorEnv:
    """Make `num_envs` environments; the same seed and actions give the same trajectories.

    envpool and ale step on `threads` threads, at least one for each task; the other simulators step in the caller's.
    Where `config` names several tasks, `tasks` [N], ascending, says which of them each environment plays; by default
    they are shared out evenly.
    EnvError in one line for an unknown name (with the nearest ones) or an option that the backend cannot honour.
    """
    if num_envs < 1 or threads < 1:
        raise EnvError(f"num_envs and threads must be 1 or more, got {num_envs} and {threads}")
    if not 0 <= seed <= MAX_SEED:
        raise EnvError(f"seed must lie in 0..{MAX_SEED}, got {seed}")
    if len(config.tasks) > 1:
        tasks = share_out(len(config.tasks), num_envs) if tasks is None else tasks
        return _multi_task(config, np.asarray(tasks), seed, threads, render)
    suite, backend = resolve(config)
    env = backend_class(suite, backend)(config, suite, num_envs, seed, min(threads, num_envs), render)
    env.reward_scale = config.reward_scale
    return env


def resolve(config: EnvConfig) -> tuple[Suite, str]:
    """Return the suite of `config` and its backend; EnvError for names and options that these do not have."""
    suite = suite_of(config.tasks[0], config.suite)
    if suite is ATARI:
        for name in config.tasks:
            _require_game(name)
    elif suite is ANY:
        _require_registered(config.name)
    backend = backend_of(suite, config.name, config.backend)
    config.check_honoured(config.name, suite.options)
    return suite, backend


def prepare(config: EnvConfig) -> tuple[EnvConfig, tuple[str, ...]]:
    """Return `config` with the names spelt as this project does, and notices for whoever starts a run.

    EnvError as from `resolve`, before anything is simulated.
    """
    notes: list[str] = []
    if config.suite == "atari" and config.name != ATARI57:
        taken = [_game(name) for name in config.tasks]
        config = replace(config, name=",".join(name for name, _ in taken))
        notes += [note for _, note in taken if note]
    suite, _ = resolve(config)
    return config, (*notes, *([suite.notice] if suite.notice else []))


def steps_in_python(config: EnvConfig) -> bool:
    """Return whether environments step in the Python interpreter, so that more processes step faster."""
    return resolve(config)[1] == "gymnasium"


def _multi_task(config: EnvConfig, tasks: np.ndarray, seed: int, threads: int, render: bool) -> VectorEnv:
    parts: list[VectorEnv] = []
    for task, count in zip(*np.unique(tasks, return_counts=True), strict=True):
        one = replace(config, name=config.tasks[task], full_actions=True)
        own_seed = int(np.random.SeedSequence((seed, int(task))).generate_state(1)[0] >> 1)
        parts.append(make_env(one, int(count), own_seed, max(1, threads * int(count) // len(tasks)), render))
    return MultiTask(parts, config.name)


def _game(name: str) -> tuple[str, str | None]:
    """Return the game that `name` means and a notice, as `atari_name` does; its EnvError also knows other suites."""
    try:
        return atari_name(name, known_names("atari"))
    except EnvError:
        _require_game(name)
        raise


def _require_game(name: str) -> None:
    games = known_names("atari")
    if name not in games:
        suite = suite_of(name, "control")
        elsewhere = "" if suite is ANY else f" ({name} is of suite control: python -m runners.control --env {name})"
        raise EnvError(unknown("game", name, games) + elsewhere)


def _require_registered(name: str) -> None:
    """Raise EnvError, with the nearest names of all suites, unless gymnasium has `name`."""
    import gymnasium

    if ":" in name or (ANY.has(name) and name in gymnasium.registry):  # the backend imports the module and checks
        return
    try:
        game, _ = atari_name(name, known_names("atari"))
    except EnvError:
        known = sorted({known for suite in SUITES if suite is not ATARI for known in known_names(suite.name)})
        raise EnvError(f"{unknown('environment', name, known)} {OWN}") from None
    raise EnvError(f"unknown environment {name!r}, but an Atari game: python -m runners.atari --game {game}")
