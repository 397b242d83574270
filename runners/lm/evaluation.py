"""The reward on held-out prompts, sampled and greedy."""

from typing import Any

import numpy as np
import torch
from torch import nn

from networks.language import sample
from runners.lm.config import LMConfig
from runners.lm.problem import Problem

EVALUATION = 1
"""Stream of the held-out prompts, the same for every seed."""
SHOWN = 8


def evaluate(config: LMConfig, problem: Problem, model: nn.Module) -> dict[str, Any]:
    """Mean reward of one sample a prompt (`mean`) and of the likeliest completion by token (`greedy`), and samples."""
    count = config.data.eval_prompts
    texts, prompts = problem.prompts(count, np.random.default_rng([EVALUATION, 0]))
    generator = torch.Generator(problem.device).manual_seed(EVALUATION)
    length, end = problem.task.completion_length, problem.tokenizer.eos_token_id
    drawn = sample(model, prompts, length, end, generator, config.data.sampling_temperature)
    greedy = sample(model, prompts, length, end, None)
    rewards = problem.rewards(texts, drawn)
    shown = zip(texts[:SHOWN], problem.decode(drawn)[:SHOWN], rewards.tolist(), strict=False)
    return {
        "prompts": count,
        "mean": float(rewards.mean()),
        "std": float(rewards.std(unbiased=False)),
        "median": float(rewards.median()),
        "greedy": float(problem.rewards(texts, greedy).mean()),
        "protocol": f"one sample at temperature {config.data.sampling_temperature:g} of each held-out prompt",
        "samples": [{"prompt": prompt, "completion": text, "reward": reward} for prompt, text, reward in shown],
    }
