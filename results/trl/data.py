"""Inputs of both sides for a random seed: the base model, and prompts and pairs of the task in files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from runners.lm.base import base_name
from runners.lm.batches import Batch
from runners.lm.cli import parse
from runners.lm.problem import Problem
from runners.lm.rows import Row
from runners.lm.tasks import walks
from runners.lm.training import Training
from runners.records.files import write_atomically

PROMPTS = 8
"""Prompts of a rollout."""


class Inputs(NamedTuple):
    """A model's folder, two files of rows, and the most tokens of a completion."""

    model: Path
    prompts: Path
    pairs: Path
    completion_length: int


def prepare(task: str, seed: int, rollouts: int, bases: Path, folder: Path) -> Inputs:
    """Write files for `rollouts` batches into `folder`, without the held-out prompts, and return them.

    The base model lies in `bases`, and is trained where it does not lie there yet.

    Prompts are those that `runners.lm` draws with this seed, in its order; pairs are best against worst of what the
    base model says, as `--method dpo` makes them.
    """
    flags = ["--method", "dpo", "--task", task, "--base-dir", str(bases), "--seed", str(seed), "--device", "cpu"]
    training = Training(parse(flags)[0])
    problem, batches = training.problem, training.batches
    held_out = {row["prompt"] for row in problem.source.held_out(training.config.data.eval_prompts)}

    def rounds_of_prompts() -> Iterable[list[Row]]:
        while True:
            yield [row | columns(task, row["prompt"]) for row in problem.source.prompts(PROMPTS, batches.rng)]

    def rounds_of_pairs() -> Iterable[list[Row]]:
        while True:
            yield pairs(problem, batches.next())

    inputs = Inputs(
        bases / base_name(problem.source.task, seed, 0.0),
        folder / "prompts.jsonl",
        folder / "pairs.jsonl",
        problem.source.completion_length,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write(inputs.prompts, taken(rounds_of_prompts(), rollouts * PROMPTS, held_out))
    write(inputs.pairs, taken(rounds_of_pairs(), rollouts * training.config.data.prompts, held_out))
    return inputs


def taken(rounds: Iterable[list[Row]], count: int, held_out: set[str]) -> list[Row]:
    """Return the first `count` rows whose prompts are not held out.

    A task whose prompts are all held out (walks has 20) has no others to give: rounds without any are taken whole.
    """
    rows: list[Row] = []
    for drawn in rounds:
        rows += [row for row in drawn if row["prompt"] not in held_out] or drawn
        if len(rows) >= count:
            break
    return rows[:count]


def pairs(problem: Problem, batch: Batch) -> list[Row]:
    """Return a batch of --method dpo as texts, without prompts whose completions all had the same reward."""
    prompts = [ids[real] for ids, real in zip(*batch.prompts[:2], strict=True)]
    texts = zip(problem.tokenizer.batch_decode(prompts), problem.decode(batch.completions), strict=True)
    kept = [text for text, mask in zip(texts, batch.completions.mask, strict=True) if mask.any()]
    return [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for (prompt, chosen), (_, rejected) in zip(kept[::2], kept[1::2], strict=True)
    ]


def columns(task: str, prompt: str) -> Row:
    """Return the columns that TRL's reward function needs besides."""
    if task != "walks":
        return {}
    names = walks.NAMES
    edges = [names[a] + names[b] for a, b in zip(*walks.EDGES.nonzero(), strict=True)]
    fewest = int(walks.FEWEST[names.index(prompt)])
    return {"edges": edges, "goal": names[walks.GOAL], "fewest": fewest, "longest": walks.LONGEST}


def write(path: Path, rows: Iterable[Row]) -> None:
    write_atomically(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
