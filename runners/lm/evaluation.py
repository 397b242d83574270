"""Evaluation of a model on held-out rows: its reward, sampled and greedy, or, without a reward function, the likelihood
of the data's completions."""

import math
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from networks.language import Completions, Prompts, sample, token_log_probs
from runners.lm.config import LMConfig
from runners.lm.problem import Problem
from runners.machine.watchdog import watched

EVALUATION = 1
SHOWN = 8


def evaluate(config: LMConfig, problem: Problem, model: nn.Module) -> dict[str, Any]:
    """Return `mean`, `std`, `median` and `greedy`, None if unknown, with the protocol in words and some `samples`."""
    rows = problem.source.held_out(config.data.eval_prompts)
    temperature, judges = config.data.sampling_temperature, problem.source.judges
    generator = torch.Generator(problem.device).manual_seed(EVALUATION)
    scores, greedy, texts = [], [], []
    size = config.learner.micro_batch
    for some in (rows[i : i + size] for i in range(0, len(rows), size)):
        with watched("evaluation, which draws and judges completions,", config.learner.patience):
            asked, length = [row["prompt"] for row in some], problem.source.completion_length
            prompts = problem.encode(asked)
            drawn = sample(model, prompts, length, problem.ends, generator, temperature)
            texts += problem.decode(drawn)
            if judges:
                scores += problem.rewards(some, drawn).tolist()
                greedy += problem.rewards(some, sample(model, prompts, length, problem.ends, None)).tolist()
            else:
                name = "chosen" if "chosen" in problem.source.columns else "completion"
                scores += _likelihood(model, prompts, problem.answers(asked, [row[name] for row in some]), temperature)
    protocol = f"one sample at temperature {temperature:g} of each held-out prompt"
    if not judges:
        protocol = "mean log-probability of a token of the held-out completions"
    counted = torch.tensor([score for score in scores if not math.isnan(score)])
    none = not len(counted)
    best = [score for score in greedy if not math.isnan(score)]
    shown = zip(rows[:SHOWN], texts, scores if judges else [math.nan] * SHOWN, strict=False)
    return {
        "prompts": len(rows),
        "mean": None if none else float(counted.mean()),
        "std": None if none else float(counted.std(unbiased=False)),
        "median": None if none else float(counted.median()),
        "greedy": sum(best) / len(best) if best else None,
        "protocol": protocol,
        "samples": [
            {"prompt": row["prompt"], "completion": text, "reward": None if math.isnan(reward) else reward}
            for row, text, reward in shown
        ],
    }


@torch.no_grad()
def _likelihood(model: nn.Module, prompts: Prompts, answers: Completions, temperature: float) -> list[float]:
    """Return the mean log-probability of a token of each completion."""
    training = model.training
    model.eval()
    log_prob = token_log_probs(model, prompts, answers.tokens, answers.mask, temperature)
    model.train(training)
    return (log_prob.sum(1) / answers.mask.sum(1)).tolist()


def show_change(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Print a table of both evaluations, and the completions of the first prompts."""
    console = Console()
    judged = after["greedy"] is not None
    table = Table("", "before", "after", caption=after["protocol"])
    table.add_row("reward, sampled" if judged else "likelihood", _number(before["mean"]), _number(after["mean"]))
    if judged:
        table.add_row("reward, greedy", _number(before["greedy"]), _number(after["greedy"]))
    console.print(table)
    samples = Table("prompt", "before", "reward", "after", "reward")
    for old, new in zip(before["samples"], after["samples"], strict=True):
        # As Text, or rich would take brackets for markup.
        texts = (Text(old["prompt"]), Text(old["completion"]), Text(new["completion"]))
        samples.add_row(texts[0], texts[1], _number(old["reward"]), texts[2], _number(new["reward"]))
    console.print(samples)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
