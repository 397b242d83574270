"""Reward functions for tests."""


def says(prompts, completions, answer):
    """Whether a completion is its row's answer; none of prompts that begin with y counts."""
    pairs = zip(prompts, completions, answer, strict=True)
    return [None if prompt.startswith("y") else float(text == right) for prompt, text, right in pairs]


def too_few(prompts, completions):
    return [0.0]


def is_long(prompts, completions):
    return [float(len(completion) > 1) for completion in completions]


def words(prompts, completions):
    return ["good"] * len(completions)


def forgets_to_return(prompts, completions):
    pass
