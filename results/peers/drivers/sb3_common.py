"""What the drivers of stable-baselines3 and of sb3-contrib share: Pong, PPO's settings and the marks."""

from argparse import Namespace
from typing import Any

import ale_py
import gymnasium
import torch
from protocol import (
    ANNEALED_OVER,
    CLIP,
    DISCOUNT,
    ENTROPY,
    FRAME_SKIP,
    GAE_LAMBDA,
    GRADIENT_NORM,
    LEARNING_RATE,
    VALUE,
    Marks,
    describe,
    mean_of,
    options,
)
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

PACKAGES = ["torch", "stable-baselines3", "gymnasium", "ale-py", "numpy"]


class Batches(BaseCallback):
    """A mark where a rollout starts: the batch before it has been learned from."""

    def __init__(self, bar: float | None) -> None:
        super().__init__()
        self.mark = Marks(bar)

    def _on_rollout_start(self) -> None:
        self.mark(self.num_timesteps, mean_return(self))

    def _on_step(self) -> bool:
        return True


def mean_return(callback: BaseCallback) -> float | None:
    episodes: Any = callback.model.ep_info_buffer
    return mean_of([episode["r"] for episode in episodes])


def pong(envs: int, seed: int) -> VecFrameStack:
    """Pong as stable-baselines3 wraps it, all environments in this process: on one core subprocesses only cost."""
    gymnasium.register_envs(ale_py)
    plain = {"frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False}
    wrapping = {"frame_skip": FRAME_SKIP}
    made = make_atari_env(
        "ALE/Pong-v5", envs, seed=seed, env_kwargs=plain, wrapper_kwargs=wrapping, vec_env_cls=DummyVecEnv
    )
    return VecFrameStack(made, n_stack=4)


def train(algorithm: type, policy: str, packages: list[str], **policy_options: Any) -> None:
    """With a mark after each batch."""
    torch.set_num_threads(1)
    chosen: Namespace = options()
    model = algorithm(
        policy,
        pong(chosen.envs, chosen.seed),
        n_steps=chosen.unroll,
        batch_size=chosen.envs * chosen.unroll // chosen.minibatches,
        n_epochs=chosen.passes,
        learning_rate=lambda remaining: LEARNING_RATE * remaining,
        clip_range=lambda remaining: CLIP * remaining,
        ent_coef=ENTROPY,
        vf_coef=VALUE,
        gamma=DISCOUNT,
        gae_lambda=GAE_LAMBDA,
        max_grad_norm=GRADIENT_NORM,
        seed=chosen.seed,
        device="cpu",
        policy_kwargs=policy_options or None,
    )
    describe(
        packages,
        rule=algorithm.__name__,
        simulator="ale-py in make_atari_env, DummyVecEnv, VecFrameStack",
        arithmetic="float32, channels first",
        parameters=sum(p.numel() for p in model.policy.parameters()),
        **vars(chosen),
    )
    model.learn(ANNEALED_OVER, callback=Batches(chosen.bar))
