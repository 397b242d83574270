"""The reward on held-out prompts, sampled and greedy."""

from typing import Any

import torch
from torch import nn

from networks.language import sample
from runners.lm.config import LMConfig
from runners.lm.problem import Problem

EVALUATION = 1
SHOWN = 8


def evaluate(config: LMConfig, problem: Problem, model: nn.Module) -> dict[str, Any]:
    """Mean reward of one sample a prompt (`mean`) and of the likeliest completion by token (`greedy`), and samples."""
    rows = problem.source.held_out(config.data.eval_prompts)
    prompts = problem.encode([row["prompt"] for row in rows])
    generator = torch.Generator(problem.device).manual_seed(EVALUATION)
    length, temperature = problem.source.completion_length, config.data.sampling_temperature
    drawn = sample(model, prompts, length, problem.end, generator, temperature)
    greedy = sample(model, prompts, length, problem.end, None)
    rewards = problem.rewards(rows, drawn)
    counted = rewards[rewards.isfinite()]
    texts = zip(rows, problem.decode(drawn)[:SHOWN], rewards.tolist(), strict=False)
    return {
        "prompts": len(rows),
        "mean": float(counted.mean()),
        "std": float(counted.std(unbiased=False)),
        "median": float(counted.median()),
        "greedy": float(problem.rewards(rows, greedy).nanmean()),
        "protocol": f"one sample at temperature {temperature:g} of each held-out prompt",
        "samples": [{"prompt": row["prompt"], "completion": text, "reward": reward} for row, text, reward in texts],
    }
