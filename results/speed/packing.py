"""Measure the tokens a core-second of supervised fine-tuning: in random batches, in batches of similar lengths, packed.

    python -m results.speed.packing

A GPT-2 of 1M parameters runs on one core. The lengths of 256 demonstrations are log-normal, as those of answers are:
their median is 60 tokens, and a tenth is longer than 160. Time is processor time, so that other work on the machine
matters little.
"""

from time import process_time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from networks.language import Prompts, packed_log_probs, token_log_probs
from runners.errors import Parser, main_guard
from runners.lm.sources import bucketed

ROWS, BATCH, PROMPT, LONGEST, VOCABULARY = 256, 16, 16, 400, 1000


def demonstrations(rng: np.random.Generator) -> np.ndarray:
    """Return the number of tokens of each completion."""
    return np.clip(np.exp(rng.normal(np.log(60), 0.8, ROWS)), 4, LONGEST).astype(int)


def tokens_a_second(model: GPT2LMHeadModel, batches: list[list[int]], lengths: np.ndarray, packed: bool) -> float:
    log_probs = packed_log_probs if packed else token_log_probs
    began = process_time()
    for batch in batches:
        longest = int(lengths[batch].max())
        tokens = torch.randint(VOCABULARY, (len(batch), PROMPT + longest))
        prompts = Prompts(tokens[:, :PROMPT], torch.ones(len(batch), PROMPT, dtype=torch.bool))
        mask = torch.arange(longest) < torch.tensor(lengths[batch]).unsqueeze(1)
        loss = -log_probs(model, prompts, tokens[:, PROMPT:], mask).sum()
        loss.backward()
    counted = sum(lengths[batch].sum() + PROMPT * len(batch) for batch in batches)
    return counted / (process_time() - began)


def main(argv: list[str]) -> None:
    Parser(description=__doc__, prog="python -m results.speed.packing").parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = dict(n_embd=128, n_layer=4, n_head=4, n_positions=PROMPT + LONGEST)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **size))
    rng = np.random.default_rng(0)
    lengths = demonstrations(rng)
    chance = rng.permutation(ROWS).reshape(-1, BATCH).tolist()
    alike = np.array(bucketed(lengths.tolist(), BATCH, rng)).reshape(-1, BATCH).tolist()
    table = Table("batches", "tokens a core-second")
    for name, batches, packed in (
        ("as they come", chance, False),
        ("like lengths", alike, False),
        ("packed", chance, True),
    ):
        tokens_a_second(model, batches[:2], lengths, packed)
        table.add_row(name, f"{tokens_a_second(model, batches, lengths, packed):,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main_guard(main)
