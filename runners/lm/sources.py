"""Where prompts, completions and rewards come from: a built-in task, or rows of a file in the columns of TRL.

A row is a dict. `prompt` alone asks for completions, which a reward function then judges; `prompt, completion` is a
demonstration; `prompt, completion, reward` a sample that someone else drew; `prompt, chosen, rejected` a preference.
`messages`, a conversation, is a demonstration of its last turn. Any other column is handed to the reward function.
"""

import importlib
import json
import math
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
BUCKET = 8
"""Batches of demonstrations among which rows are sorted by length."""
TEXTS = {"prompt", "completion", "chosen", "rejected"}
OWN = {"prompt", "completion", "reward", "chosen", "rejected", "messages", "log_probs"}


class TaskSource:
    """A task makes as many prompts and demonstrations as it is asked for."""

    columns = frozenset({"prompt", "completion"})
    judges = True

    def __init__(self, task: Task) -> None:
        self.task = task
        self.completion_length = task.completion_length

    def prompts(self, count: int, rng: np.random.Generator) -> list[Row]:
        return [{"prompt": text} for text in self.task.prompts(count, rng)]

    def held_out(self, count: int) -> list[Row]:
        return self.prompts(count, np.random.default_rng(HELD_OUT))

    def demonstrations(self, count: int, rng: np.random.Generator) -> list[Row]:
        return [{"prompt": p, "completion": c} for p, c in self.task.demonstrations(count, rng)]

    def rewards(self, rows: Sequence[Row], completions: Sequence[str]) -> Sequence[float | None]:
        return self.task.reward([row["prompt"] for row in rows], completions)

    def get_state(self) -> list[int]:
        return []

    def set_state(self, state: list[int]) -> None:
        pass


class RowSource:
    """Rows in a random order, on a rank all of them before any comes again; held-out ones are a file of their own, or
    the last tenth. `judges`: whether there is a reward function."""

    def __init__(
        self, rows: list[Row], held_out: list[Row] | None, reward: Reward | None, completion_length: int
    ) -> None:
        if held_out is None:
            keep = max(1, len(rows) // 10)
            rows, held_out = rows[:-keep], rows[-keep:]
        if not rows or not held_out:
            raise UsageError("--data needs at least two rows, of which some are held out, or --eval-data one")
        self.rows, self._held_out, self.reward = rows, held_out, reward
        self.columns, self.judges = frozenset(rows[0]), reward is not None
        self.completion_length = completion_length
        self._next: list[int] = []

    def prompts(self, count: int, rng: np.random.Generator) -> list[Row]:
        while len(self._next) < count:
            self._next += rng.permutation(len(self.rows)).tolist()
        taken, self._next = self._next[:count], self._next[count:]
        return [self.rows[i] for i in taken]

    def demonstrations(self, count: int, rng: np.random.Generator) -> list[Row]:
        """As `prompts`, but rows of like length together: the padding of short ones costs as much as text."""
        while len(self._next) < count:
            self._next += bucketed([self._length(row) for row in self.rows], count, rng, begun=len(self._next))
        return self.prompts(count, rng)

    @staticmethod
    def _length(row: Row) -> int:
        return len(row["prompt"]) + len(row["completion"])

    def held_out(self, count: int) -> list[Row]:
        return self._held_out[:count]

    def rewards(self, rows: Sequence[Row], completions: Sequence[str]) -> Sequence[float | None]:
        columns = {name: [row[name] for row in rows] for name in rows[0] if name not in OWN}
        return self.reward([row["prompt"] for row in rows], list(completions), **columns)

    def get_state(self) -> list[int]:
        return list(self._next)

    def set_state(self, state: list[int]) -> None:
        self._next = list(state)


def bucketed(lengths: Sequence[int], count: int, rng: np.random.Generator, begun: int = 0) -> list[int]:
    """Every index once, in a random order whose batches of `count` have like lengths: sorted among BUCKET batches.

    A first batch that has `begun` with so many rows of an earlier order is filled up with whatever comes.
    """
    order, pool = rng.permutation(len(lengths)).tolist(), BUCKET * count
    filling, order = order[: -begun % count], order[-begun % count :]
    batches = []
    for i in range(0, len(order), pool):
        some = sorted(order[i : i + pool], key=lengths.__getitem__)
        batches += [some[k : k + count] for k in range(0, len(some), count)]
    whole = [batch for batch in batches if len(batch) == count]
    rng.shuffle(whole)
    rest = [batch for batch in batches if len(batch) < count]  # one at most, and last, so that it shifts no other
    return filling + [index for batch in whole + rest for index in batch]


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


def reward_function(name: str) -> Reward:
    """What `module:function` names."""
    function = imported("reward", name)
    if not callable(function):
        raise UsageError(f"--reward {name} must be a function, not {type(function).__name__}")
    return function


def read_rows(name: str, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Of a .jsonl file, or of what the datasets library saved in a folder or knows by name (its split train)."""
    path = Path(name)
    rows = _json_lines(path) if path.suffix == ".jsonl" else _dataset_rows(name)
    plain = [_plain(row, f"{name}, row {i}", tokenizer) for i, row in enumerate(rows, 1)]
    for i, row in enumerate(plain, 1):
        _check(row, plain[0], f"{name}, row {i}")
    return plain


def _json_lines(path: Path) -> list[Row]:
    rows = []
    try:
        with open(path, encoding="utf-8") as file:
            lines = list(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8: {error}") from error
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {i} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {i} must be an object, not {type(row).__name__}")
        rows.append(row)
    return rows


def _dataset_rows(name: str) -> list[Row]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UsageError(f"{name} is no .jsonl file, and datasets is not installed: pip install -e '.[lm]'") from error
    try:
        data = datasets.load_from_disk(name) if Path(name).exists() else datasets.load_dataset(name, split="train")
        return list(data["train"] if isinstance(data, dict) else data)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{name} is no .jsonl file, nor can datasets load its split train: {error}") from error


def _plain(row: Row, where: str, tokenizer: PreTrainedTokenizerBase) -> Row:
    """A row whose prompt and answers are texts, by the tokenizer's chat template where they are messages."""
    if "messages" in row:
        if len(row["messages"]) < 2:
            raise UsageError(f"{where} needs two messages at least, a prompt and its answer")
        *before, last = row["messages"]
        row = {k: v for k, v in row.items() if k != "messages"} | {"prompt": before, "completion": [last]}
    if "prompt" not in row:
        raise UsageError(f"{where} has no prompt, and no messages: its columns are {', '.join(row)}")
    texts = {}
    for name in TEXTS & row.keys():
        if isinstance(row[name], list):
            texts[name] = _said(row[name], name == "prompt", where, tokenizer)
    return row | texts


def _said(turns: list[dict[str, str]], prompt: bool, where: str, tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        if prompt:
            return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return "".join(turn["content"] for turn in turns)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{where} has messages that are not role and content") from error
    except ValueError as error:
        raise UsageError(f"{where} has messages, and the model's tokenizer no chat template") from error


def _check(row: Row, first: Row, where: str) -> None:
    """Every row has the columns of the first, texts and numbers where they must be."""
    if row.keys() != first.keys():
        raise UsageError(f"{where} has the columns {', '.join(row)}, and the first row {', '.join(first)}")
    for name in TEXTS & row.keys():
        if not isinstance(row[name], str) or name == "prompt" and not row[name]:
            raise UsageError(f"{where}: {name} must be a text, not {row[name]!r}")
    reward = row.get("reward")
    if reward is not None and not (isinstance(reward, int | float) and math.isfinite(reward)):
        raise UsageError(f"{where}: reward must be a number or null, not {reward!r}")
