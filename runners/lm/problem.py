"""What is to be learned, as the learner sees it: prompts in tokens, and the rewards of completions in tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from networks.language import Completions, Prompts
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
        """[N, P], padded at the left."""
        encoded = self.tokenizer(list(texts), padding=True, padding_side="left", return_tensors="pt")
        ids, real = encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)
        return Prompts(ids, real.bool())

    def answers(self, texts: Sequence[str]) -> Completions:
        """Completions that somebody wrote, an end of text after each, cut to the longest allowed; log-probabilities
        are 0."""
        ended = [text + self.tokenizer.eos_token for text in texts]
        how = {"padding": True, "padding_side": "right", "add_special_tokens": False, "return_tensors": "pt"}
        encoded = self.tokenizer(ended, truncation=True, max_length=self.source.completion_length, **how)
        tokens, mask = encoded["input_ids"].to(self.device), encoded["attention_mask"].bool().to(self.device)
        return Completions(tokens, mask, torch.zeros(tokens.shape, device=self.device))

    def decode(self, completions: Completions) -> list[str]:
        """Texts, without the end of text."""
        kept = [row[real & (row != self.end)] for row, real in zip(*completions[:2], strict=True)]
        return self.tokenizer.batch_decode(kept)

    def rewards(self, rows: Sequence[Row], completions: Completions) -> Tensor:
        """[N], of completions of the rows' prompts, an equal number each in a row; NaN where there is none. One cut
        off before its end gets what its text gets."""
        each = len(completions.tokens) // len(rows)
        asked = [row for row in rows for _ in range(each)]
        rewards = self.source.rewards(asked, self.decode(completions))
        numbers = [float("nan") if reward is None else float(reward) for reward in rewards]
        return torch.tensor(numbers, dtype=torch.float32, device=self.device)
