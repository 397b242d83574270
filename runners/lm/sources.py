"""Sources of prompts, completions and rewards: a task, or rows of a file (rows.py)."""

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from runners.errors import UsageError
from runners.lm.rows import OWN, Row
from runners.lm.tasks import sort, sort_weak, walks
from runners.lm.tasks.reasoning import PREFIX, reasoning_task
from runners.lm.tasks.task import Task

Reward = Callable[..., Sequence[float | None]]
"""Function of prompts, completions and columns, called by these names, that returns a reward for each completion, None
for one that does not count."""
TASKS = {"sort": sort.TASK, "sort-weak": sort_weak.TASK, "walks": walks.TASK}
HELD_OUT = 1
"""Seed of a task's held-out prompts, the same for every seed of a run."""
BUCKET = 8
"""Number of batches of demonstrations among which rows are sorted by length."""


class TaskSource:
    """Source that draws prompts and demonstrations from a task, as many as are needed."""

    columns = frozenset({"prompt", "completion"})
    judges = True
    digest = ""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.completion_length = task.completion_length

    def prompts(self, count: int, rng: np.random.Generator) -> list[Row]:
        return [{"prompt": text} for text in self.task.prompts(count, rng)]

    def held_out(self, count: int) -> list[Row]:
        return self.prompts(count, np.random.default_rng(HELD_OUT))

    def demonstrations(self, count: int, rng: np.random.Generator, alike: bool = True) -> list[Row]:
        return [{"prompt": p, "completion": c} for p, c in self.task.demonstrations(count, rng)]

    def rewards(self, rows: Sequence[Row], completions: Sequence[str]) -> Sequence[float | None]:
        return self.task.reward([row["prompt"] for row in rows], completions)

    def get_state(self) -> list[int]:
        return []

    def set_state(self, state: list[int]) -> None:
        pass


class RowSource:
    """Source of rows in a random order, in which a rank has all of them before one comes again.

    Without `held_out` rows the last tenth is held out. `judges` is True if there is a reward function.
    """

    def __init__(
        self, rows: list[Row], held_out: list[Row] | None, reward: Reward | None, completion_length: int
    ) -> None:
        if held_out is None:
            keep = max(1, len(rows) // 10)
            rows, held_out = rows[:-keep], rows[-keep:]
        if not rows or not held_out:
            raise UsageError("--data needs at least two rows, of which some are held out, or --eval-data one")
        judged_by = frozenset(rows[0]) - OWN if reward else frozenset(rows[0]) & {"completion", "chosen"}
        if lacking := judged_by - held_out[0].keys():
            raise UsageError(f"--eval-data has no column {', '.join(sorted(lacking))}, which --data has")
        if reward:
            accepted(reward, {"prompts", "completions"} | judged_by)
        self.rows, self._held_out, self.reward = rows, held_out, reward
        self.columns, self.judges = frozenset(rows[0]), reward is not None
        self.completion_length = completion_length
        self._next: list[int] = []
        text = json.dumps([rows, held_out], default=_without_address, sort_keys=True)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        """Checksum of the rows, by which a resumed run notices that they have changed."""

    def prompts(self, count: int, rng: np.random.Generator) -> list[Row]:
        while len(self._next) < count:
            self._next += rng.permutation(len(self.rows)).tolist()
        taken, self._next = self._next[:count], self._next[count:]
        return [self.rows[i] for i in taken]

    def demonstrations(self, count: int, rng: np.random.Generator, alike: bool = True) -> list[Row]:
        """Return rows as `prompts` does, but, if `alike`, of similar length: padding costs as much as text."""
        while alike and len(self._next) < count:
            self._next += bucketed([self._length(row) for row in self.rows], count, rng, begun=len(self._next))
        return self.prompts(count, rng)

    @staticmethod
    def _length(row: Row) -> int:
        return len(row["prompt"]) + len(row["completion"])

    def held_out(self, count: int) -> list[Row]:
        return self._held_out[:count]

    def rewards(self, rows: Sequence[Row], completions: Sequence[str]) -> Sequence[float | None]:
        given = {name: [row[name] for row in rows] for name in rows[0] if name not in OWN}
        given |= {"prompts": [row["prompt"] for row in rows], "completions": list(completions)}
        return self.reward(**{name: given[name] for name in accepted(self.reward, given)})

    def get_state(self) -> list[int]:
        return list(self._next)

    def set_state(self, state: list[int]) -> None:
        self._next = list(state)


def accepted(function: Reward, names: Collection[str]) -> list[str]:
    """Return those of `names` that a reward function takes, all if it has **kwargs; UsageError if it needs others.

    It is called with keyword arguments, as in TRL, so the order of its parameters does not matter.
    """
    parameters = inspect.signature(function).parameters
    by_name = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if lacking := [p.name for p in by_name if p.default is p.empty and p.name not in names]:
        raise UsageError(f"the reward function asks for {', '.join(lacking)}; there are {', '.join(sorted(names))}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return list(names)
    return [name for name in names if name in parameters]


def bucketed(lengths: Sequence[int], count: int, rng: np.random.Generator, begun: int = 0) -> list[int]:
    """Return all indices in a random order whose batches of `count` have similar lengths, sorted among BUCKET batches.

    The first batch, which has `begun` rows of an earlier order, is filled with rows of any length.
    """
    order, pool = rng.permutation(len(lengths)).tolist(), BUCKET * count
    filling, order = order[: -begun % count], order[-begun % count :]
    batches = []
    for i in range(0, len(order), pool):
        some = sorted(order[i : i + pool], key=lengths.__getitem__)
        batches += [some[k : k + count] for k in range(0, len(some), count)]
    whole = [batch for batch in batches if len(batch) == count]
    rng.shuffle(whole)
    rest = [batch for batch in batches if len(batch) < count]  # at most one, and last, or it would shift the others
    return filling + [index for batch in whole + rest for index in batch]


Source = TaskSource | RowSource


def find_task(name: str) -> Task:
    """Return a built-in task, that of `reasoning:NAME`, or that of `module:NAME`; UsageError if there is none."""
    if name in TASKS:
        return TASKS[name]
    if name.startswith(PREFIX):
        return reasoning_task(name.removeprefix(PREFIX))
    if ":" not in name:
        known = f"{', '.join(TASKS)}, {PREFIX}NAME"
        raise UsageError(f"--task {name} is none of {known}, nor module:NAME, a Task of your own")
    task = imported("task", name)
    if not isinstance(task, Task):
        raise UsageError(f"--task {name} must be a runners.lm.tasks.task.Task, not {type(task).__name__}")
    return task


def _without_address(value: Any) -> str:
    """Return how Python writes a value that JSON cannot, without its place in memory, which differs in each process."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value))


def imported(flag: str, name: str) -> Any:
    """Import the attribute that `module:attribute` names; UsageError, for `flag`, if that fails."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--{flag} {name} cannot be imported as module:name: {error}") from error


def reward_function(name: str) -> Reward:
    """Import the function that `module:function` names; UsageError if it is none."""
    function = imported("reward", name)
    if not callable(function):
        raise UsageError(f"--reward {name} must be a function, not {type(function).__name__}")
    return function
