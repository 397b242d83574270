"""Evaluation: raw returns of whole episodes under a frozen network, and a recorded episode."""

from typing import Any

import numpy as np
import torch

from envs.interface import TimeStep, VectorEnv
from networks.actor_critic import ActorCritic
from runners.actor import no_action
from runners.build import build_env
from runners.config import RunConfig

MOST_ENVS = 32
HORIZON = 256
"""Steps between moves of a transformer's key and value strips; any number gives the same actions."""


class Player:
    """Acts in `env` with the policy's mode, or samples of it; remembers what it must."""

    def __init__(self, env: VectorEnv, network: ActorCritic, sample: bool, seed: int) -> None:
        self.network, self.sample = network, sample
        self.generator = torch.Generator().manual_seed(seed)
        self.stepper = network.core.acting(network.initial_state(env.num_envs), HORIZON)
        self.action = no_action(env)

    @torch.inference_mode()
    def act(self, step: TimeStep) -> np.ndarray:
        observation, action, reward, first = (
            torch.from_numpy(np.ascontiguousarray(x)) for x in (step.observation, self.action, step.reward, step.first)
        )
        x = self.network.encode(observation, action, reward, first)
        policy = self.network.policy_head(self.stepper.step(x, first))
        self.action = (policy.sample(self.generator) if self.sample else policy.mode()).numpy()
        return self.action


def evaluate(config: RunConfig, network: ActorCritic, episodes: int) -> dict[str, Any]:
    """Play `episodes` and give their raw returns with mean, std, median and the protocol in words.

    Each environment plays an equal number, so short episodes are not counted more often than long ones.
    """
    envs = next(n for n in range(min(episodes, MOST_ENVS), 0, -1) if episodes % n == 0)
    env = build_env(config, envs, stream=-1)
    sample = config.training.eval_policy == "sample"
    player = Player(env, network, sample, seed=config.training.seed)
    returns: list[list[float]] = [[] for _ in range(envs)]
    try:
        step = env.reset()
        while min(map(len, returns)) < episodes // envs:
            step = env.step(player.act(step))
            for i in np.flatnonzero(~np.isnan(step.episode_return)):
                returns[i].append(float(step.episode_return[i]))
    finally:
        env.close()
    scores = [score for each in returns for score in each[: episodes // envs]]
    how = "samples of the policy" if sample else "the policy's mode"
    return {
        "episodes": episodes,
        "mean": float(np.mean(scores)),
        "std": float(np.std(scores)),
        "median": float(np.median(scores)),
        "returns": scores,
        "protocol": f"{how}, raw returns of whole episodes, {envs} environments with {episodes // envs} episode(s) each"
        + (f", up to {config.env.noop_max} no-ops at the start" if config.env.suite == "atari" else ""),
    }


def record_episode(config: RunConfig, network: ActorCritic, most_steps: int = 5_000) -> tuple[np.ndarray, float]:
    """Frames [T, H, W, 3] uint8 of one episode, and its raw return (NaN if `most_steps` did not end it)."""
    env = build_env(config, 1, stream=-2, render=True)
    player = Player(env, network, config.training.eval_policy == "sample", seed=config.training.seed)
    frames = []
    try:
        step = env.reset()
        for _ in range(most_steps):
            frames.append(env.render()[0])
            step = env.step(player.act(step))
            if not np.isnan(step.episode_return[0]):
                frames.append(env.render()[0])
                break
    finally:
        env.close()
    return np.stack(frames), float(step.episode_return[0])
