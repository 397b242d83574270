"""Environments and networks from a configuration: the same in the learner, in actors and in evaluation."""

import torch

from envs.factory import make_env
from envs.interface import Discrete, EnvSpec, VectorEnv
from networks.actor_critic import ActorCritic
from runners.config import RunConfig
from runners.errors import UsageError

SEED_STRIDE = 10_000
"""Between the seeds of two runs: an actor's environments are seeded seed * SEED_STRIDE + its number."""


def build_env(config: RunConfig, envs: int, stream: int, render: bool = False) -> VectorEnv:
    """`stream` numbers the users of randomness in a run: actors 0, 1, ..., the evaluation -1, the video -2."""
    seed = (config.training.seed * SEED_STRIDE + stream) % (2**31)
    return make_env(config.env, envs, seed, render=render)


def build_network(config: RunConfig, spec: EnvSpec, bf16: bool) -> ActorCritic:
    """With weights from torch's global generator."""
    discrete = isinstance(spec.action, Discrete)
    actions = spec.action.n if discrete else spec.action.shape[0]
    if config.network.torso != "mlp" and len(spec.observation_shape) != 3:
        raise UsageError(
            f"--torso {config.network.torso} reads pixels; {spec.name} shows a vector of shape "
            f"{spec.observation_shape}: take --torso mlp"
        )
    step_size = config.agent.popart_step_size
    return ActorCritic(config.network, spec.observation_shape, actions, not discrete, step_size, bf16)


def pick_device(config: RunConfig) -> torch.device:
    wanted = config.training.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; take --device cpu or auto")
    return torch.device(wanted)


def use_bf16(config: RunConfig, device: torch.device) -> bool:
    """Of the torso: asked for, or `auto` where convolutions in bfloat16 have instructions of their own."""
    precision = config.training.precision
    if precision != "auto":
        return precision == "bfloat16"
    if config.network.torso == "mlp":
        return False
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
