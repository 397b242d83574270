"""Pong by stable-baselines3's PPO, with the Nature CNN of 512 and linear heads, or by sb3-contrib's RecurrentPPO."""

from argparse import Namespace
from typing import Any

import ale_py
import gymnasium
import protocol
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

PACKAGES = ["torch", "stable-baselines3", "gymnasium", "ale-py", "numpy"]


class Batches(BaseCallback):
    """Marks where a rollout starts: the batch before it has been learned from."""

    def __init__(self, bar: float | None) -> None:
        super().__init__()
        self.mark = protocol.Marks(bar)

    def _on_rollout_start(self) -> None:
        self.mark(self.num_timesteps, mean_return(self))

    def _on_step(self) -> bool:
        return True


def mean_return(callback: BaseCallback) -> float | None:
    episodes: Any = callback.model.ep_info_buffer
    return protocol.mean_of([episode["r"] for episode in episodes])


def pong(envs: int, seed: int) -> VecFrameStack:
    """Return Pong as stable-baselines3 wraps it. All environments are in this process: on one core others only cost."""
    gymnasium.register_envs(ale_py)
    plain = {"frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False}
    wrapping = {"frame_skip": protocol.PONG["frame_skip"]}
    made = make_atari_env(
        "ALE/Pong-v5", envs, seed=seed, env_kwargs=plain, wrapper_kwargs=wrapping, vec_env_cls=DummyVecEnv
    )
    return VecFrameStack(made, n_stack=4)


def train(chosen: Namespace) -> None:
    """Train PPO or, with an LSTM, RecurrentPPO, with a mark after each batch.

    PPO has no memory. RecurrentPPO's actor and critic share one LSTM; by default each has its own, which is slower.
    """
    torch.set_num_threads(1)
    algorithm, policy, packages, network = PPO, "CnnPolicy", PACKAGES, None
    if chosen.core == "lstm":
        from sb3_contrib import RecurrentPPO

        algorithm, policy, packages = RecurrentPPO, "CnnLstmPolicy", [*PACKAGES, "sb3-contrib"]
        network = {"lstm_hidden_size": chosen.hidden, "shared_lstm": True, "enable_critic_lstm": False}
    model = algorithm(
        policy,
        pong(chosen.envs, chosen.seed),
        n_steps=chosen.unroll,
        batch_size=chosen.envs * chosen.unroll // chosen.minibatches,
        n_epochs=chosen.passes,
        learning_rate=lambda remaining: protocol.LEARNING_RATE * remaining,
        clip_range=lambda remaining: protocol.CLIP * remaining,
        ent_coef=protocol.ENTROPY,
        vf_coef=protocol.VALUE,
        gamma=protocol.DISCOUNT,
        gae_lambda=protocol.GAE_LAMBDA,
        max_grad_norm=protocol.GRADIENT_NORM,
        seed=chosen.seed,
        device="cpu",
        policy_kwargs=network,
    )
    protocol.describe(
        packages,
        rule=algorithm.__name__,
        simulator="ale-py in make_atari_env, DummyVecEnv, VecFrameStack",
        arithmetic="float32, channels first",
        parameters=sum(p.numel() for p in model.policy.parameters()),
        **vars(chosen),
    )
    model.learn(protocol.ANNEALED_OVER, callback=Batches(chosen.bar))


if __name__ == "__main__":
    train(protocol.options())
