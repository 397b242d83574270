"""Inputs of both sides for a random seed: the base model, and prompts and pairs of the task in files."""

import json
from collections.abc import Callable, Iterable
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from runners.lm.base import base_name
from runners.lm.batches import Batch
from runners.lm.cli import parse
from runners.lm.problem import Problem
from runners.lm.rows import Row
from runners.lm.training import LMTraining
from runners.records.files import write_atomically

PROMPTS = 8  # of a rollout


class Inputs(NamedTuple):
    """A model's folder, two files of rows, and the most tokens of a completion."""

    model: Path
    prompts: Path
    pairs: Path
    completion_length: int


def prepare(task: str, seed: int, rollouts: int, bases: Path, folder: Path) -> Inputs:
    """Write files for `rollouts` batches into `folder`, without the held-out prompts, and return them.

    The base model lies in `bases`, and is trained where it does not lie there yet. Prompts are those that `runners.lm`
    draws with this seed, in its order; pairs are best against worst of what the base model says, as `--method dpo`
    makes them.
    """
    flags = ["--method", "dpo", "--task", task, "--base-dir", str(bases), "--seed", str(seed), "--device", "cpu"]
    training = LMTraining(parse(flags)[0])
    problem, batches = training.problem, training.batches
    source = problem.source
    held_out = {row["prompt"] for row in source.held_out(training.config.data.eval_prompts)}

    model = bases / base_name(source.task, seed, 0.0)
    inputs = Inputs(model, folder / "prompts.jsonl", folder / "pairs.jsonl", source.completion_length)
    folder.mkdir(parents=True, exist_ok=True)
    write(inputs.prompts, taken(lambda: source.prompts(PROMPTS, batches.rng), rollouts * PROMPTS, held_out))
    pairs = taken(lambda: pairs_of(problem, batches.next()), rollouts * training.config.data.prompts, held_out)
    write(inputs.pairs, pairs)
    return inputs


def taken(draw: Callable[[], list[Row]], count: int, held_out: set[str]) -> list[Row]:
    """Return the first `count` rows of what is drawn, round by round, whose prompts are not held out.

    A task whose prompts are all held out (walks has 20) has no others to give: rounds without any are taken whole.
    """
    rounds = iter(draw, None)
    kept = ([row for row in rows if row["prompt"] not in held_out] or rows for rows in rounds)
    return list(islice(chain.from_iterable(kept), count))


def pairs_of(problem: Problem, batch: Batch) -> list[Row]:
    """Return a batch of --method dpo as texts, without prompts whose completions all had the same reward."""
    prompts = [ids[real] for ids, real in zip(*batch.prompts[:2], strict=True)]
    texts = zip(problem.tokenizer.batch_decode(prompts), problem.decode(batch.completions), strict=True)
    kept = [text for text, mask in zip(texts, batch.completions.mask, strict=True) if mask.any()]
    return [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for (prompt, chosen), (_, rejected) in zip(kept[::2], kept[1::2], strict=True)
    ]


def write(path: Path, rows: Iterable[Row]) -> None:
    write_atomically(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
