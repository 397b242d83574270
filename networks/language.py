"""Causal language models as policies over completions: log-probabilities of their tokens, and samples.

A model is any module that is called with `input_ids`, `attention_mask` and `position_ids` [N, L] and returns `.logits`
[N, L, V]. Models of the transformers library compute the last logits alone, and cache keys and values while sampling;
a prompt with several completions passes through them once. Prompts [N, P] are padded at the left, completions [N, C]
at the right. The attention mask is 1 after an end of text too: no earlier token attends there, and where no prompt is
padded the mask is of ones alone, which transformers treats as no mask. A model whose attribute `bf16` is true computes
in bfloat16 by autocast (its weights stay as they are), log-probabilities in float32.
"""

import inspect
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ROWS = 2048
"""Number of tokens whose logits are normalised at a time: 1.2 GB in float32 with a vocabulary of 150,000."""


class Prompts(NamedTuple):
    """Prompts as `tokens` [N, P], padded at the left; `real` [N, P] bool is False on the padding.

    `number` [N] is equal for prompts that are known to be equal; None means that all may differ.
    """

    tokens: Tensor
    real: Tensor
    number: Tensor | None = None

    def repeat(self, times: int) -> "Prompts":
        """Return each prompt `times` times in a row."""
        every = torch.arange(len(self.tokens), device=self.tokens.device)
        numbered = self if self.number is not None else self._replace(number=every)
        return numbered.select(every.repeat_interleave(times))

    def select(self, index: Tensor) -> "Prompts":
        """Return the prompts at `index`."""
        return Prompts(*(None if x is None else x[index] for x in self))

    def distinct(self) -> tuple["Prompts", Tensor | None]:
        """Return each prompt once, and the index of each row's prompt, [N]; or all rows and None where there are less
        than two rows a prompt, or no numbers."""
        if self.number is None:
            return self, None
        numbers, row = self.number.unique(return_inverse=True)
        if 2 * len(numbers) > len(row):
            return self, None
        some = row.new_empty(len(numbers))
        some[row] = torch.arange(len(row), device=row.device)
        return self.select(some), row


class Completions(NamedTuple):
    """Completions as `tokens` [N, C]; `mask` [N, C] bool is True up to the end of text, included.

    `log_prob` [N, C] is that of each token under the policy that drew it, 0 off the mask.
    """

    tokens: Tensor
    mask: Tensor
    log_prob: Tensor


def token_log_probs(
    model: nn.Module, prompts: Prompts, tokens: Tensor, mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """Return log pi(token | prompt and tokens before) of completions `tokens` [N, C], 0 off `mask`: [N, C] float32."""
    logits = _logits(model, prompts, tokens)
    parts = zip(logits, tokens.split([part.shape[1] for part in logits], 1), strict=True)
    log_prob = torch.cat([selected_log_softmax(part, some, temperature) for part, some in parts], 1)
    return torch.where(mask, log_prob, 0)


def packed_log_probs(
    model: nn.Module, prompts: Prompts, tokens: Tensor, mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """Return what `token_log_probs` does, with several samples in a row of the model's input instead of padding.

    A row is as long as the longest sample. Position ids start again with each sample, and there is no attention mask;
    from that, models of transformers find the samples, and do not attend across them.
    """
    joined, real = torch.cat([prompts.tokens, tokens], 1), torch.cat([prompts.real, mask], 1)
    position, lengths = real.long().cumsum(1) - 1, real.sum(1) - 1  # nothing follows a sample's last token
    row, start = first_fit(lengths.tolist())
    width = int(lengths.max())
    place = torch.tensor([r * width + s for r, s in zip(row, start, strict=True)], device=joined.device)
    place = place.unsqueeze(1) + position
    ids = joined.new_zeros((max(row) + 1) * width)
    positions = torch.zeros_like(ids)
    given = real & (position < lengths.unsqueeze(1))
    ids[place[given]], positions[place[given]] = joined[given], position[given]
    inputs = {"input_ids": ids.view(-1, width), "position_ids": positions.view(-1, width)}
    with _precision(model, ids):
        logits = model(**inputs, use_cache=False).logits.flatten(0, 1)
    before = place[:, -tokens.shape[1] :][mask] - 1
    log_prob = selected_log_softmax(logits[before], tokens[mask], temperature)
    return log_prob.new_zeros(tokens.shape).masked_scatter(mask, log_prob)


def first_fit(lengths: list[int]) -> tuple[list[int], list[int]]:
    """Return the row of each sample, and its start in that row.

    Rows are as long as the longest sample. From the longest to the shortest, each goes into the first row with room.
    """
    room, row, start = [], [0] * len(lengths), [0] * len(lengths)
    most = max(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row[i] = next((r for r, left in enumerate(room) if left >= lengths[i]), len(room))
        if row[i] == len(room):
            room.append(most)
        start[i] = most - room[row[i]]
        room[row[i]] -= lengths[i]
    return row, start


def selected_log_softmax(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log softmax(logits / temperature) at `tokens`, [...] float32, from `logits` [..., V], ROWS at a time."""
    flat, index = logits.flatten(0, -2), tokens.flatten()
    parts = []
    for some, which in zip(flat.split(ROWS), index.split(ROWS), strict=True):
        if len(flat) > ROWS:  # otherwise float32 copies of all logits would be kept for the backward pass
            parts.append(checkpoint(_selected, some, which, temperature, use_reentrant=False))
        else:
            parts.append(_selected(some, which, temperature))
    return torch.cat(parts).view(tokens.shape)


def _selected(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    logits = logits.float() / temperature
    return logits.gather(1, tokens.unsqueeze(1)).squeeze(1) - logits.logsumexp(1)


def prompt_features(model: nn.Module, prompts: Prompts) -> Tensor:
    """Return the last hidden state at the last token of each prompt, [N, D]."""
    return token_features(model, prompts, prompts.tokens[:, :1])[:, 0]


def token_features(model: nn.Module, prompts: Prompts, tokens: Tensor) -> Tensor:
    """Return the last hidden state before each token of completions `tokens` [N, C]: [N, C, D]."""
    ids, real = _before_last(prompts, tokens)
    with _precision(model, ids):
        output = model(**_inputs(ids, real), **_last(model, 1), output_hidden_states=True)
    return output.hidden_states[-1][:, -tokens.shape[1] :]


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Prompts,
    length: int,
    ends: Tensor,
    generator: torch.Generator | None,
    temperature: float = 1.0,
) -> Completions:
    """Draw completions of up to `length` tokens, until one of `ends` [E]; without a `generator` the likeliest tokens.

    C is the length of the longest; after its end a completion is filled with `ends[0]`. The model is in evaluation mode
    meanwhile: the policy that acts has no dropout.
    """
    training = model.training
    model.eval()
    with _precision(model, prompts.tokens):  # autocast casts the weights once for all tokens
        parts = _draw(model, prompts, length, ends, generator, temperature)
    model.train(training)
    return Completions(*(torch.stack(part, 1) for part in parts))


def _draw(
    model: nn.Module, prompts: Prompts, length: int, ends: Tensor, generator: torch.Generator | None, temperature: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return tokens, masks and log-probabilities, each a list over C of [N]."""
    logits, past = _shared(model, prompts) or _after(model, prompts)
    ids, real = prompts.tokens, prompts.real
    running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    tokens, masks, log_probs = [], [], []
    while True:
        log_pi = (logits.float() / temperature).log_softmax(1)
        if generator is None:
            token = log_pi.argmax(1)
        else:
            token = torch.multinomial(log_pi.exp(), 1, generator=generator).squeeze(1)
        token = torch.where(running, token, ends[0])
        tokens.append(token)
        masks.append(running)
        log_probs.append(torch.where(running, log_pi.gather(1, token.unsqueeze(1)).squeeze(1), 0))
        running = running & ~torch.isin(token, ends)
        if len(tokens) == length or not running.any():
            break
        ids = torch.cat([ids, token.unsqueeze(1)], 1)
        real = torch.cat([real, torch.ones_like(real[:, :1])], 1)
        logits, past = _after(model, Prompts(ids, real), past=past)
    return tokens, masks, log_probs


def cache_name(model: nn.Module) -> str | None:
    """Return the argument by which a model of transformers takes its cached keys and values; None for other models."""
    if not hasattr(model, "prepare_inputs_for_generation"):
        return None
    return _cache_argument(type(model.get_base_model() if hasattr(model, "get_base_model") else model))


@lru_cache(maxsize=16)
def _cache_argument(kind: type[nn.Module]) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


def _shared(model: nn.Module, prompts: Prompts) -> tuple[Tensor, Any] | None:
    """Return what `_after` does, by passing each distinct prompt through the model once.

    None where few prompts are equal or the cache cannot be shared: that of recurrent layers is changed in place.
    """
    once, row = prompts.distinct()
    if row is None or not cache_name(model):
        return None
    logits, past = _after(model, once)
    layers = {type(layer).__name__ for layer in getattr(past, "layers", [None])}
    if not layers <= {"DynamicLayer", "DynamicSlidingWindowLayer"}:
        return None
    past.batch_select_indices(row)
    return logits[row], past


def _after(model: nn.Module, prompts: Prompts, past: Any = None) -> tuple[Tensor, Any]:
    """Return the logits [N, V] of the next token, and the cache of `prompts`, None if the model has none.

    `past` is the cache of all tokens but the last.
    """
    keeps = cache_name(model)
    ids = prompts.tokens if past is None else prompts.tokens[:, -1:]
    cached = {keeps: past, "use_cache": True} if keeps else {}
    with _precision(model, ids):
        output = model(**_inputs(ids, prompts.real), **_last(model, 1), **cached)
    return output.logits[:, -1], getattr(output, keeps) if keeps else None


def _logits(model: nn.Module, prompts: Prompts, tokens: Tensor) -> list[Tensor]:
    """Return the logits of completions `tokens` [N, C] in one piece [N, C, V], or two, [N, 1, V] and [N, C - 1, V]."""
    keeps, length = cache_name(model), tokens.shape[1]
    ids, real = _before_last(prompts, tokens)
    shared = _shared(model, prompts) if length > 1 else None
    if shared:
        first, past = shared
        ids, length, cached = tokens[:, :-1], length - 1, {keeps: past, "use_cache": True}
    else:
        cached = {"use_cache": False} if keeps else {}
    with _precision(model, ids):
        logits = model(**_inputs(ids, real), **_last(model, length), **cached).logits[:, -length:]
    return [first.unsqueeze(1), logits] if shared else [logits]


def _before_last(prompts: Prompts, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return prompts and completions `tokens` [N, C] without their last, and which of these are real."""
    ids = torch.cat([prompts.tokens, tokens], 1)[:, :-1]
    return ids, torch.cat([prompts.real, torch.ones_like(tokens, dtype=torch.bool)], 1)[:, :-1]


def _precision(model: nn.Module, ids: Tensor) -> torch.autocast:
    """Return the autocast for one forward pass; a context over gradient steps would reuse the weights cast before."""
    return torch.autocast(ids.device.type, torch.bfloat16, enabled=getattr(model, "bf16", False))


def _last(model: nn.Module, count: int) -> dict[str, Any]:
    """Return the argument that limits a model of transformers to its last `count` logits."""
    return {"logits_to_keep": count} if cache_name(model) else {}


def _inputs(ids: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Return a model's inputs; positions count real tokens alone, so that padding has no effect."""
    positions = (real.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return {"input_ids": ids, "attention_mask": real.long(), "position_ids": positions}
