"""Choice of the torso's precision: bfloat16 if there are instructions for it and, by measurement, it is faster."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from envs.interface import EnvSpec
from networks.torsos import make_torso
from runners.build import parts_of
from runners.config import RunConfig
from runners.machine.balance import least_seconds
from runners.machine.ranks import ONE_RANK, Ranks


def settle_precision(config: RunConfig, spec: EnvSpec, device: torch.device, ranks: Ranks = ONE_RANK) -> RunConfig:
    """Return `config` with the `auto` of --precision resolved for this machine, alike on all ranks.

    The learner on `device` and its actors on the CPU have the same precision, or their policies would differ.
    config.json keeps `auto`, so that a run which is resumed or evaluated elsewhere is resolved there.
    """
    if config.training.precision != "auto":
        return config
    bf16 = convolves(config, spec) and (device.type == "cpu" or has_bf16(device))
    if device.type == "cpu" or config.training.actors:
        bf16 = bf16 and has_bf16(torch.device("cpu")) and bf16_pays(config, spec, device)
    bf16 = not ranks.any(not bf16)
    return replace(config, training=replace(config.training, precision="bfloat16" if bf16 else "float32"))


def has_bf16(device: torch.device) -> bool:
    """Return whether `device` has instructions for bfloat16; without them it is tens of times as slow as float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has only private functions for this; in a release without them float32 is correct, if slower.
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check() for check in checks if check)


def convolves(config: RunConfig, spec: EnvSpec) -> bool:
    """Return whether observations are pictures alone, and the torso convolutions."""
    return len(spec.parts) == 1 and spec.parts[0].kind == "picture"


def bf16_pays(config: RunConfig, spec: EnvSpec, device: torch.device) -> bool:
    """Return whether, by measurement, the torso takes less CPU time for an agent step in bfloat16.

    Large batches gain and small ones lose. A step is in one batch of an actor and, unless the learner is on a GPU, in
    one of the learner in each pass.
    """
    training = config.training
    acting = max(1, training.envs // max(1, training.actors))
    learning = training.envs // training.minibatches * (training.unroll + 1)
    with torch.random.fork_rng(devices=[]):
        torso = make_torso(config.network, parts_of(config, spec))

    def seconds(bf16: bool) -> float:
        a_step = torso_seconds(torso, pictures(acting, spec.observation_shape), bf16, learn=False) / acting
        if device.type == "cpu":
            batch = torso_seconds(torso, pictures(learning, spec.observation_shape), bf16, learn=True)
            a_step += training.passes * batch / learning
        return a_step

    return seconds(bf16=True) < seconds(bf16=False)


def pictures(count: int, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(count, *shape, dtype=torch.uint8)


def torso_seconds(torso: nn.Module, observation: Tensor, bf16: bool, learn: bool) -> float:
    """Return the seconds of a forward pass on the CPU and, to `learn`, a backward pass."""

    def work() -> None:
        with torch.set_grad_enabled(learn), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            features = torso(observation)
        if learn:
            features.float().sum().backward()

    return least_seconds(work)
