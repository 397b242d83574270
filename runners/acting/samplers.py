"""Sources of batches: actor processes, actors in this process, or both.

`next()` returns a Buffer that is valid until `release()`; `publish(network)` gives the actors new weights. `start`
counts the starts of a run, so that a resumed run repeats none of its random numbers. `saved` is an earlier
`get_state()`, the acting weights, of any sampler with any number of actors. Environments begin new episodes, except
those that are saved. Actors are numbered over all ranks, so that no two draw the same random numbers.
"""

import itertools
import math
import time
from collections import deque
from functools import partial
from multiprocessing.util import Finalize

import numpy as np
import torch
from torch import Tensor

from envs.interface import EnvSpec
from networks.actor_critic import ActorCritic
from runners.acting.actor import Actor, collect_in_turn
from runners.acting.processes import ActorProcess
from runners.acting.unrolls import Buffer, make_buffer
from runners.acting.weights import SharedWeights, flatten_weights
from runners.build import build_env, build_network, stream_seed
from runners.config import RunConfig
from runners.errors import while_running
from runners.machine.watchdog import watched

CPU = torch.device("cpu")
BUFFERS = 2
"""Number of batches in memory: one is filled while the learner reads the other."""

STREAMS_A_START = 1000
"""Streams of random numbers a start: actor i of the n-th start has stream n * STREAMS_A_START + i."""
STREAMS_A_DEATH = 2**24
"""Added to an actor's stream for each time that it died before."""


class LocalSampler:
    """Sampler that acts in `next`, in this process and on `device`, always with the weights last published.

    The environments are in `groups`; the simulators of one, on `threads` threads, work while the network acts for
    another.
    """

    def __init__(
        self,
        config: RunConfig,
        spec: EnvSpec,
        network: ActorCritic,
        start: int,
        saved: dict | None = None,
        rank: int = 0,
        device: torch.device = CPU,
        threads: int = 1,
        groups: int = 1,
    ) -> None:
        self.watched = _watched(config, rank)
        self.buffer = _batch(config, spec, network, shared=False)
        if device.type == "cuda":
            self.buffer = self.buffer.pinned()
        ends = [config.training.envs * i // groups for i in range(groups + 1)]
        self.views = [self.buffer.columns(slice(*some)) for some in itertools.pairwise(ends)]
        self.actors = [
            make_actor(config, view.unroll.task.numpy(), start, rank * groups + i, device, threads)
            for i, view in enumerate(self.views)
        ]
        self.network, self.saves = self.actors[0].network, config.training.save_environments
        self.load(_weights(network, saved))
        for actor, state in zip(self.actors, (saved or {}).get("actors", ()), strict=False):
            actor.set_state(state)
        self.wait_seconds = 0.0

    def next(self) -> Buffer:
        began = time.perf_counter()
        if self.saves:  # as in a run that is resumed here, no keys and values are cached
            self.load(flatten_weights(self.network))
        with while_running(), watched(*self.watched):
            collect_in_turn(self.actors, self.views)
        self.wait_seconds += time.perf_counter() - began
        return self.buffer

    def release(self) -> None:
        pass

    restarts = 0

    def cpu_seconds(self) -> float:
        """Return the processor seconds of processes other than this one."""
        return 0.0

    def publish(self, network: ActorCritic) -> None:
        self.load(flatten_weights(network))

    def load(self, weights: Tensor) -> None:
        """Load weights, one vector [P], into all actors."""
        for actor in self.actors:
            actor.load(weights)

    def get_state(self) -> dict:
        """Return the acting weights and, if environments are saved, everything else that the next batch depends on."""
        weights = {"weights": flatten_weights(self.network)}
        return weights | {"actors": [actor.get_state() for actor in self.actors]} if self.saves else weights

    def close(self) -> None:
        for actor in self.actors:
            actor.env.close()


class ProcessSampler:
    """Sampler of `config.training.actors` processes, which share the environments equally and act one batch ahead.

    If weights are published every batch, the actors' are those before the last. If they are published more seldom
    (`config.training.target_period`), actors wait for the new ones before they begin a batch that comes after them:
    all samples between two publications are then of one pi_old, as in one process. `learned` is the number of batches
    that the run has learned from, which says when the next publication is due.

    The last `own` environments are stepped by this process in `next`, with the weights last published, so that a
    learner that would wait for its actors takes some of their work.
    """

    def __init__(
        self,
        config: RunConfig,
        spec: EnvSpec,
        network: ActorCritic,
        start: int,
        saved: dict | None = None,
        rank: int = 0,
        own: int = 0,
        learned: int = 0,
    ) -> None:
        self.watched = _watched(config, rank)
        period = config.training.target_period
        self.period = math.inf if period == 1 else period
        self.left = self.period - learned % period
        """Number of batches that may still be begun with the present weights."""
        self.free: deque[int] = deque()
        """Buffers that no batch fills until new weights are published."""
        actors, envs = config.training.actors, config.training.envs
        share = (envs - own) // actors
        assert share * actors == envs - own
        self.buffers = [_batch(config, spec, network, shared=True) for _ in range(BUFFERS)]
        self.weights = SharedWeights(_weights(network, saved))
        self.actors: list[ActorProcess] = []
        # Also at exit or on garbage collection, before multiprocessing sends its daemons a SIGTERM, which these block.
        self._end = Finalize(self, _kill, [self.actors], exitpriority=10)
        for i in range(actors):
            views = [buffer.columns(slice(i * share, (i + 1) * share)) for buffer in self.buffers]
            number = rank * (actors + 1) + i
            make = partial(make_again, config, views[0].unroll.task.numpy(), start, number)
            actor = ActorProcess(f"actor {number}", make, views, self.weights, config.training.patience)
            self.actors.append(actor)
        for buffer in range(BUFFERS):
            self._give(buffer)
        self.own: Actor | None = None
        if own:
            self.own = make_actor(config, config.tasks[envs - own :], start, rank * (actors + 1) + actors)
            self.own_views = [buffer.columns(slice(envs - own, envs)) for buffer in self.buffers]
            self.own.load(self.weights.vector)
        self.taken = 0
        self.versions: list[int] = []
        """Version of the weights by which each actor filled its part of the last batch."""
        self.wait_seconds = 0.0

    def next(self) -> Buffer:
        if self.own:
            with while_running(), watched(*self.watched):
                self.own.collect(self.own_views[self.taken % BUFFERS])
        began = time.perf_counter()
        self.versions = [actor.receive() for actor in self.actors]
        self.wait_seconds += time.perf_counter() - began
        return self.buffers[self.taken % BUFFERS]

    def release(self) -> None:
        self._give(self.taken % BUFFERS)
        self.taken += 1

    def _give(self, buffer: int | None = None) -> None:
        """Let the actors fill a buffer, after those that wait, as far as the present weights are to be used."""
        if buffer is not None:
            self.free.append(buffer)
        while self.free and self.left:
            self.left -= 1
            view = self.free.popleft()
            for actor in self.actors:
                actor.give(view)

    @property
    def restarts(self) -> int:
        """Return how often an actor died and was started again."""
        return sum(actor.restarts for actor in self.actors)

    def cpu_seconds(self) -> float:
        """Return user and system seconds of the actors so far."""
        return sum(actor.cpu_seconds() for actor in self.actors)

    def publish(self, network: ActorCritic) -> None:
        self.weights.publish(network)
        self.left = self.period
        self._give()
        if self.own:
            self.own.load(self.weights.vector)

    def get_state(self) -> dict:
        return {"weights": self.weights.vector.clone()}

    def close(self) -> None:
        self._end()
        if self.own:
            self.own.env.close()


Sampler = LocalSampler | ProcessSampler


def _watched(config: RunConfig, rank: int) -> tuple[str, float]:
    """Return a name for the stepping of environments in this process, and the seconds that it may take."""
    return f"rank {rank}, which steps {config.env.name},", config.training.patience


def _weights(network: ActorCritic, saved: dict | None) -> Tensor:
    """Return the first weights to act with [P]; with --target-period the saved ones may be older than the network's."""
    return flatten_weights(network) if saved is None else saved["weights"]


def _batch(config: RunConfig, spec: EnvSpec, network: ActorCritic, shared: bool) -> Buffer:
    policy_size = network.space.parameters
    training = config.training
    return make_buffer(spec, training.unroll, config.tasks, policy_size, network.initial_state(1), shared)


def make_actor(
    config: RunConfig, tasks: np.ndarray, start: int, number: int, device: torch.device = CPU, threads: int = 1
) -> Actor:
    """Make an actor with an environment for each of `tasks`; its weights are random until `load`."""
    stream = start * STREAMS_A_START + number
    env = build_env(config, len(tasks), stream, tasks=tasks, threads=threads)
    network = build_network(config, env.spec).to(device)
    on_gpu = device.type == "cuda"  # on CPUs there may be many actors, each of which would have to compile
    return Actor(env, network, stream_seed(config, stream), tasks, compile_encoder=on_gpu and config.training.compile)


def make_again(config: RunConfig, tasks: np.ndarray, start: int, number: int, starts: int) -> Actor:
    """Make the actor as `make_actor` does, with random numbers of its own at each of its starts."""
    return make_actor(config, tasks, start, number + starts * STREAMS_A_DEATH)


def _kill(actors: list[ActorProcess]) -> None:
    for actor in actors:
        actor.process.kill()
    for actor in actors:
        actor.process.join()
