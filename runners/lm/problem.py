"""What is to be learned, as the learner sees it: prompts in tokens, and the rewards of completions in tokens."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from networks.language import Completions, Prompts
from runners.errors import UsageError
from runners.lm.sources import Row, Source


class Problem:
    """A source and a tokenizer."""

    def __init__(self, source: Source, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        self.source, self.tokenizer, self.device = source, tokenizer, device

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    def encode(self, texts: Sequence[str]) -> Prompts:
        """[N, P], padded at the left; with what the tokenizer puts before a text, unless a chat template has done so,
        and without an end of text that it puts after."""
        start = self.tokenizer.bos_token
        special = not (start and texts[0].startswith(start))
        encoded = self.tokenizer(
            list(texts), padding=True, padding_side="left", return_tensors="pt", add_special_tokens=special
        )
        ids, real = encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)
        if special and (ids[:, -1] == self.end).all() and not texts[0].endswith(self.tokenizer.eos_token):
            ids, real = ids[:, :-1], real[:, :-1]
        return Prompts(ids, real.bool())

    def answers(self, texts: Sequence[str]) -> Completions:
        """Completions that somebody wrote, up to the first end of text, which is put after each; cut to the longest
        allowed, then without it. Log-probabilities are 0."""
        ended = [text + self.tokenizer.eos_token for text in texts]
        how = {"padding": True, "padding_side": "right", "add_special_tokens": False, "return_tensors": "pt"}
        encoded = self.tokenizer(ended, truncation=True, max_length=self.source.completion_length, **how)
        tokens, mask = encoded["input_ids"].to(self.device), encoded["attention_mask"].bool().to(self.device)
        ends = tokens == self.end
        before = ends.long().cumsum(1) - ends.long()
        return Completions(tokens, mask & (before == 0), torch.zeros(tokens.shape, device=self.device))

    def decode(self, completions: Completions) -> list[str]:
        """Texts, without the end of text."""
        tokens, mask = completions.tokens.cpu(), completions.mask.cpu()
        kept = [row[real & (row != self.end)] for row, real in zip(tokens, mask, strict=True)]
        return self.tokenizer.batch_decode(kept)

    def rewards(self, rows: Sequence[Row], completions: Completions) -> Tensor:
        """[N], of completions of the rows' prompts, an equal number each in a row; NaN where there is none. One cut
        off before its end gets what its text gets."""
        each = len(completions.tokens) // len(rows)
        asked = [row for row in rows for _ in range(each)]
        rewards = list(self.source.rewards(asked, self.decode(completions)))
        if len(rewards) != len(asked):
            raise UsageError(f"the reward function gave {len(rewards)} rewards for {len(asked)} completions")
        numbers = [math.nan if reward is None else float(reward) for reward in rewards]
        if any(map(math.isinf, numbers)):
            raise UsageError("the reward function gave an infinite reward; None is for completions that do not count")
        return torch.tensor(numbers, dtype=torch.float32, device=self.device)
