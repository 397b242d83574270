"""The problem to learn in tokens: prompts, completions, and the rewards of completions."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from networks.language import Completions, Prompts
from runners.errors import UsageError
from runners.lm.model import turn_ends
from runners.lm.rows import ANSWERS, Row
from runners.lm.sources import Source

CHECKED = 1000
"""Number of rows whose answers are tokenized at a time, to check them."""


class Problem:
    """A source and a tokenizer. `ends` [E] are the tokens that end a completion: the tokenizer's, then `also`, those of
    the model, then that of the chat template."""

    def __init__(
        self, source: Source, tokenizer: PreTrainedTokenizerBase, device: torch.device, also: Sequence[int] = ()
    ) -> None:
        self.source, self.tokenizer, self.device = source, tokenizer, device
        ends = [tokenizer.eos_token_id, *also, *turn_ends(tokenizer)]
        self.ends = torch.tensor(list(dict.fromkeys(ends)), device=device)

    def encode(self, texts: Sequence[str]) -> Prompts:
        """Return texts as prompts [N, P], padded at the left.

        A token that the tokenizer puts before a text is kept, unless the chat template has put it there already; an end
        of text that it puts after is removed.
        """
        start = self.tokenizer.bos_token
        special = not (start and texts[0].startswith(start))
        encoded = self.tokenizer(
            list(texts), padding=True, padding_side="left", return_tensors="pt", add_special_tokens=special
        )
        ids, real = encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)
        ended = (ids[:, -1] == self.tokenizer.eos_token_id).all() and not texts[0].endswith(self.tokenizer.eos_token)
        if special and ended:
            ids, real = ids[:, :-1], real[:, :-1]
        return Prompts(ids, real.bool())

    def answers(self, prompts: Sequence[str], texts: Sequence[str]) -> Completions:
        """Return `texts`, answers to `prompts`, as completions with log-probabilities of 0.

        Each has its end of text or turn, and none after it; one that is too long is cut, and has no end.
        """
        ended = [text + self.tokenizer.eos_token for text in texts]
        alone, before, joined = (
            self.tokenizer(list(some), add_special_tokens=False)["input_ids"]
            for some in (ended, prompts, map(str.__add__, prompts, ended))
        )
        # Tokens of an answer after its prompt: some tokenizers would begin one alone with a space.
        each = [
            torch.tensor((both[len(asked) :] if both[: len(asked)] == asked else own)[: self.source.completion_length])
            for own, asked, both in zip(alone, before, joined, strict=True)
        ]
        tokens = pad_sequence(each, batch_first=True, padding_value=self.tokenizer.pad_token_id).to(self.device)
        lengths = torch.tensor([len(ids) for ids in each], device=self.device)
        ends = torch.isin(tokens, self.ends).long()
        real = torch.arange(tokens.shape[1], device=self.device) < lengths.unsqueeze(1)
        mask = real & (ends.cumsum(1) - ends == 0)
        return Completions(tokens, mask, torch.zeros(tokens.shape, device=self.device))

    def decode(self, completions: Completions) -> list[str]:
        """Return the texts of completions, without the ends of text."""
        real = (completions.mask & ~torch.isin(completions.tokens, self.ends)).cpu()
        tokens = completions.tokens.cpu()
        return self.tokenizer.batch_decode([row[kept] for row, kept in zip(tokens, real, strict=True)])

    def rewards(self, rows: Sequence[Row], completions: Completions) -> Tensor:
        """Return rewards [N] of the completions of the rows' prompts, as many for each row; NaN where there is none.

        A completion that was cut off before its end has the reward of its text.
        """
        each = len(completions.tokens) // len(rows)
        asked = [row for row in rows for _ in range(each)]
        rewards = self.source.rewards(asked, self.decode(completions))
        try:
            numbers = list(map(_number, rewards))
        except (TypeError, ValueError) as error:
            raise UsageError(f"the reward function must give a list of numbers or None: {error}") from error
        if len(numbers) != len(asked):
            raise UsageError(f"the reward function gave {len(numbers)} rewards for {len(asked)} completions")
        return torch.tensor(numbers, dtype=torch.float32, device=self.device)

    def notes(self) -> list[str]:
        """Return lines for the terminal about the answers of the data that are cut, and the pairs that are equal."""
        rows, length = getattr(self.source, "rows", []), self.source.completion_length
        names = [name for name in ANSWERS if rows and name in rows[0]]
        cut = alike = 0
        for some in (rows[i : i + CHECKED] for i in range(0, len(rows), CHECKED) if names):
            asked = [row["prompt"] for row in some]
            made = [self.answers(asked, [row[name] for row in some]) for name in names]
            for each in made:
                last = each.tokens.gather(1, (each.mask.sum(1, keepdim=True) - 1).clamp(min=0))
                cut += int((~torch.isin(last, self.ends)).sum())
            if len(made) == 2:
                texts = [[row[kept].tolist() for row, kept in zip(*each[:2], strict=True)] for each in made]
                alike += sum(map(list.__eq__, *texts))
        lines = []
        if cut:
            lines.append(f"{cut} of {len(names) * len(rows)} answers are longer than --completion-length {length}: cut")
        if alike:
            after = f", after {length} tokens" if cut else ""
            lines.append(f"{alike} of {len(rows)} pairs are alike{after}: nothing is learned from them")
        return lines


def _number(reward: Any) -> float:
    """Return a reward as a finite number, or NaN for None; TypeError or ValueError for anything else."""
    if reward is None:
        return math.nan
    value = reward.item() if hasattr(reward, "item") else reward
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is a {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{value} is none; None is for completions that do not count")
    return float(value)
