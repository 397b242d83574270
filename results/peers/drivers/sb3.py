"""PPO of stable-baselines3, or RecurrentPPO of sb3-contrib: on Pong, or with --env on CartPole-v1."""

from argparse import Namespace
from typing import Any

import ale_py
import gymnasium
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack

from results.peers.drivers import protocol

PACKAGES = ["torch", "stable-baselines3", "gymnasium", "ale-py", "numpy"]
CARTPOLE = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98, "ent_coef": 0.0}
"""Settings that the zoo of stable-baselines3 publishes for CartPole-v1, with 8 environments and 100,000 steps."""


class Marked(BaseCallback):
    """Marks where a rollout starts, when the batch before it has been learned from, or after `every_step`."""

    def __init__(self, bar: float | None, every_step: bool) -> None:
        super().__init__()
        self.mark, self.every_step = protocol.Marks(bar), every_step

    def _on_rollout_start(self) -> None:
        episodes: Any = self.model.ep_info_buffer
        self.mark(self.num_timesteps, protocol.mean_of([episode["r"] for episode in episodes]))

    def _on_step(self) -> bool:
        if self.every_step:
            self._on_rollout_start()
        return True


def pong(envs: int, seed: int) -> VecEnv:
    """Return Pong as stable-baselines3 wraps it. All environments are in this process: on one core others only cost."""
    gymnasium.register_envs(ale_py)
    plain = {"frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False}
    wrapping = {"frame_skip": protocol.PONG["frame_skip"]}
    how = {"seed": seed, "env_kwargs": plain, "wrapper_kwargs": wrapping, "vec_env_cls": DummyVecEnv}
    return VecFrameStack(make_atari_env("ALE/Pong-v5", envs, **how), n_stack=4)


def make(chosen: Namespace) -> tuple[PPO, int]:
    """Return the algorithm and the agent steps over which its learning rate falls to nothing.

    PPO has no memory. RecurrentPPO's actor and critic share one LSTM; by default each has its own, which is slower.
    """
    common = {"seed": chosen.seed, "device": "cpu"}
    if chosen.env == "CartPole-v1":
        common |= {"learning_rate": lambda left: 0.001 * left, "clip_range": lambda left: 0.2 * left}
        return PPO("MlpPolicy", make_vec_env("CartPole-v1", 8, seed=chosen.seed), **CARTPOLE, **common), 100_000
    algorithm, policy, network = PPO, "CnnPolicy", None
    if chosen.core == "lstm":
        from sb3_contrib import RecurrentPPO

        algorithm, policy = RecurrentPPO, "CnnLstmPolicy"
        network = {"lstm_hidden_size": chosen.hidden, "shared_lstm": True, "enable_critic_lstm": False}
    model = algorithm(
        policy,
        pong(chosen.envs, chosen.seed),
        n_steps=chosen.unroll,
        batch_size=chosen.envs * chosen.unroll // chosen.minibatches,
        n_epochs=chosen.passes,
        learning_rate=lambda left: protocol.LEARNING_RATE * left,
        clip_range=lambda left: protocol.CLIP * left,
        ent_coef=protocol.ENTROPY,
        vf_coef=protocol.VALUE,
        gamma=protocol.DISCOUNT,
        gae_lambda=protocol.GAE_LAMBDA,
        max_grad_norm=protocol.GRADIENT_NORM,
        policy_kwargs=network,
        **common,
    )
    return model, protocol.ANNEALED_OVER


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = protocol.options()
    model, steps = make(chosen)
    packages = [*PACKAGES, "sb3-contrib"] if chosen.core == "lstm" else PACKAGES
    about = protocol.ABOUT | {"rule": type(model).__name__, "simulator": "gymnasium in DummyVecEnv"}
    protocol.describe(packages, model.policy.parameters(), **about, **vars(chosen))
    model.learn(steps, callback=Marked(chosen.bar, every_step=chosen.env != "Pong"))
