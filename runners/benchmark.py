"""How fast each part of a run is on this machine: environments, acting, training, and the pipeline of all three."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from envs.interface import Discrete, EnvSpec, TimeStep, VectorEnv
from networks.cores import ForwardActing
from networks.transformer import TransformerCore
from runners.actor import Actor
from runners.build import build_env, build_network, stream_seed
from runners.config import RunConfig
from runners.precision import has_bf16
from runners.training import Training
from runners.unrolls import Buffer, make_buffer

ROUNDS = 5
"""Every figure is the median of so many."""


def measure(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Agent steps a second of each part alone on one core, and the bound that follows for all of them.

    Each part is measured in `ROUNDS` rounds of `seconds`. The bound is what all cores would reach if they did nothing
    but step environments, act and train, in perfect balance: cores / (1 / environment + 1 / acting + 1 / training);
    where a GPU trains, the lesser of its rate and that of the cores.
    """
    every_core = sorted(os.sched_getaffinity(0))
    config = replace(config, training=replace(config.training, value_warmup=0, log_seconds=1e9))
    os.sched_setaffinity(0, every_core[:1])  # threads that simulators start inherit it
    try:
        alone = replace(config, training=replace(config.training, actors=0, threads=1))
        training = Training(alone)
        alone = training.config
        peaks = matrix_peaks(training.device)
        environment = environment_alone(alone, seconds)
        acting = acting_alone(alone, training.spec, seconds)
        without = {}
        if isinstance(training.network.core, TransformerCore):
            without["acting_uncached"] = acting_alone(alone, training.spec, seconds, cached=False)
        train, flops = training_alone(training, seconds)
    finally:
        os.sched_setaffinity(0, every_core)
    cores = len(every_core)
    if training.device.type == "cuda":
        bound = min(train, cores / (1 / environment + 1 / acting))
    else:
        bound = cores / (1 / environment + 1 / acting + 1 / train)
    return {
        "environment": environment,
        "acting": acting,
        **without,
        "training": train,
        "batch_ms": 1e3 * config.steps_per_batch / train,
        "training_gflops": flops * train / 1e9,
        "peak_gflops": peaks,
        "parameters": sum(p.numel() for p in training.network.parameters() if p.requires_grad),
        "cores": cores,
        "bound": bound,
    }


def environment_alone(config: RunConfig, seconds: float) -> float:
    """Steps a second under random actions."""
    env = build_env(config, config.training.envs, stream=0)
    rng, spec = np.random.default_rng(0), env.spec
    if isinstance(spec.action, Discrete):
        actions = rng.integers(spec.action.n, size=(64, env.num_envs))
    else:
        actions = rng.uniform(-1, 1, (64, env.num_envs, *spec.action.shape)).astype(np.float32)
    env.reset()

    def some_steps() -> int:
        for action in actions:
            env.step(action)
        return actions.shape[0] * env.num_envs

    try:
        return rate(some_steps, seconds)
    finally:
        env.close()


class Frozen:
    """An environment that shows one step again and again, at no cost."""

    def __init__(self, env: VectorEnv) -> None:
        self.spec, self.num_envs = env.spec, env.num_envs
        self.first_step = env.reset()
        self.next_step = self.first_step._replace(first=np.zeros(env.num_envs, bool))

    def reset(self) -> TimeStep:
        return self.first_step

    def send(self, action: np.ndarray) -> None:
        pass

    def recv(self) -> TimeStep:
        return self.next_step


def acting_alone(config: RunConfig, spec: EnvSpec, seconds: float, cached: bool = True) -> float:
    """Steps a second of an actor whose environments cost nothing, its writing of unrolls included.

    Not `cached`, each step makes keys and values of the whole memory anew, as a forward pass of length one does.
    """
    env = build_env(config, config.training.envs, stream=0)
    network = build_network(config, spec)
    if not cached:
        network.core.acting = lambda state, horizon: ForwardActing(network.core, state)
    actor = Actor(Frozen(env), network, stream_seed(config, 0))
    buffer = _buffer(config, spec, network)

    def unroll() -> int:
        actor.collect(buffer)
        return config.steps_per_batch

    try:
        return rate(unroll, seconds)
    finally:
        env.close()


def training_alone(training: Training, seconds: float) -> tuple[float, float]:
    """Steps a second of all passes over a real batch, and the floating-point operations that a step takes."""
    loop = training.run()
    next(loop)
    unroll = training.sampler.next().unroll
    with FlopCounterMode(display=False) as counter:
        training.learner.train(unroll, 0.0, lambda: None)

    def batch() -> int:
        training.learner.train(unroll, 0.0, lambda: None)
        _synchronise(training.device)
        return training.config.steps_per_batch

    try:
        return rate(batch, seconds), counter.get_total_flops() / training.config.steps_per_batch
    finally:
        loop.close()


def pipeline_of_all(config: RunConfig, seconds: float) -> float:
    """Steps a second of the run that `config` describes, from its third batch on."""
    endless = replace(config, training=replace(config.training, steps=2**40))
    training = Training(endless)
    loop = training.run()

    def batch() -> int:
        next(loop)
        return config.steps_per_batch

    try:
        return rate(batch, seconds, warm_up=3)
    finally:
        loop.close()


def matrix_peaks(device: torch.device, size: int = 2048) -> dict[str, float]:
    """GFLOP/s of the product of two square matrices, on one core or on the GPU; in bfloat16 where it has that."""
    peaks = {}
    for dtype in (torch.float32, torch.bfloat16) if has_bf16(device) else (torch.float32,):
        a = torch.randn(size, size, device=device).to(dtype)

        def product(a: torch.Tensor = a) -> int:
            a @ a
            _synchronise(device)
            return 2 * size**3

        peaks[str(dtype).removeprefix("torch.")] = rate(product, 0.2) / 1e9
    return peaks


def rate(work: Callable[[], int], seconds: float, warm_up: int = 1) -> float:
    """Units a second of `work`, which returns how many it did: the median of ROUNDS rounds."""
    for _ in range(warm_up):
        work()
    rates = []
    for _ in range(ROUNDS):
        done, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            done += work()
        rates.append(done / passed)
    return statistics.median(rates)


def profile(config: RunConfig, batches: int = 8) -> dict[str, dict[str, float]]:
    """Microseconds an agent step of each stage, in one process and thread: of the actor, of the learner, all of it."""
    alone = replace(config.training, actors=0, threads=1, value_warmup=0, log_seconds=1e9)
    training = Training(replace(config, training=alone))
    loop = training.run()
    next(loop)
    actor, learner = training.sampler.actor, training.learner
    stages = {
        "actor": [(actor.env, "send", "send"), (actor.env, "recv", "wait for environments")]
        + [(actor.network, "encode", "torso"), (actor.network.core, "acting", "cache keys and values")]
        + [(actor.network.policy_head, "forward", "policy head"), (Buffer, "write", "write unroll")],
        "learner": [(learner.forward, "forward", "forward"), (learner.agent, "loss", "loss")]
        + [(torch.Tensor, "backward", "backward"), (learner.optimizer, "step", "Adam")]
        + [(learner.network.value_head, "update", "PopArt")],
    }
    with stopwatch([stage for part in stages.values() for stage in part]) as spent:
        began = time.perf_counter()
        acted = training.sampler.wait_seconds
        for _ in range(batches):
            next(loop)
        total, acted = time.perf_counter() - began, training.sampler.wait_seconds - acted
    loop.close()
    scale = 1e6 / (batches * config.steps_per_batch)
    tables = {}
    for part, whole in (("actor", acted), ("learner", total - acted)):
        known = {name: spent[name] for _, _, name in stages[part]}
        tables[part] = {name: scale * s for name, s in (known | {"rest": whole - sum(known.values())}).items()}
    return tables


@contextmanager
def stopwatch(stages: list[tuple[object, str, str]]) -> Iterator[dict[str, float]]:
    """Inside, the seconds spent in each (owner, method, name) add up under its name."""
    spent = {name: 0.0 for _, _, name in stages}

    def timed(method: Callable, name: str) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - began

        return call

    before = [(owner, method, vars(owner).get(method)) for owner, method, _ in stages]
    for owner, method, name in stages:
        setattr(owner, method, timed(getattr(owner, method), name))
    try:
        yield spent
    finally:
        for owner, method, own in before:
            if own is None:
                delattr(owner, method)
            else:
                setattr(owner, method, own)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _buffer(config: RunConfig, spec: EnvSpec, network: torch.nn.Module) -> Buffer:
    policy_size = network.policy_head.output.out_features
    state = network.initial_state(1)
    return make_buffer(spec, config.training.unroll, config.tasks, policy_size, state, shared=False)
