"""The problem to learn in tokens: prompts, completions, and the rewards of completions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from networks.language import Completions, Prompts
from runners.errors import UsageError
from runners.lm.rows import Row
from runners.lm.sources import Source


class Problem:
    """A source and a tokenizer. `ends` [E] are the tokens that end a completion: the tokenizer's, then `also`, those of
    the model."""

    def __init__(
        self, source: Source, tokenizer: PreTrainedTokenizerBase, device: torch.device, also: Sequence[int] = ()
    ) -> None:
        self.source, self.tokenizer, self.device = source, tokenizer, device
        self.ends = torch.tensor(list(dict.fromkeys([tokenizer.eos_token_id, *also])), device=device)

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

        Each has its end of text, and none after it; one that is too long is cut, and has no end.
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
            numbers = [math.nan if reward is None else float(reward) for reward in rewards]
        except (TypeError, ValueError) as error:
            raise UsageError(f"the reward function must give a list of numbers or None: {error}") from error
        if len(numbers) != len(asked):
            raise UsageError(f"the reward function gave {len(numbers)} rewards for {len(asked)} completions")
        if any(map(math.isinf, numbers)):
            raise UsageError("the reward function gave an infinite reward; None is for completions that do not count")
        return torch.tensor(numbers, dtype=torch.float32, device=self.device)
