"""stable-baselines3's PPO on CartPole-v1, with the settings that its zoo publishes for this task."""

import argparse

import torch
from protocol import Marks, describe
from sb3_pong import mean_return
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

PACKAGES = ["torch", "stable-baselines3", "gymnasium", "numpy"]
STEPS = 100_000
ZOO = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98, "ent_coef": 0.0}
ENVS, LEARNING_RATE, CLIP = 8, 0.001, 0.2


class Steps(BaseCallback):
    """Marks where learning begins, and after steps."""

    def __init__(self, bar: float | None) -> None:
        super().__init__()
        self.mark = Marks(bar)

    def _on_training_start(self) -> None:
        self.mark(0)

    def _on_step(self) -> bool:
        self.mark(self.num_timesteps, mean_return(self))
        return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bar", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", ENVS, seed=chosen.seed),
        learning_rate=lambda remaining: LEARNING_RATE * remaining,
        clip_range=lambda remaining: CLIP * remaining,
        seed=chosen.seed,
        device="cpu",
        **ZOO,
    )
    describe(PACKAGES, rule="PPO", core="feedforward", parameters=sum(p.numel() for p in model.policy.parameters()))
    model.learn(STEPS, callback=Steps(chosen.bar))
