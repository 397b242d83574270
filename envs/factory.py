"""From a configuration to environments: the only place that knows every backend."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from envs import recall
from envs.backend import BackendEnv
from envs.config import EnvConfig, Suite
from envs.interface import EnvError, VectorEnv
from envs.multi_task import MultiTask, share_out

MAX_SEED = 2**31 - 1

# Backends are imported where they are used: each needs a simulator that takes its time to load.


def known_names(suite: Suite) -> list[str]:
    """Names worth suggesting, sorted: all Atari games, or the control tasks (recall at its usual delays)."""
    from envs import envpool_backend

    if suite == "atari":
        return sorted(envpool_backend.atari_names())
    return sorted([*envpool_backend.control_names(), "recall-30", "recall-100"])


def make_env(
    config: EnvConfig,
    num_envs: int,
    seed: int,
    threads: int = 1,
    render: bool = False,
    tasks: Sequence[int] | None = None,
) -> VectorEnv:
    """`num_envs` environments; the same seed and actions give the same trajectories.

    `threads` is how many the simulators may use, one at least each: envpool and ale do, the others step in the caller's
    thread. Where `config` names several tasks, `tasks` [N], ascending, says which of them each environment plays; by
    default they are shared out evenly.
    EnvError in one line for an unknown name (with the nearest ones) or an option that the backend cannot honour.
    """
    if num_envs < 1 or threads < 1:
        raise EnvError(f"num_envs and threads must be 1 or more, got {num_envs} and {threads}")
    if not 0 <= seed <= MAX_SEED:
        raise EnvError(f"seed must lie in 0..{MAX_SEED}, got {seed}")
    if len(config.tasks) > 1:
        tasks = share_out(len(config.tasks), num_envs) if tasks is None else tasks
        return _multi_task(config, np.asarray(tasks), seed, threads, render)
    make = _atari if config.suite == "atari" else _control
    env = make(config, num_envs, seed, min(threads, num_envs), render)
    env.reward_scale = config.reward_scale
    return env


def _multi_task(config: EnvConfig, tasks: np.ndarray, seed: int, threads: int, render: bool) -> VectorEnv:
    parts: list[VectorEnv] = []
    for task, count in zip(*np.unique(tasks, return_counts=True), strict=True):
        one = replace(config, name=config.tasks[task], full_actions=True)
        own_seed = int(np.random.SeedSequence((seed, int(task))).generate_state(1)[0] >> 1)
        parts.append(make_env(one, int(count), own_seed, max(1, threads * int(count) // len(tasks)), render))
    return MultiTask(parts, config.name)


def _atari(config: EnvConfig, num_envs: int, seed: int, threads: int, render: bool) -> BackendEnv:
    _require(config.name, known_names("atari"), "game")
    if config.backend == "ale":
        from envs.ale_backend import AleAtari

        return AleAtari(config, num_envs, seed, threads, render)
    from envs.envpool_backend import EnvpoolAtari

    return EnvpoolAtari(config, num_envs, seed, threads, render)


def _control(config: EnvConfig, num_envs: int, seed: int, threads: int, render: bool) -> BackendEnv:
    delay = recall.delay_of(config.name)
    if delay is not None:
        if config.backend != "envpool":
            raise EnvError(f"{config.name} is built in, {config.backend} does not run it: leave backend at envpool")
        return recall.Recall(delay, num_envs, seed, render)
    if config.backend == "gymnasium":
        from envs.gymnasium_backend import GymnasiumControl, task_names

        _require(config.name, task_names(), "environment")
        return GymnasiumControl(config, num_envs, seed, render)
    from envs.envpool_backend import EnvpoolControl, is_control

    if not is_control(config.name):
        _require(config.name, known_names("control"), "environment")
    return EnvpoolControl(config, num_envs, seed, threads, render)


def _require(name: str, known: list[str], kind: str) -> None:
    """EnvError with the nearest known names (case, underscores and versions aside) unless `name` is one."""
    if name in known:
        return

    def plain(text: str) -> str:
        return re.sub(r"[\s_]|-v\d+$", "", text.lower())

    versions: dict[str, list[str]] = {}
    for candidate in known:
        versions.setdefault(plain(candidate), []).append(candidate)
    nearest = [found for key in difflib.get_close_matches(plain(name), versions, n=3) for found in versions[key]]
    hint = f"did you mean {' or '.join(nearest[:3])}?" if nearest else f"for example {', '.join(known[:3])}"
    raise EnvError(f"unknown {kind} {name!r}: {hint}")
