"""The base model of a built-in task: a small GPT-2 fitted to the task's demonstrations."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from agents.sequences.config import SequenceConfig
from agents.sequences.factory import make_sequence_agent
from networks.language import Completions
from runners.errors import RunError
from runners.lm.batches import Batch, demonstrated
from runners.lm.config import LearnerConfig, LMConfig
from runners.lm.learner import Learner
from runners.lm.model import load_model, new_model, save_model
from runners.lm.problem import Problem
from runners.lm.tasks.task import Task
from runners.records.folders import check_whole

BASE = 3
"""Stream of random numbers of the demonstrations; held-out and training prompts have others."""


def base_name(task: Task, seed: int, dropout: float) -> str:
    """Return a name for the base model that differs for other demonstrations, sizes, seeds and dropout."""
    sample = task.demonstrations(100, np.random.default_rng(BASE))
    sizes = [value for value in vars(task).values() if isinstance(value, int | float | str)]
    return f"{hashlib.sha256(repr((sample, sizes)).encode()).hexdigest()[:12]}-seed{seed}-dropout{dropout:g}"


def kept_base_model(problem: Problem, seed: int, dropout: float, folder: Path) -> nn.Module:
    """Load the base model from `folder`, after training and saving it there if it is missing or damaged."""
    try:
        check_whole(folder)
    except RunError as error:
        print(f"warning: {error}; training the base model anew")
        shutil.rmtree(folder, ignore_errors=True)  # another rank may be at it too
    if not folder.exists():
        try:
            save_model(base_model(problem, seed, dropout), problem.tokenizer, folder)
        except OSError:
            if not folder.exists():  # else another run has saved it meanwhile, and its model is the same
                raise
    return load_model(str(folder)).to(problem.device)


def base_model(problem: Problem, seed: int, dropout: float, trained: bool = True) -> nn.Module:
    """Make the base model and fit it as `--method sft` does, unless it is not to be `trained`, but to load a state."""
    task = problem.source.task
    rng = np.random.default_rng([BASE, seed])
    torch.manual_seed(seed)
    texts, answers = zip(*task.demonstrations(task.base_demonstrations, rng), strict=True)
    prompts, completions = problem.encode(texts), problem.answers(texts, answers)
    longest = max(map(len, [*texts, *task.prompts(1000, rng)]))
    model = new_model(task, problem.tokenizer, longest, dropout).to(problem.device)
    if not trained:
        return model
    learner = LearnerConfig(learning_rate=task.base_learning_rate, micro_batch=task.base_batch)
    config = LMConfig(agent=SequenceConfig(method="sft"), learner=learner)
    sft = Learner(config, model, make_sequence_agent(config.agent))
    for _ in range(task.base_steps):
        index = torch.from_numpy(rng.choice(len(texts), size=min(task.base_batch, len(texts)), replace=False))
        some = Completions(*(x[index] for x in completions))
        batch = Batch(prompts.select(index), some, demonstrated(some), {})
        sft.train(batch, sft.plan(batch.samples, 1))
    return model
