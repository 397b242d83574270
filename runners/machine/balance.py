"""Shares of environments between processes, so that nothing waits for another, and groups, by measurement."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from agents.factory import make_agent
from agents.types import Unroll
from envs.interface import EnvSpec
from networks.actor_critic import ActorCritic
from runners.acting.samplers import LocalSampler
from runners.build import actions_of
from runners.config import RunConfig, cores
from runners.learning.learner import Learner

PROBE_ENVS = (2, 16)
"""Numbers of environments whose acting is measured, from which it is taken to be linear in between and beyond."""
ROUNDS = 4
WORTHWHILE = 0.95
"""Of the time a batch: less than a twentieth is lost again to the switching between two kinds of work."""
PROBE_START = -1
"""Random numbers of a start that no run has."""


def learner_envs(config: RunConfig, spec: EnvSpec, network: ActorCritic, device: torch.device, local_ranks: int) -> int:
    """`config.training.learner_envs`, or what a measurement of a few seconds says.

    It measures where each actor of each of this machine's `local_ranks`, and each learner, has one core for itself;
    elsewhere a learner has more cores to use, or less than one, and steps none. Nor where environments are few, or
    differ in what they play.
    """
    training = config.training
    if training.learner_envs >= 0:
        return training.learner_envs
    a_core_each = device.type == "cpu" and cores() == local_ranks * (training.actors + 1)
    if not training.actors or not a_core_each or training.envs < PROBE_ENVS[1] or len(config.env.tasks) > 1:
        return 0
    return share(training.envs, training.actors, *measure(config, spec, network))


def acting_groups(config: RunConfig, spec: EnvSpec, network: ActorCritic, device: torch.device, threads: int) -> int:
    """Number of groups of the environments where a GPU acts: two where a batch is acted sooner by turns, else one.

    A step of the network takes nearly as long for half of the environments: turns pay where it is short beside theirs.
    """
    if device.type != "cuda" or config.training.actors or config.training.envs == 1:
        return 1
    return faster_groups(config, spec, network, device, threads)


def faster_groups(config: RunConfig, spec: EnvSpec, network: ActorCritic, device: torch.device, threads: int) -> int:
    """1 or 2, whichever acts a batch sooner."""

    def seconds(groups: int) -> float:
        sampler = LocalSampler(config, spec, network, PROBE_START, device=device, threads=threads, groups=groups)
        try:
            return least_seconds(sampler.next)
        finally:
            sampler.close()

    before = torch.get_rng_state()
    faster = min((1, 2), key=seconds)
    torch.set_rng_state(before)
    return faster


def share(envs: int, actors: int, fixed: float, acting: float, learning: float) -> int:
    """How many of `envs` the learner steps for the least time a batch; the others are shared evenly by `actors`.

    Acting in n environments takes `fixed` + n `acting` seconds a batch, learning from one takes `learning`.
    """

    def seconds(own: int) -> float:
        act = fixed + acting * (envs - own) / actors
        learn = envs * learning + (fixed + acting * own if own else 0)
        return max(act, learn)

    best = min((own for own in range(envs) if (envs - own) % actors == 0), key=seconds)
    return best if seconds(best) < WORTHWHILE * seconds(0) else 0


def measure(config: RunConfig, spec: EnvSpec, network: ActorCritic) -> tuple[float, float, float]:
    """`share`'s fixed, acting and learning; `network` learns in a copy."""
    before = torch.get_rng_state()
    few, many = PROBE_ENVS
    short, _ = acted(config, few, spec, network)
    long, unroll = acted(config, many, spec, network)
    acting = max(0.0, (long - short) / (many - few))
    learning = learned(config, unroll, spec, network) / many
    torch.set_rng_state(before)
    return max(0.0, short - few * acting), acting, learning


def acted(config: RunConfig, envs: int, spec: EnvSpec, network: ActorCritic) -> tuple[float, Unroll]:
    """Seconds of an unroll of `envs` environments, and what they showed."""
    probe = replace(config, training=replace(config.training, actors=0, envs=envs, minibatches=1))
    sampler = LocalSampler(probe, spec, network, start=PROBE_START)
    try:
        return least_seconds(sampler.next), sampler.buffer.unroll
    finally:
        sampler.close()


def learned(config: RunConfig, unroll: Unroll, spec: EnvSpec, network: ActorCritic) -> float:
    """Seconds of all passes over `unroll`, in minibatches of the run's size where that goes."""
    training, envs = config.training, unroll.first.shape[1]
    minibatches = max(1, envs * training.minibatches // training.envs)
    sizes = {"envs": envs, "minibatches": minibatches if envs % minibatches == 0 else 1, "actors": 0}
    probe = replace(config, training=replace(training, **sizes))
    agent = make_agent(config.agent, actions_of(spec))
    learner = Learner(probe, copy.deepcopy(network), agent, torch.device("cpu"), fresh=False)
    return least_seconds(lambda: learner.train(unroll, 0.0))


def least_seconds(work: Callable[[], object]) -> float:
    """Least time of ROUNDS calls: what else the machine does only ever adds."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
