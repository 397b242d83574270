"""A task small enough for tests: say b to everything. The base model says a, b or c, each as often."""

from runners.lm.tasks.task import Task


def prompts(count, rng):
    return ["".join(rng.choice(list("xy"), size=rng.integers(1, 4))) for _ in range(count)]


def demonstrations(count, rng):
    return [(prompt, str(rng.choice(list("abc")))) for prompt in prompts(count, rng)]


def reward(prompts, completions):
    return [float(completion == "b") for completion in completions]


TASK = Task(
    alphabet="xyabc",
    prompts=prompts,
    demonstrations=demonstrations,
    reward=reward,
    completion_length=3,
    base_steps=60,
    base_demonstrations=200,
    base_batch=64,
    layers=1,
    heads=2,
    width=16,
)
