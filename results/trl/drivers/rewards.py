"""Rewards as TRL asks for them: lists in, a list out, other columns of a row as keywords."""

from collections.abc import Sequence
from typing import Any


def exact_match(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """Return 1 for the digits before the prompt's last character, the least first, or else 0."""
    wanted = ["".join(sorted(prompt.rstrip(">"))) for prompt in prompts]
    return [1.0 if text == answer else 0.0 for text, answer in zip(completions, wanted, strict=True)]


def optimality(
    prompts: Sequence[str],
    completions: Sequence[str],
    edges: Sequence[Sequence[str]],
    goal: Sequence[str],
    fewest: Sequence[int],
    longest: Sequence[int],
    **_: Any,
) -> list[float]:
    """Return (L - n) / (L - s) for a walk of n steps along `edges` (pairs of names) that ends at the `goal`.

    s is `fewest`, L is `longest`; any other walk has 0.
    """
    rewards = []
    for start, walk, known, end, s, most in zip(prompts, completions, edges, goal, fewest, longest, strict=True):
        path = start + walk
        along = {path[i : i + 2] for i in range(len(walk))} <= set(known)
        arrived = along and path.endswith(end) and len(walk) <= most
        rewards.append((most - len(walk)) / (most - s) if arrived else 0.0)
    return rewards


REWARDS = {"sort": exact_match, "sort-weak": exact_match, "walks": optimality}
"""Reward functions by the name of the task."""
