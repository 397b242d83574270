"""Sources of batches: actor processes, actors in this process, or both.

`next()` returns a Buffer that is valid until `release()`; `publish(network)` gives the actors new weights. `start`
counts the starts of a run, so that a resumed run repeats none of its random numbers. `saved` is an earlier
`get_state()`, the acting weights, of any sampler with any number of actors. Environments cannot be saved: they begin
new episodes. Actors are numbered over all ranks, so that no two draw the same random numbers.
"""

import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from multiprocessing.util import Finalize

import numpy as np
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor

from envs.interface import EnvSpec
from networks.actor_critic import ActorCritic
from runners.acting.actor import Actor, collect_in_turn
from runners.acting.unrolls import Buffer, make_buffer
from runners.acting.weights import SharedWeights, flatten_weights
from runners.build import build_env, build_network, stream_seed
from runners.config import RunConfig
from runners.errors import RunError, describe, while_running
from runners.machine.allocator import keep_freed_memory

CPU = torch.device("cpu")
BUFFERS = 2
"""Number of batches in memory: one is filled while the learner reads the other."""

PATIENCE = 1.0
"""Seconds to wait for an actor before checking whether it is alive."""

STREAMS_A_START = 1000
"""Streams of random numbers a start: actor i of the n-th start has stream n * STREAMS_A_START + i."""


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
        self.buffer = _batch(config, spec, network, shared=False)
        if device.type == "cuda":
            self.buffer = self.buffer.pinned()
        ends = [config.training.envs * i // groups for i in range(groups + 1)]
        self.views = [self.buffer.columns(slice(*some)) for some in itertools.pairwise(ends)]
        self.actors = [
            make_actor(config, view.unroll.task.numpy(), start, rank * groups + i, device, threads)
            for i, view in enumerate(self.views)
        ]
        self.network = self.actors[0].network
        self.load(_weights(network, saved))
        self.wait_seconds = 0.0

    def next(self) -> Buffer:
        began = time.perf_counter()
        with while_running():
            collect_in_turn(self.actors, self.views)
        self.wait_seconds += time.perf_counter() - began
        return self.buffer

    def release(self) -> None:
        pass

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
        return {"weights": flatten_weights(self.network)}

    def close(self) -> None:
        for actor in self.actors:
            actor.env.close()


class ProcessSampler:
    """Sampler of `config.training.actors` processes, which share the environments equally and act one batch ahead.

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
    ) -> None:
        context = multiprocessing.get_context("spawn")
        actors, envs = config.training.actors, config.training.envs
        share = (envs - own) // actors
        assert share * actors == envs - own
        self.buffers = [_batch(config, spec, network, shared=True) for _ in range(BUFFERS)]
        self.weights = SharedWeights(_weights(network, saved), context)
        self.free = [context.Semaphore(BUFFERS) for _ in range(actors)]
        self.full = [context.Semaphore(0) for _ in range(actors)]
        self.failures: list[Connection] = []
        self.processes: list[BaseProcess] = []
        # Also at exit or on garbage collection, before multiprocessing sends its daemons a SIGTERM, which these block.
        self._end = Finalize(self, _kill, [self.processes], exitpriority=10)
        # The semaphores have started Python's resource tracker already: its start would undo the blocking of signals.
        with _signals_blocked():
            for i in range(actors):
                views = [buffer.columns(slice(i * share, (i + 1) * share)) for buffer in self.buffers]
                failure, report = context.Pipe(duplex=False)
                number = rank * (actors + 1) + i
                arguments = (config, start, number, views, self.weights, self.free[i], self.full[i], report)
                process = context.Process(target=_act, args=arguments, daemon=True, name=f"actor {number}")
                process.start()
                self.processes.append(process)
                self.failures.append(failure)
                report.close()  # only the actor's end stays open, so that its death closes the connection
        self.own: Actor | None = None
        if own:
            self.own = make_actor(config, config.tasks[envs - own :], start, rank * (actors + 1) + actors)
            self.own_views = [buffer.columns(slice(envs - own, envs)) for buffer in self.buffers]
            self.own.load(self.weights.vector)
        self.taken = 0
        self.wait_seconds = 0.0

    def next(self) -> Buffer:
        if self.own:
            with while_running():
                self.own.collect(self.own_views[self.taken % BUFFERS])
        began = time.perf_counter()
        for full in self.full:
            while not full.acquire(timeout=PATIENCE):
                self._check()
        self.wait_seconds += time.perf_counter() - began
        return self.buffers[self.taken % BUFFERS]

    def release(self) -> None:
        self.taken += 1
        for free in self.free:
            free.release()

    def cpu_seconds(self) -> float:
        """Return user and system seconds of the actors so far."""
        ticks = 0
        for process in self.processes:
            with open(f"/proc/{process.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def publish(self, network: ActorCritic) -> None:
        while not self.weights.publish(network, timeout=PATIENCE):
            self._check()
        if self.own:
            self.own.load(self.weights.vector)

    def get_state(self) -> dict:
        return {"weights": self.weights.vector}

    def close(self) -> None:
        self._end()
        if self.own:
            self.own.env.close()

    def _check(self) -> None:
        """Raise RunError if an actor failed or died; the others may be waiting for a lock that it held."""
        for process, failure in zip(self.processes, self.failures, strict=True):
            if failure.poll():
                try:
                    why, trace = failure.recv()
                except EOFError:
                    process.join()
                    died = f"{process.name} died (exit code {process.exitcode}); remove the cause, then --resume"
                    raise RunError(died) from None
                raise RunError(f"{process.name}: {why}") from RuntimeError(trace)


Sampler = LocalSampler | ProcessSampler


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


def _act(
    config: RunConfig,
    start: int,
    number: int,
    views: list[Buffer],
    weights: SharedWeights,
    free: Semaphore,
    full: Semaphore,
    report: Connection,
) -> None:
    """Run an actor process: it fills its `views` in turn, and reports an error as one line and the traceback."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        actor, version = make_actor(config, views[0].unroll.task.numpy(), start, number), 0
        for view in itertools.cycle(views):
            free.acquire()
            version = weights.fetch(actor.load, version)
            actor.collect(view)
            full.release()
    except Exception as error:
        report.send((describe(error)[1], traceback.format_exc()))
        sys.exit(1)


def _die_with_parent() -> None:
    """End this process when its parent has ended: a killed learner must leave no actors behind."""
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM in processes that are started inside: a Ctrl-C to the whole group must leave the actors
    alive, so that the learner can finish its batch and save."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
