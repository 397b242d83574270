"""Where prompts, completions and rewards come from: a built-in task, or rows of a file in the columns of TRL.

A row is a dict. `prompt` alone asks for completions, which a reward function then judges; `prompt, completion` is a
demonstration; `prompt, completion, reward` a sample that someone else drew; `prompt, chosen, rejected` a preference.
`messages`, a conversation, is a demonstration of its last turn. Any other column is handed to the reward function.
"""

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from runners.errors import UsageError
from runners.lm.tasks import sort, sort_weak, walks
from runners.lm.tasks.task import Task

Row = dict[str, Any]
Reward = Callable[..., Sequence[float | None]]
"""f(prompts, completions, **columns) -> a reward each, None for a completion that is not to count."""
TASKS = {"sort": sort.TASK, "sort-weak": sort_weak.TASK, "walks": walks.TASK}
HELD_OUT = 1
"""Stream of a task's held-out prompts, the same for every seed."""
OWN = {"prompt", "completion", "reward", "chosen", "rejected", "messages", "log_probs"}


class TaskSource:
    """A task makes as many prompts and demonstrations as it is asked for."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.completion_length = task.completion_length

    def prompts(self, count: int, rng: np.random.Generator) -> list[Row]:
        return [{"prompt": text} for text in self.task.prompts(count, rng)]

    def held_out(self, count: int) -> list[Row]:
        return self.prompts(count, np.random.default_rng([HELD_OUT, 0]))

    def demonstrations(self, count: int, rng: np.random.Generator) -> list[Row]:
        return [{"prompt": p, "completion": c} for p, c in self.task.demonstrations(count, rng)]

    def rewards(self, rows: Sequence[Row], completions: Sequence[str]) -> list[float | None]:
        return list(self.task.reward([row["prompt"] for row in rows], completions))


class RowSource:
    """Rows drawn without replacement until all have been; held-out ones are a file of their own, or the last tenth."""

    def __init__(
        self, rows: list[Row], held_out: list[Row] | None, reward: Reward | None, completion_length: int
    ) -> None:
        if held_out is None:
            keep = max(1, len(rows) // 10)
            rows, held_out = rows[:-keep], rows[-keep:]
        if not rows:
            raise UsageError("--data needs at least two rows, of which some are held out")
        self.rows, self._held_out, self.reward = rows, held_out, reward
        self.completion_length = completion_length

    def prompts(self, count: int, rng: np.random.Generator) -> list[Row]:
        return [self.rows[i] for i in rng.permutation(len(self.rows))[:count]]

    demonstrations = prompts

    def held_out(self, count: int) -> list[Row]:
        return self._held_out[:count]

    def rewards(self, rows: Sequence[Row], completions: Sequence[str]) -> list[float | None]:
        if self.reward is None:
            raise UsageError("prompts without rewards need --reward module:function")
        columns = {name: [row[name] for row in rows] for name in rows[0] if name not in OWN}
        rewards = list(self.reward([row["prompt"] for row in rows], list(completions), **columns))
        if len(rewards) != len(rows):
            raise UsageError(f"--reward gave {len(rewards)} rewards for {len(rows)} completions")
        return rewards


Source = TaskSource | RowSource


def find_task(name: str) -> Task:
    """A built-in task, or `module:NAME`."""
    if name in TASKS:
        return TASKS[name]
    if ":" not in name:
        raise UsageError(f"--task {name} is none of {', '.join(TASKS)}, nor module:NAME, a Task of your own")
    task = imported("task", name)
    if not isinstance(task, Task):
        raise UsageError(f"--task {name} must be a runners.lm.tasks.task.Task, not {type(task).__name__}")
    return task


def imported(flag: str, name: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--{flag} {name} cannot be imported as module:name: {error}") from error


def read_rows(name: str, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Of a .jsonl file, or a folder or name that the datasets library knows (its split train)."""
    path = Path(name)
    if path.suffix == ".jsonl":
        rows = _json_lines(path)
    else:
        import datasets

        try:
            data = datasets.load_from_disk(name) if path.exists() else datasets.load_dataset(name, split="train")
        except (OSError, ValueError) as error:
            raise UsageError(f"--data {name} is no .jsonl file, nor can datasets load it: {error}") from error
        rows = list(data["train"] if isinstance(data, dict) else data)
    return [_plain(row, f"{name}, row {i}", tokenizer) for i, row in enumerate(rows, 1)]


def _json_lines(path: Path) -> list[Row]:
    rows = []
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UsageError(f"--data {path} cannot be read: {error.strerror}") from error
    for i, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {i} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {i} must be an object, not {type(row).__name__}")
        rows.append(row)
    return rows


def _plain(row: Row, where: str, tokenizer: PreTrainedTokenizerBase) -> Row:
    """A row whose prompt and answers are texts, by the tokenizer's chat template where they are messages."""
    if "messages" in row:
        *before, last = row["messages"]
        row = {k: v for k, v in row.items() if k != "messages"} | {"prompt": before, "completion": [last]}
    if "prompt" not in row:
        raise UsageError(f"{where} has no prompt, and no messages: its columns are {', '.join(row)}")
    if isinstance(row["prompt"], str):
        return row
    try:
        prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    except ValueError as error:
        raise UsageError(f"{where} has messages, and the model's tokenizer no chat template") from error
    answers = {name: row[name] for name in ("completion", "chosen", "rejected") if name in row}
    texts = {k: v if isinstance(v, str) else "".join(turn["content"] for turn in v) for k, v in answers.items()}
    return row | {"prompt": prompt} | texts
