"""Tasks of reasoning-gym: by a library of the same interface that adds two numbers, and by itself where it is there."""

import sys
from types import ModuleType

import numpy as np
import pytest

from runners.errors import UsageError
from runners.lm.cli import parse
from runners.lm.sources import find_task
from runners.lm.training import LMTraining


class Sums:
    """`size` sums of two digits, drawn by `seed`."""

    def __init__(self, seed: int, size: int) -> None:
        self.numbers = np.random.default_rng(seed).integers(1, 5, (size, 2))

    def __iter__(self):
        return ({"question": f" {a}+{b}=? ", "answer": str(a + b), "metadata": int(a + b)} for a, b in self.numbers)

    def score_answer(self, answer: str, entry: dict) -> float:
        return 1.0 if answer == str(entry["metadata"]) else 0.01


@pytest.fixture
def library(monkeypatch):
    made = ModuleType("reasoning_gym.factory")
    made.DATASETS, made.create_dataset = {"sums": None}, lambda name, seed, size: Sums(seed, size)
    monkeypatch.setitem(sys.modules, "reasoning_gym", ModuleType("reasoning_gym"))
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", made)


def test_questions_answers_and_the_verifier(library):
    task = find_task("reasoning:sums")
    one, other = (task.demonstrations(50, np.random.default_rng(seed)) for seed in (1, 1))
    assert one == other != task.demonstrations(50, np.random.default_rng(2)) and len(one) == 50
    prompts, answers = zip(*one, strict=True)
    assert all(prompt.endswith("=?\n") and prompt[0] != " " for prompt in prompts)
    assert task.reward(prompts, answers) == [1.0] * 50 and task.reward(prompts[:1], ["x"]) == [0.01]
    assert task.completion_length == 2 and {*"+=?\n"} <= {*task.alphabet}
    assert task.prompts(3, np.random.default_rng(1)) == list(task.prompts(3, np.random.default_rng(1)))


def test_a_task_is_learned_from_rollouts(library, monkeypatch):
    from dataclasses import replace

    from runners.lm import training as module

    task = replace(find_task("reasoning:sums"), base_steps=60, base_learning_rate=1e-2, layers=1, width=32)
    monkeypatch.setattr(module, "find_task", lambda name: task)
    command = "--task reasoning:sums --rollouts 40 --log-rollouts 5 --learning-rate 3e-3 --eval-prompts 16"
    training = LMTraining(parse(command.split())[0])
    rewards = [row["reward/train"] for row in training.run() if row]
    assert rewards[-1] > rewards[0] + 0.2


def test_a_library_or_a_name_that_is_not_there_is_one_line(library, monkeypatch):
    with pytest.raises(UsageError, match="--task reasoning:sum is none of reasoning-gym's: sums"):
        find_task("reasoning:sum")
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UsageError, match="not installed: pip install -e '.\\[reasoning\\]'"):
        find_task("reasoning:sums")


def test_the_library_itself():
    pytest.importorskip("reasoning_gym")
    for name in ("chain_sum", "gcd", "spell_backward"):
        task = find_task(f"reasoning:{name}")
        prompts, answers = zip(*task.demonstrations(20, np.random.default_rng(0)), strict=True)
        assert task.reward(prompts, answers) == [1.0] * 20
        assert max(task.reward(prompts, ["?"] * 20)) < 0.1
