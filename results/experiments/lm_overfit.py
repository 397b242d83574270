"""Learning from little: what is in the file is made by `prepare`, once, from a base model and nothing else."""

import json

from results import RUNS
from results.experiment import ROLLOUTS, Experiment, Run

SEEDS = range(5)
DROPOUT = 0.1
"""Of the base model's training: all runs start from one model that has learned with it."""
PROMPTS, COMPLETIONS, HELD_OUT = 32, 16, 512
FOLDER = RUNS / "lm_overfit_data"
BATCHES = (100, 1000)


def prepare() -> None:
    """Make a base model, samples of it on a few prompts with their rewards, and held-out prompts."""
    if (FOLDER / "held_out.jsonl").exists():
        return
    import numpy as np
    import torch

    from networks.language import sample
    from runners.lm.base import kept_base_model
    from runners.lm.model import character_tokenizer
    from runners.lm.problem import Problem
    from runners.lm.sources import TaskSource
    from runners.lm.tasks.sort import TASK

    FOLDER.mkdir(parents=True, exist_ok=True)
    problem = Problem(TaskSource(TASK), character_tokenizer(TASK.alphabet), torch.device("cpu"))
    torch.set_num_threads(1)
    model = kept_base_model(problem, 0, DROPOUT, FOLDER / "model")
    rows = problem.source.prompts(PROMPTS, np.random.default_rng(4))
    prompts = problem.encode([row["prompt"] for row in rows]).repeat(COMPLETIONS)
    drawn = sample(model, prompts, TASK.completion_length, problem.ends, torch.Generator().manual_seed(4))
    asked = [row["prompt"] for row in rows for _ in range(COMPLETIONS)]
    texts, rewards = problem.decode(drawn), problem.rewards(rows, drawn).tolist()
    columns = zip(asked, texts, rewards, strict=True)
    write("train", [{"prompt": p, "completion": c, "reward": r} for p, c, r in columns])
    write("held_out", problem.source.held_out(HELD_OUT))


def write(name: str, rows: list[dict]) -> None:
    (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


PLACE = f"runs/{FOLDER.name}"
DATA = f"--model {PLACE}/model --data {PLACE}/train.jsonl --eval-data {PLACE}/held_out.jsonl"
DATA += " --completion-length 9 --reward runners.lm.tasks.sort:exact_match"

EXPERIMENT = Experiment(
    name="lm_overfit",
    title="Language model: learning from 512 samples",
    question=f"Sorting, from {COMPLETIONS} samples each of {PROMPTS} prompts and no others, again and again: does "
    "dropout keep what is learned true of other prompts?",
    runs=tuple(
        Run(
            f"{method}, {count} batches, p = {p:g}",
            seed,
            f"runners.lm {DATA} --method {method} --baseline batch --prompts 64 --rollouts {count} --updates 1"
            f" --learning-rate 3e-4 --dropout {p:g}",
        )
        for seed in SEEDS
        for method in ("awr", "vmpo")
        for count in BATCHES
        for p in (0, 0.1, 0.2)
    ),
    unit=ROLLOUTS,
    metric="reward",
    diagnostics=("m_step/policy_loss", "m_step/kl"),
    prepare=prepare,
)

EXPERIMENTS = (EXPERIMENT,)
