"""The definition of a task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Demonstration = tuple[str, str]
"""A prompt and a completion of it."""


@dataclass(frozen=True)
class Task:
    """A task: functions that draw prompts and judge completions, and the settings of its base model.

    `prompts(n, rng)` draws n prompts, `demonstrations(n, rng)` n of the base model's training pairs, and
    `reward(prompts, completions)` returns the reward of each completion. `alphabet` has every character of either. The
    base model is fitted to `base_demonstrations` pairs in `base_steps` of `base_batch`.
    """

    alphabet: str
    prompts: Callable[[int, np.random.Generator], list[str]]
    demonstrations: Callable[[int, np.random.Generator], list[Demonstration]]
    reward: Callable[[Sequence[str], Sequence[str]], list[float]]
    completion_length: int
    """Largest number of tokens of a completion, its end of text included."""
    base_steps: int
    base_demonstrations: int = 5000
    base_batch: int = 128
    base_learning_rate: float = 3e-3
    layers: int = 2
    heads: int = 4
    width: int = 64
