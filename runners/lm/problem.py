"""What is to be learned, as the learner sees it: prompts in tokens, and the rewards of completions in tokens."""

import importlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from networks.language import Completions, Prompts
from runners.errors import UsageError
from runners.lm.tasks import sort, sort_weak, walks
from runners.lm.tasks.task import Task

TASKS = {"sort": sort.TASK, "sort-weak": sort_weak.TASK, "walks": walks.TASK}


def find_task(name: str) -> Task:
    """A built-in task, or `module:NAME`."""
    if name in TASKS:
        return TASKS[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise UsageError(f"--task {name} is none of {', '.join(TASKS)}, nor module:NAME, a Task of your own")
    try:
        task = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--task {name} cannot be imported: {error}") from error
    if not isinstance(task, Task):
        raise UsageError(f"--task {name} must be a runners.lm.tasks.task.Task, not {type(task).__name__}")
    return task


class Problem:
    """A task and a tokenizer."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerFast, device: torch.device) -> None:
        self.task, self.tokenizer, self.device = task, tokenizer, device

    def prompts(self, count: int, rng: np.random.Generator) -> tuple[list[str], Prompts]:
        texts = self.task.prompts(count, rng)
        return texts, self.encode(texts)

    def encode(self, texts: Sequence[str]) -> Prompts:
        """[N, P], padded at the left."""
        encoded = self.tokenizer(list(texts), padding=True, padding_side="left", return_tensors="pt")
        ids, real = encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)
        return Prompts(ids, real.bool())

    def demonstrations(self, pairs: Sequence[tuple[str, str]]) -> tuple[Prompts, Completions]:
        """Prompts and completions of them, an end of text after each; log-probabilities are 0."""
        prompts, completions = zip(*pairs, strict=True)
        end = self.tokenizer.eos_token
        ended = [completion + end for completion in completions]
        encoded = self.tokenizer(
            ended, padding=True, padding_side="right", return_tensors="pt", add_special_tokens=False
        )
        tokens, mask = encoded["input_ids"].to(self.device), encoded["attention_mask"].bool().to(self.device)
        return self.encode(prompts), Completions(tokens, mask, torch.zeros(tokens.shape, device=self.device))

    def decode(self, completions: Completions) -> list[str]:
        """Texts, without the end of text."""
        end = self.tokenizer.eos_token_id
        kept = [row[real & (row != end)] for row, real in zip(*completions[:2], strict=True)]
        return self.tokenizer.batch_decode(kept)

    def rewards(self, prompts: Sequence[str], completions: Completions) -> Tensor:
        """[N], of completions of `prompts`, an equal number each in a row; one cut off before its end gets what its
        text gets."""
        each = len(completions.tokens) // len(prompts)
        asked = [prompt for prompt in prompts for _ in range(each)]
        rewards = self.task.reward(asked, self.decode(completions))
        return torch.tensor(rewards, dtype=torch.float32, device=self.device)
