"""Tasks of reasoning-gym, `--task reasoning:NAME`: its questions, with its own verifier as the reward.

The base model is a GPT-2 of two million parameters with one token a character, trained on right answers for minutes.
"""

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from runners.errors import UsageError, needs_extra
from runners.lm.tasks.task import Demonstration, Task

PREFIX = "reasoning:"
SURVEYED = 2000
"""Number of questions from which the longest length and the characters are taken."""


def reasoning_task(name: str) -> Task:
    """Return the task of that name at reasoning-gym's default difficulty; UsageError if there is none."""
    with needs_extra("reasoning"):
        from reasoning_gym.factory import DATASETS, create_dataset
    if name not in DATASETS:
        raise UsageError(f"--task {PREFIX}{name} is none of reasoning-gym's: {', '.join(sorted(DATASETS))}")
    entries: dict[str, Any] = {}
    """Entry of the data set of each question so far, which the verifier needs."""
    verifier = create_dataset(name, seed=0, size=1)

    def drawn(count: int, rng: np.random.Generator) -> list[Demonstration]:
        pairs = []
        for entry in create_dataset(name, seed=int(rng.integers(2**31)), size=count):
            prompt = entry["question"].strip() + "\n"
            entries[prompt] = entry
            pairs.append((prompt, str(entry["answer"])))
        return pairs

    surveyed = drawn(SURVEYED, np.random.default_rng(0))
    longest, longest_answer = (max(map(len, texts)) for texts in zip(*surveyed, strict=True))
    characters = set(string.printable).union(*(prompt + answer for prompt, answer in surveyed))

    def demonstrations(count: int, rng: np.random.Generator) -> list[Demonstration]:
        """Draw demonstrations, but none longer than the surveyed ones or with other characters: the model has no room
        and the tokenizer no token for it."""
        pairs: list[Demonstration] = []
        while len(pairs) < count:
            pairs += [
                (prompt, answer)
                for prompt, answer in drawn(count, rng)
                if len(prompt) <= longest and len(answer) <= longest_answer and set(prompt + answer) <= characters
            ]
        return pairs[:count]

    def prompts(count: int, rng: np.random.Generator) -> list[str]:
        return [prompt for prompt, _ in demonstrations(count, rng)]

    def reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return [float(verifier.score_answer(answer=text, entry=entries[prompt])) for prompt, text in pairs]

    return Task(
        alphabet="".join(sorted(characters)),
        prompts=prompts,
        demonstrations=demonstrations,
        reward=reward,
        completion_length=1 + longest_answer,
        base_steps=400,
        base_demonstrations=20_000,
        base_batch=64,
        base_learning_rate=1e-3,
        layers=4,
        heads=4,
        width=192,
    )
