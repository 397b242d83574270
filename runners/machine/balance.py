"""Shares of environments between processes and groups, by measurement, so that none waits for another."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from agents.factory import make_agent
from agents.types import Unroll
from envs.interface import EnvSpec
from networks.actor_critic import ActorCritic
from runners.acting.samplers import LocalSampler
from runners.build import actions_of, build_network
from runners.config import RunConfig, cores
from runners.learning.learner import Learner

PROBE_ENVS = (2, 16)
"""Numbers of environments at which the time of acting is measured; it is taken to be linear in their number."""
ROUNDS = 4
WORTHWHILE = 0.95
"""Largest share of a batch's time that a change may leave: a smaller gain is lost to switching between tasks."""
PROBE_START = -1
"""Number of a start whose random numbers no run uses."""


def learner_envs(config: RunConfig, spec: EnvSpec, device: torch.device, local_ranks: int) -> int:
    """Return the number of environments that the learner steps: the option's, or one measured in a few seconds.

    It is measured if each actor and each learner of this machine's `local_ranks` has one core for itself. Otherwise,
    and with few environments or several games, it is 0.
    """
    training = config.training
    if training.learner_envs >= 0:
        return training.learner_envs
    a_core_each = device.type == "cpu" and cores() == local_ranks * (training.actors + 1)
    if not training.actors or not a_core_each or training.envs < PROBE_ENVS[1] or len(config.env.tasks) > 1:
        return 0
    return share(training.envs, training.actors, *measure(config, spec))


def acting_groups(config: RunConfig, spec: EnvSpec, device: torch.device, threads: int) -> int:
    """Return the number of groups of environments: 2 if a GPU acts and alternating between two is faster, else 1.

    The network takes nearly as long for half of the environments, so this pays if its step is short beside theirs.
    """
    if device.type != "cuda" or config.training.actors or config.training.envs == 1:
        return 1
    return faster_groups(config, spec, device, threads)


def faster_groups(config: RunConfig, spec: EnvSpec, device: torch.device, threads: int) -> int:
    """Return 1 or 2, the number of groups that acts a batch faster."""

    def seconds(groups: int) -> float:
        sampler = LocalSampler(config, spec, network, PROBE_START, device=device, threads=threads, groups=groups)
        try:
            return least_seconds(sampler.next)
        finally:
            sampler.close()

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = build_network(config, spec).to(device)
        return min((1, 2), key=seconds)


def share(envs: int, actors: int, fixed: float, acting: float, learning: float) -> int:
    """Return how many of `envs` the learner should step for the least time a batch; `actors` share the others evenly.

    Acting in n environments takes `fixed` + n `acting` seconds a batch, learning from one takes `learning`.
    """

    def seconds(own: int) -> float:
        act = fixed + acting * (envs - own) / actors
        learn = envs * learning + (fixed + acting * own if own else 0)
        return max(act, learn)

    best = min((own for own in range(envs) if (envs - own) % actors == 0), key=seconds)
    return best if seconds(best) < WORTHWHILE * seconds(0) else 0


def measure(config: RunConfig, spec: EnvSpec) -> tuple[float, float, float]:
    """Return the seconds that `share` takes: fixed, acting and learning."""
    few, many = PROBE_ENVS
    with torch.random.fork_rng(devices=[]):
        network = build_network(config, spec)
        short, _ = acted(config, few, spec, network)
        long, unroll = acted(config, many, spec, network)
        learning = learned(config, unroll, spec, network) / many
    acting = max(0.0, (long - short) / (many - few))
    return max(0.0, short - few * acting), acting, learning


def acted(config: RunConfig, envs: int, spec: EnvSpec, network: ActorCritic) -> tuple[float, Unroll]:
    """Return the seconds that an unroll of `envs` environments takes, and the unroll."""
    probe = replace(config, training=replace(config.training, actors=0, envs=envs, minibatches=1))
    sampler = LocalSampler(probe, spec, network, start=PROBE_START)
    try:
        return least_seconds(sampler.next), sampler.buffer.unroll
    finally:
        sampler.close()


def learned(config: RunConfig, unroll: Unroll, spec: EnvSpec, network: ActorCritic) -> float:
    """Return the seconds of all passes over `unroll`, in minibatches of the run's size where that is possible."""
    training, envs = config.training, unroll.first.shape[1]
    minibatches = max(1, envs * training.minibatches // training.envs)
    sizes = {"envs": envs, "minibatches": minibatches if envs % minibatches == 0 else 1, "actors": 0}
    probe = replace(config, training=replace(training, **sizes))
    agent = make_agent(config.agent, actions_of(spec))
    learner = Learner(probe, network, agent, torch.device("cpu"), fresh=False)
    return least_seconds(lambda: learner.train(unroll, 0.0))


def least_seconds(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of ROUNDS calls of `work`; interference can only slow a call down."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
