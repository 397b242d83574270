"""Small runs, and parts of them."""

import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from runners.build import build_env, build_network
from runners.cli import parse
from runners.config import AtariEnv, ControlEnv, RunConfig
from runners.presets import PRESETS
from runners.records.metrics import Layout
from runners.training import AgentTraining

ONE_TASK = np.zeros(4, np.int64)
"""The tasks of the environments of a `small` run."""


def small(core: str = "gtrxl", env: str = "CartPole-v1", agent: str = "vmpo", **training) -> RunConfig:
    config = PRESETS["control", "small"](agent)
    return replace(
        config,
        env=ControlEnv(name=env),
        network=replace(config.network, core=core, embedding=16, heads=2, key_size=8, mlp_size=16, memory=12),
        training=replace(config.training, **{"envs": 4, "unroll": 16, "log_seconds": 0.0, **training}),
    )


def small_atari(games: str, **training) -> RunConfig:
    config, _ = parse("atari", ["--core", "feedforward", "--torso-hidden", "16", "--embedding", "16"])
    sizes = {"envs": 6, "unroll": 8, "minibatches": 2, "value_warmup": 0, "log_seconds": 0.0, **training}
    return replace(config, env=AtariEnv(name=games), training=replace(config.training, **sizes))


def batches(config: RunConfig, count: int, training: AgentTraining | None = None) -> AgentTraining:
    """Return `training`, or a new one, after `count` batches."""
    training = training or AgentTraining(config)
    loop = training.run()
    for _ in range(count):
        next(loop)
    loop.close()
    return training


def make_sampler(kind: type, config: RunConfig, start: int = 0, acts_in: RunConfig | None = None, **options: int):
    """Return a sampler and the network that it starts from; `acts_in` is what actors run, if not `config`."""
    torch.manual_seed(0)
    env = build_env(config, 1, stream=0)
    env.close()
    network = build_network(config, env.spec)
    return kind(acts_in or config, env.spec, network, start, **options), network


def empty_charts(layout: Layout, names: Iterable[str]) -> set[str]:
    """Return the charts of a dashboard that would show nothing of a run with metrics of these `names`."""
    charts = {chart: tags for category in layout.values() for chart, (_, tags) in category.items()}
    return {chart for chart, tags in charts.items() if not any(re.fullmatch(t, name) for t in tags for name in names)}
