"""Making of environments and networks from a configuration, for learner, actors and evaluation alike."""

import numpy as np
import torch

import envs.interface
from envs.factory import make_env
from envs.interface import Discrete, EnvSpec, MultiDiscrete, VectorEnv
from networks.actor_critic import ActorCritic
from networks.distributions import ActionSpace, Choice, Choices, Reals
from networks.torsos import Part, torso_of
from runners.config import RunConfig
from runners.machine.devices import device_named

EVALUATION, VIDEO, PICTURES, CHOICE = -1, -2, -3, -4
"""Streams of random numbers in a run, besides those of the actors, which are 0 and more."""


def stream_seed(config: RunConfig, stream: int) -> int:
    """Return a seed in 0..2^31-1 for one stream of random numbers, independent of those of other streams and runs."""
    return int(np.random.SeedSequence((config.training.seed, stream % 2**32)).generate_state(1)[0] >> 1)


def build_env(
    config: RunConfig,
    envs: int,
    stream: int,
    render: bool = False,
    tasks: np.ndarray | None = None,
    threads: int = 1,
) -> VectorEnv:
    """Make `envs` environments, seeded by the run's seed and `stream`; `tasks` [envs] are theirs, by default shared
    out evenly."""
    return make_env(config.env, envs, stream_seed(config, stream), threads=threads, render=render, tasks=tasks)


def spec_of(config: RunConfig) -> EnvSpec:
    """Return the spec of the run's environments, from one that is made for it and closed."""
    env = build_env(config, 1, stream=0)
    env.close()
    return env.spec


def build_network(config: RunConfig, spec: EnvSpec) -> ActorCritic:
    """Make the network in evaluation mode, without dropout; its weights are drawn by torch's global generator."""
    step_size = config.agent.popart_step_size
    bf16, tasks = config.training.precision == "bfloat16", len(config.env.tasks)
    return ActorCritic(config.network, parts_of(config, spec), actions_of(spec), step_size, bf16, tasks).eval()


def parts_of(config: RunConfig, spec: EnvSpec) -> list[Part]:
    """Return the parts of an observation in the network's terms."""

    def normalised(part: envs.interface.Part) -> bool:
        asked = config.network.normalise
        return part.kind == "vector" and (part.unbounded if asked == "auto" else asked == "on")

    return [Part(part.kind, part.shape, part.symbols, normalised(part)) for part in spec.parts]


def observed(config: RunConfig, spec: EnvSpec) -> str:
    """Return a line on the parts of an observation and the torso that encodes them."""
    parts = parts_of(config, spec)
    named = []
    for part, shown in zip(parts, spec.parts, strict=True):
        name = f"{shown.name}: " if shown.name else ""
        named.append(f"{name}{part.kind} {part.shape}{', normalised' if part.normalised else ''}")
    torso = torso_of(parts)
    if torso in ("nature", "small") and config.network.torso != "auto":
        torso = config.network.torso
    return f"{'; '.join(named)}; torso {torso}"


def actions_of(spec: EnvSpec) -> ActionSpace:
    """Return the action space in the network's terms."""
    action = spec.action
    if isinstance(action, Discrete):
        return Choice(action.n)
    return Choices(action.sizes) if isinstance(action, MultiDiscrete) else Reals(action.shape[0])


def random_observations(config: RunConfig, steps: int = 64) -> torch.Tensor:
    """Return observations [steps, N, ...] under random actions; N is 8, or the number of tasks if that is more."""
    envs = max(8, len(config.env.tasks))
    env = build_env(config, envs, stream=PICTURES)
    rng = np.random.default_rng(stream_seed(config, PICTURES))
    observations = [env.reset().observation]
    for _ in range(steps - 1):
        observations.append(env.step(env.spec.action.sample(rng, envs)).observation)
    env.close()
    return torch.from_numpy(np.stack(observations))


def pick_device(config: RunConfig) -> torch.device:
    return device_named(config.training.device)
