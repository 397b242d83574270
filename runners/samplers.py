"""Where batches come from: actor processes, or one actor in this process.

Both give `next() -> Buffer`, valid until `release()`; `publish(network)` hands the actors new weights.
"""

import os
import signal
import threading
import time

import torch
import torch.multiprocessing as multiprocessing

from envs.interface import EnvSpec, VectorEnv
from networks.actor_critic import ActorCritic
from runners.actor import Actor
from runners.build import build_env, build_network
from runners.config import RunConfig
from runners.errors import RunError
from runners.unrolls import Buffer, make_buffer
from runners.weights import SharedWeights, flatten_parameters

BUFFERS = 2
"""Batches in flight: one being filled while the learner reads the other."""


class LocalSampler:
    """Acts when asked, in this process: a batch is always from the weights last published."""

    def __init__(self, config: RunConfig, env: VectorEnv, network: ActorCritic, bf16: bool, start: int) -> None:
        self.network = build_network(config, env.spec, bf16)
        self.weights = flatten_parameters(self.network)
        self.actor = Actor(env, self.network, seed=config.training.seed)
        self.buffer = _batch(config, env.spec, network, shared=False)
        self.publish(network)
        self.wait_seconds = 0.0

    def next(self) -> Buffer:
        began = time.perf_counter()
        self.actor.collect(self.buffer)
        self.wait_seconds += time.perf_counter() - began
        return self.buffer

    def release(self) -> None:
        pass

    def cpu_seconds(self) -> float:
        """Of processes other than this one."""
        return 0.0

    def publish(self, network: ActorCritic) -> None:
        with torch.no_grad():
            self.weights.copy_(torch.cat([p.detach().reshape(-1) for p in network.parameters()]))

    def get_state(self) -> dict:
        return {"generator": self.actor.generator.get_state(), "weights": self.weights}

    def set_state(self, state: dict) -> None:
        """Environments cannot be saved: they begin new episodes."""
        self.actor.generator.set_state(state["generator"])
        with torch.no_grad():
            self.weights.copy_(state["weights"])

    def close(self) -> None:
        self.actor.env.close()


class ProcessSampler:
    """`config.training.actors` processes, each with an equal share of the environments, always one batch ahead.

    `start` tells the actors of a resumed run from those before, whose random numbers they must not repeat.
    """

    def __init__(self, config: RunConfig, spec: EnvSpec, network: ActorCritic, bf16: bool, start: int) -> None:
        context = multiprocessing.get_context("spawn")
        actors = config.training.actors
        self.buffers = [_batch(config, spec, network, shared=True) for _ in range(BUFFERS)]
        self.weights = SharedWeights(sum(p.numel() for p in network.parameters()), context)
        self.publish(network)
        self.free = [context.Semaphore(BUFFERS) for _ in range(actors)]
        self.full = [context.Semaphore(0) for _ in range(actors)]
        self.processes = []
        share = config.training.envs // actors
        for i in range(actors):
            columns = slice(i * share, (i + 1) * share)
            views = [buffer.columns(columns) for buffer in self.buffers]
            arguments = (config, i, start, bf16, views, self.weights, self.free[i], self.full[i])
            self.processes.append(context.Process(target=_act, args=arguments, daemon=True, name=f"actor {i}"))
        for process in self.processes:
            process.start()
        self.taken = 0
        self.wait_seconds = 0.0

    def next(self) -> Buffer:
        began = time.perf_counter()
        for process, full in zip(self.processes, self.full, strict=True):
            while not full.acquire(timeout=1.0):
                if not process.is_alive():
                    raise RunError(
                        f"{process.name} died (exit code {process.exitcode}); continue with --resume once mended"
                    )
        self.wait_seconds += time.perf_counter() - began
        return self.buffers[self.taken % BUFFERS]

    def release(self) -> None:
        self.taken += 1
        for free in self.free:
            free.release()

    def cpu_seconds(self) -> float:
        """User and system time of the actors so far."""
        ticks = 0
        for process in self.processes:
            with open(f"/proc/{process.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def publish(self, network: ActorCritic) -> None:
        self.weights.publish(network)

    def get_state(self) -> dict:
        return {"weights": self.weights.vector}

    def set_state(self, state: dict) -> None:
        with self.weights.version.get_lock():
            self.weights.vector.copy_(state["weights"])
            self.weights.version.value += 1

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()


Sampler = LocalSampler | ProcessSampler


def _batch(config: RunConfig, spec: EnvSpec, network: ActorCritic, shared: bool) -> Buffer:
    policy_size = network.policy_head.output.out_features
    training = config.training
    return make_buffer(spec, training.unroll, training.envs, policy_size, network.initial_state(1), shared)


def _act(config: RunConfig, number: int, start: int, bf16: bool, views, weights: SharedWeights, free, full) -> None:
    """The life of an actor process. It ends with its parent, never by the parent's Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    _die_with_parent()
    stream = start * config.training.actors + number
    env = build_env(config, views[0].unroll.first.shape[1], stream)
    network = build_network(config, env.spec, bf16)
    vector, version = flatten_parameters(network), -1
    actor = Actor(env, network, seed=config.training.seed * 1_000_003 + stream)
    batches = 0
    while True:
        free.acquire()
        with torch.no_grad():
            version = weights.fetch(vector, version)
        actor.collect(views[batches % BUFFERS])
        full.release()
        batches += 1


def _die_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
