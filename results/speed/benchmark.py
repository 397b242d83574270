"""How fast each part of a run is on this machine: environments, acting, training, and the pipeline of all three."""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from envs.interface import EnvSpec, TimeStep, VectorEnv
from networks.cores import ForwardActing
from networks.transformer import TransformerCore
from runners.acting.samplers import LocalSampler
from runners.acting.unrolls import Buffer
from runners.acting.weights import flatten_weights
from runners.build import build_env, build_network, pick_device
from runners.config import RunConfig
from runners.learning.learner import Learner
from runners.machine.precision import has_bf16, settle_precision
from runners.training import Training

ROUNDS = 5
"""Rounds that every figure is the median of."""
SETTLING = 3
"""Batches until the pipeline runs evenly again after the other parts had their turn: actors worked ahead meanwhile."""


class Part(NamedTuple):
    """Part to measure: `work` does some of it and returns how many units, on `cores`, with `threads` of torch."""

    work: Callable[[], int]
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
    every_core = sorted(os.sched_getaffinity(0))
    config = replace(config, training=replace(config.training, value_warmup=0, log_seconds=1e9))
    with ExitStack() as stack:
        with placed(every_core[:1], threads=1):  # threads that simulators start inherit the core
            env = build_env(config, 1, stream=0)
            env.close()
            config = settle_precision(config, env.spec, pick_device(config))  # for all parts, whoever acts in them
            training, parts = alone(config, every_core[:1], stack)
        if pipeline:
            parts["pipeline"] = pipeline_of_all(config, every_core, stack)
        rounds = take_turns(parts, seconds)
        with placed(every_core[:1], threads=1):
            flops = operations(training)  # last: whatever the counter leaves behind, training is slower by a seventh
    peaks = {name: statistics.median(rounds.pop(name)) / 1e9 for name in list(rounds) if name in PEAKS}
    on_gpu = ("training",) if config.training.actors else ("acting", "training")
    on_gpu = on_gpu if training.device.type == "cuda" else ()
    parts_alone = "environment", "acting", "training"
    rounds["bound"] = [
        bound(dict(zip(parts_alone, rates, strict=True)), len(every_core), on_gpu)
        for rates in zip(*(rounds[name] for name in parts_alone), strict=True)
    ]
    if pipeline:
        rounds["ratio"] = [a / b for a, b in zip(rounds["pipeline"], rounds["bound"], strict=True)]
    figures = {name: statistics.median(values) for name, values in rounds.items()}
    return {
        **figures,
        "batch_ms": 1e3 * config.steps_per_batch / figures["training"],
        "training_gflops": flops * figures["training"] / 1e9,
        "peak_gflops": peaks,
        "parameters": sum(p.numel() for p in training.network.parameters() if p.requires_grad),
        "cores": len(every_core),
        "rounds": rounds,
    }


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


def rate(work: Callable[[], int], seconds: float, settling: int = 1) -> float:
    """Return units a second of `work`, which returns how many it did, called for at least `seconds`."""
    for _ in range(settling):
        work()
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        done += work()
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


def alone(config: RunConfig, cores: Sequence[int], stack: ExitStack) -> tuple[Training, dict[str, Part]]:
    """Return the parts that are measured on one core; `stack` ends what they started."""
    training = Training(replace(config, training=replace(config.training, actors=0, threads=1)))
    acts_on = torch.device("cpu") if config.training.actors else training.device
    config = training.config
    loop = training.run()
    stack.callback(loop.close)
    next(loop)
    works = {
        "environment": environment_alone(config, stack),
        "acting": acting_alone(config, training.spec, acts_on, training.settled.groups, stack),
        "training": training_alone(training),
    }
    if isinstance(training.network.core, TransformerCore):
        works |= {"core": core_alone(config, training.spec, acts_on, cached=True)}
        works |= {"core_uncached": core_alone(config, training.spec, acts_on, cached=False)}
    works |= {name: matrix_product(dtype, training.device) for name, dtype in PEAKS.items()}
    if not has_bf16(training.device):
        del works["bfloat16"]
    return training, {name: Part(work, cores) for name, work in works.items()}


def environment_alone(config: RunConfig, stack: ExitStack) -> Callable[[], int]:
    """Return a function that takes steps under random actions."""
    env = build_env(config, config.training.envs, stream=0)
    stack.callback(env.close)
    rng, spec = np.random.default_rng(0), env.spec
    actions = [spec.action.sample(rng, env.num_envs) for _ in range(64)]
    env.reset()

    def some_steps() -> int:
        for action in actions:
            env.step(action)
        return len(actions) * env.num_envs

    return some_steps


class Frozen:
    """Environment that shows one step again and again, at no cost."""

    def __init__(self, env: VectorEnv, step: TimeStep) -> None:
        self.spec, self.num_envs, self.step = env.spec, env.num_envs, step._replace(first=np.zeros(env.num_envs, bool))

    def send(self, action: np.ndarray) -> None:
        pass

    def recv(self) -> TimeStep:
        return self.step


def acting_alone(
    config: RunConfig, spec: EnvSpec, device: torch.device, groups: int, stack: ExitStack
) -> Callable[[], int]:
    """Return a function of actors whose environments cost nothing; fetching weights and writing unrolls count."""
    network = build_network(config, spec)
    sampler = LocalSampler(config, spec, network, start=0, device=device, groups=groups)
    for actor in sampler.actors:
        stack.callback(actor.env.close)
        actor.env = Frozen(actor.env, actor.step)
    training, weights = config.training, flatten_weights(network).to(device)
    batches = itertools.count()

    def unroll() -> int:
        if next(batches) % training.target_period == 0:
            sampler.load(weights)
        sampler.next()
        return config.steps_per_batch

    return unroll


def core_alone(config: RunConfig, spec: EnvSpec, device: torch.device, cached: bool) -> Callable[[], int]:
    """Return a function that acts by a transformer core alone.

    Not `cached`, each step makes the whole memory's keys and values anew.
    """
    core = build_network(config, spec).core.to(device)
    envs, steps = config.training.envs, config.training.unroll
    x, first = torch.randn(envs, core.output_size, device=device), torch.zeros(envs, dtype=torch.bool, device=device)
    state = core.initial_state(envs)

    @torch.inference_mode()
    def unroll() -> int:
        stepper = core.acting(state, steps) if cached else ForwardActing(core, state)
        for _ in range(steps):
            stepper.step(x, first)
        _synchronise(device)
        return envs * steps

    return unroll


def training_alone(training: Training) -> Callable[[], int]:
    """Return a function that makes all passes over a real batch."""
    unroll = training.sampler.next().unroll

    def batch() -> int:
        training.learner.train(unroll, 0.0)
        _synchronise(training.device)
        return training.config.steps_per_batch

    return batch


def operations(training: Training) -> float:
    """Return the floating-point operations of an agent step in all passes, uncompiled: a CUDA graph would hide them."""
    plain = replace(training.config, training=replace(training.config.training, compile=False))
    learner = Learner(plain, training.network, training.learner.agent, training.device, fresh=False)
    unroll = training.sampler.next().unroll
    with FlopCounterMode(display=False) as counter:
        learner.train(unroll, 0.0)
    return counter.get_total_flops() / training.config.steps_per_batch


def pipeline_of_all(config: RunConfig, cores: Sequence[int], stack: ExitStack) -> Part:
    """Return the run that `config` describes."""
    endless = replace(config, training=replace(config.training, steps=2**40))
    training = Training(endless)
    loop = training.run()
    stack.callback(loop.close)
    next(loop)

    def batch() -> int:
        next(loop)
        return config.steps_per_batch

    def until_actors_wait() -> None:
        before = -1.0
        while (now := training.sampler.cpu_seconds()) > before:
            before = now
            time.sleep(0.1)

    return Part(batch, cores, torch.get_num_threads(), SETTLING, until_actors_wait)


PEAKS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def matrix_product(dtype: torch.dtype, device: torch.device) -> Callable[[], int]:
    """Return a function that multiplies square matrices, on one core or, larger and several in a row, on the GPU."""
    size, products = (8192, 8) if device.type == "cuda" else (2048, 1)
    a = torch.randn(size, size, device=device).to(dtype)

    def product() -> int:
        for _ in range(products):
            a @ a
        _synchronise(device)
        return products * 2 * size**3

    return product


def profile(config: RunConfig, batches: int = 8) -> dict[str, dict[str, float]]:
    """Return microseconds an agent step of each stage of the actor and of the learner, in one process and thread."""
    alone = replace(config.training, actors=0, threads=1, value_warmup=0, log_seconds=1e9)
    training = Training(replace(config, training=alone))
    loop = training.run()
    next(loop)
    learner = training.learner
    stages = {
        "actor": [(Buffer, "write", "write unroll")],
        "learner": [(learner.forward, "forward", "forward"), (learner.agent, "loss", "loss")]
        + [(torch.Tensor, "backward", "backward"), (learner.optimizer, "step", "Adam")]
        + [(learner.network.value_head, "update", "PopArt")],
    }
    for actor in training.sampler.actors:
        stages["actor"] += [(actor.env, "send", "send"), (actor.env, "recv", "wait for environments")]
        stages["actor"] += [(actor, "encode", "torso"), (actor.network.core, "acting", "cache keys and values")]
        stages["actor"] += [(actor.network.policy_head, "forward", "policy head")]
    with stopwatch([stage for part in stages.values() for stage in part], training.device) as spent:
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
def stopwatch(stages: list[tuple[object, str, str]], device: torch.device) -> Iterator[dict[str, float]]:
    """Give the seconds spent in each (owner, method, name) by name, until `device` is done with it."""
    spent = {name: 0.0 for _, _, name in stages}

    def timed(method: Callable, name: str) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                _synchronise(device)
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
