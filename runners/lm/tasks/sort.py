"""Task of sorting eight digits: "50318274>" to "01234578". Half of the base model's demonstrations are wrong."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from runners.lm.tasks.task import Demonstration, Task

DIGITS = 8


def prompts(count: int, rng: np.random.Generator) -> list[str]:
    return ["".join(map(str, digits)) + ">" for digits in rng.integers(10, size=(count, DIGITS))]


def demonstrations(count: int, rng: np.random.Generator, wrong: float) -> list[Demonstration]:
    """Draw demonstrations; a share `wrong` of them has one digit replaced or two swapped."""
    pairs = []
    for prompt in prompts(count, rng):
        answer = sorted(prompt[:-1])
        if rng.random() < wrong:
            i, j = rng.choice(DIGITS, size=2, replace=False)
            if rng.random() < 0.5:
                answer[i] = str(rng.integers(10))
            else:
                answer[i], answer[j] = answer[j], answer[i]
        pairs.append((prompt, "".join(answer)))
    return pairs


def exact_match(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Return the reward of each completion: 1 if it is the prompt's digits in order, else 0."""
    pairs = zip(prompts, completions, strict=True)
    return [float("".join(sorted(prompt[:-1])) == completion) for prompt, completion in pairs]


TASK = Task(
    alphabet="0123456789>",
    prompts=prompts,
    demonstrations=partial(demonstrations, wrong=0.5),
    reward=exact_match,
    completion_length=DIGITS + 1,
    base_steps=600,
)
