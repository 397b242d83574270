"""Speed of each part of a run on this machine: environments, acting, training, and the pipeline of all three.

A part is a generator: each step of it does some work and yields how many units that was.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from networks.cores import ForwardActing
from networks.transformer import TransformerCore
from runners.acting.samplers import LocalSampler
from runners.acting.weights import flatten_weights
from runners.build import build_env, build_network, pick_device, spec_of
from runners.config import RunConfig
from runners.learning.learner import Learner
from runners.machine.precision import has_bf16, settle_precision
from runners.training import AgentTraining

ROUNDS = 5
"""Rounds that every figure is the median of."""
SETTLING = 3
"""Batches until the pipeline runs evenly again after the other parts had their turn: actors worked ahead meanwhile."""
PEAKS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Part(NamedTuple):
    """Part to measure on `cores`, with `threads` of torch."""

    work: Iterator[int]
    cores: Sequence[int]
    threads: int = 1
    settling: int = 1
    rest: Callable[[], None] = lambda: None
    """Function that returns when nothing of it runs any more, so that the next part has the machine to itself."""


def measure(config: RunConfig, seconds: float, pipeline: bool = True) -> dict[str, Any]:
    """Return agent steps a second of each part alone on one core, the bound for all cores, and the pipeline.

    The parts take turns, `seconds` each, for `ROUNDS` rounds, so that a machine whose speed drifts is the same to all
    of them. `ratio` is the median of the rounds' ratios of pipeline and bound.
    """
    cores = sorted(os.sched_getaffinity(0))
    config = with_training(config, value_warmup=0, log_seconds=1e9)
    with ExitStack() as stack:
        with placed(cores[:1], threads=1):  # threads that simulators start inherit the core
            config = settle_precision(config, spec_of(config), pick_device(config))  # for all parts, whoever acts
            training, _ = started(with_training(config, actors=0, threads=1), stack)
        device = torch.device("cpu") if config.training.actors else training.device
        parts = {
            "environment": Part(environment(training.config), cores[:1]),
            "acting": Part(acting(training, device), cores[:1]),
            "training": Part(batches(training), cores[:1]),
        }
        if isinstance(training.network.core, TransformerCore):
            for name, cached in (("core", True), ("core_uncached", False)):
                parts[name] = Part(core_alone(training, device, cached), cores[:1])
        for name, dtype in PEAKS.items():
            if name == "float32" or has_bf16(training.device):
                parts[name] = Part(matrix_products(dtype, training.device), cores[:1])
        if pipeline:
            parts["pipeline"] = pipeline_of_all(config, cores, stack)
        for part in parts.values():
            stack.enter_context(closing(part.work))
        rounds = take_turns(parts, seconds)
        with placed(cores[:1], threads=1):
            flops = operations(training)  # last: whatever the counter leaves behind, training is slower by a seventh
    peaks = {name: statistics.median(rounds.pop(name)) / 1e9 for name in PEAKS if name in rounds}
    on_gpu = ("acting",) if not config.training.actors else ()
    on_gpu = ("training", *on_gpu) if training.device.type == "cuda" else ()
    alone = [{name: rounds[name][i] for name in ("environment", "acting", "training")} for i in range(ROUNDS)]
    rounds["bound"] = [bound(rates, len(cores), on_gpu) for rates in alone]
    if pipeline:
        rounds["ratio"] = [a / b for a, b in zip(rounds["pipeline"], rounds["bound"], strict=True)]
    figures = {name: statistics.median(values) for name, values in rounds.items()}
    return figures | {
        "training_gflops": flops * figures["training"] / 1e9,
        "peak_gflops": peaks,
        "parameters": training.parameters,
        "cores": len(cores),
        "rounds": rounds,
    }


def with_training(config: RunConfig, **options: Any) -> RunConfig:
    return replace(config, training=replace(config.training, **options))


def started(config: RunConfig, stack: ExitStack) -> tuple[AgentTraining, Iterator]:
    """Return a run and its loop after the first batch; `stack` ends what it started."""
    training = AgentTraining(config)
    loop = stack.enter_context(closing(training.run()))
    next(loop)
    return training, loop


def bound(rates: Mapping[str, float], cores: int, on_gpu: Collection[str] = ()) -> float:
    """Return steps a second of `cores` and a GPU in perfect balance, from the rate of each part alone.

    The GPU does the parts `on_gpu`, the cores the others; each waits for the slower.
    """
    of_cores = sum(1 / rate for part, rate in rates.items() if part not in on_gpu)
    of_gpu = sum(1 / rates[part] for part in on_gpu)
    return 1 / max(of_cores / cores, of_gpu)


def take_turns(parts: dict[str, Part], seconds: float) -> dict[str, list[float]]:
    """Return units a second of each part in each round."""
    rounds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(ROUNDS):
        for name, part in parts.items():
            with placed(part.cores, part.threads):
                rounds[name].append(rate(part.work, seconds, part.settling))
                part.rest()
    return rounds


def rate(work: Iterator[int], seconds: float, settling: int = 1) -> float:
    """Return units a second of `work`, which goes on for at least `seconds`."""
    for _ in range(settling):
        next(work)
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        done += next(work)
    return done / passed


@contextmanager
def placed(cores: Sequence[int], threads: int) -> Iterator[None]:
    """Run this thread and those that it starts on `cores`, and torch with `threads` threads, until this is left."""
    before, threads_before = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        torch.set_num_threads(threads_before)


def environment(config: RunConfig) -> Iterator[int]:
    """Take steps under random actions."""
    env = build_env(config, config.training.envs, stream=0)
    rng = np.random.default_rng(0)
    actions = [env.spec.action.sample(rng, env.num_envs) for _ in range(64)]
    with closing(env):
        env.reset()
        while True:
            for action in actions:
                env.step(action)
            yield len(actions) * env.num_envs


def acting(training: AgentTraining, device: torch.device) -> Iterator[int]:
    """Act in environments that show one step again and again, at no cost; all else that actors do counts."""
    config, groups = training.config, training.settled.groups
    network = build_network(config, training.spec)
    sampler = LocalSampler(config, training.spec, network, start=0, device=device, groups=groups)
    for actor in sampler.actors:
        actor.env.close()
        step = actor.step._replace(first=np.zeros(actor.env.num_envs, bool))
        actor.env = SimpleNamespace(spec=actor.env.spec, send=lambda action: None, recv=lambda step=step: step)
    weights = flatten_weights(network).to(device)
    for batch in itertools.count():
        if batch % config.training.target_period == 0:
            sampler.load(weights)
        sampler.next()
        yield config.steps_per_batch


def core_alone(training: AgentTraining, device: torch.device, cached: bool) -> Iterator[int]:
    """Act by the transformer core alone; not `cached`, each step makes the whole memory's keys and values anew."""
    core = build_network(training.config, training.spec).core.to(device)
    envs, steps = training.config.training.envs, training.config.training.unroll
    x, first = torch.randn(envs, core.output_size, device=device), torch.zeros(envs, dtype=torch.bool, device=device)
    state = core.initial_state(envs)
    while True:
        with torch.inference_mode():
            stepper = core.acting(state, steps) if cached else ForwardActing(core, state)
            for _ in range(steps):
                stepper.step(x, first)
        _synchronise(device)
        yield envs * steps


def batches(training: AgentTraining) -> Iterator[int]:
    """Make all passes over a real batch, again and again."""
    unroll = training.sampler.next().unroll
    while True:
        training.learner.train(unroll, 0.0)
        _synchronise(training.device)
        yield training.config.steps_per_batch


def operations(training: AgentTraining) -> float:
    """Return the floating-point operations of an agent step in all passes, uncompiled: a CUDA graph would hide them."""
    plain = with_training(training.config, compile=False)
    learner = Learner(plain, training.network, training.learner.agent, training.device, fresh=False)
    unroll = training.sampler.next().unroll
    with FlopCounterMode(display=False) as counter:
        learner.train(unroll, 0.0)
    return counter.get_total_flops() / training.config.steps_per_batch


def pipeline_of_all(config: RunConfig, cores: Sequence[int], stack: ExitStack) -> Part:
    """Return the run that `config` describes."""
    training, loop = started(with_training(config, steps=2**40), stack)

    def until_actors_wait() -> None:
        before = -1.0
        while (now := training.sampler.cpu_seconds()) > before:
            before = now
            time.sleep(0.1)

    work = (config.steps_per_batch for _ in loop)
    return Part(work, cores, torch.get_num_threads(), SETTLING, until_actors_wait)


def matrix_products(dtype: torch.dtype, device: torch.device) -> Iterator[int]:
    """Multiply square matrices, on one core or, larger and several in a row, on the GPU; a unit is an operation."""
    size, products = (8192, 8) if device.type == "cuda" else (2048, 1)
    a = torch.randn(size, size, device=device).to(dtype)
    while True:
        for _ in range(products):
            a @ a
        _synchronise(device)
        yield products * 2 * size**3


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
