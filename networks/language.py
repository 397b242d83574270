"""Causal language models as policies over completions: log-probabilities of their tokens, and samples.

A model is any module that is called with `input_ids`, `attention_mask` and `position_ids` [N, L] and returns `.logits`
[N, L, V]; those of the transformers library are asked for the last logits alone, and keep keys and values while they
sample. Prompts stand at the left of [N, P], padded there; completions follow, padded at the right. What comes after an
end of text counts as real for the attention mask: in a causal model nothing before sees it, and without padding at the
left the mask is of ones alone, which transformers takes for no mask. A model whose attribute `bf16` is true computes
in bfloat16 (autocast; its weights stay as they are), log-probabilities in float32.
"""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ROWS = 2048
"""Tokens whose logits are normalised at a time: of a vocabulary of 150,000, 1.2 GB in float32."""


class Prompts(NamedTuple):
    """`tokens` [N, P] padded at the left, `real` [N, P] bool, False on the padding."""

    tokens: Tensor
    real: Tensor

    def repeat(self, times: int) -> "Prompts":
        """Each prompt `times` times in a row."""
        return Prompts(*(x.repeat_interleave(times, 0) for x in self))

    def of(self, index: Tensor) -> "Prompts":
        """Some of them."""
        return Prompts(*(x[index] for x in self))


class Completions(NamedTuple):
    """`tokens` [N, C]; `mask` [N, C] bool, True up to the end of text and on it; `log_prob` [N, C] of each token under
    the policy that drew it, 0 off the mask."""

    tokens: Tensor
    mask: Tensor
    log_prob: Tensor


def token_log_probs(
    model: nn.Module, prompts: Prompts, tokens: Tensor, mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """log pi(token | what stands before it) of completions `tokens` [N, C], 0 off `mask`; [N, C] float32."""
    ids = torch.cat([prompts.tokens, tokens], 1)[:, :-1]
    real = torch.cat([prompts.real, torch.ones_like(mask)], 1)[:, :-1]
    logits = _logits(model, ids, real, tokens.shape[1])
    log_prob = selected_log_softmax(logits, tokens, temperature)
    return torch.where(mask, log_prob, 0)


def selected_log_softmax(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at `tokens`: [..., V], [...] -> [...] in float32, ROWS at a time."""
    flat, index = logits.flatten(0, -2), tokens.flatten()
    parts = []
    for some, which in zip(flat.split(ROWS), index.split(ROWS), strict=True):
        if len(flat) > ROWS:  # not to keep float32 copies of all for the backward pass
            parts.append(checkpoint(_selected, some, which, temperature, use_reentrant=False))
        else:
            parts.append(_selected(some, which, temperature))
    return torch.cat(parts).view(tokens.shape)


def _selected(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    logits = logits.float() / temperature
    return logits.gather(1, tokens.unsqueeze(1)).squeeze(1) - logits.logsumexp(1)


def prompt_features(model: nn.Module, prompts: Prompts) -> Tensor:
    """[N, D]: the last hidden state on the last token of each prompt."""
    inputs = _inputs(prompts.tokens, prompts.real)
    with _precision(model, prompts.tokens):
        output = model(**inputs, **_last(model, 1), output_hidden_states=True)
    return output.hidden_states[-1][:, -1]


@torch.inference_mode()
def sample(
    model: nn.Module,
    prompts: Prompts,
    length: int,
    end: int,
    generator: torch.Generator | None,
    temperature: float = 1.0,
) -> Completions:
    """Up to `length` tokens each, drawn until the `end` of text; without a `generator` the likeliest ones. C is the
    longest one.

    The model is in evaluation mode meanwhile, whatever its mode before: dropout has no place in the policy that acts.
    """
    training = model.training
    model.eval()
    past = None
    ids, real = prompts
    running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    tokens, masks, log_probs = [], [], []
    keeps, few = cache_name(model), _last(model, 1)
    for _ in range(length):
        with _precision(model, ids):
            if keeps:
                inputs = _inputs(ids if past is None else tokens[-1].unsqueeze(1), real)
                output = model(**inputs, **few, **{keeps: past}, use_cache=True)
                past = getattr(output, keeps)
            else:
                output = model(**_inputs(ids, real))
        log_pi = (output.logits[:, -1].float() / temperature).log_softmax(1)
        if generator is None:
            token = log_pi.argmax(1)
        else:
            token = torch.multinomial(log_pi.exp(), 1, generator=generator).squeeze(1)
        token = torch.where(running, token, end)
        tokens.append(token)
        masks.append(running)
        log_probs.append(torch.where(running, log_pi.gather(1, token.unsqueeze(1)).squeeze(1), 0))
        ids = torch.cat([ids, token.unsqueeze(1)], 1)
        real = torch.cat([real, torch.ones_like(real[:, :1])], 1)
        running = running & (token != end)
        if not running.any():
            break
    model.train(training)
    return Completions(*(torch.stack(x, 1) for x in (tokens, masks, log_probs)))


def cache_name(model: nn.Module) -> str | None:
    """What a model of the transformers library calls the keys and values it keeps; None of any other model."""
    if not hasattr(model, "prepare_inputs_for_generation"):
        return None
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # an adapter's wrapper hides it
    return "cache" if "cache" in inspect.signature(inner.forward).parameters else "past_key_values"


def _logits(model: nn.Module, ids: Tensor, real: Tensor, last: int) -> Tensor:
    """[N, last, V]."""
    uncached = {"use_cache": False} if cache_name(model) else {}
    with _precision(model, ids):
        return model(**_inputs(ids, real), **_last(model, last), **uncached).logits[:, -last:]


def _precision(model: nn.Module, ids: Tensor) -> torch.autocast:
    """Of one forward pass: weights that a longer context had cast would be those from before a gradient step."""
    return torch.autocast(ids.device.type, torch.bfloat16, enabled=getattr(model, "bf16", False))


def _last(model: nn.Module, count: int) -> dict[str, Any]:
    """Asks a model of the transformers library for its last logits alone."""
    return {"logits_to_keep": count} if cache_name(model) else {}


def _inputs(ids: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Positions count real tokens, so a prompt's padding changes nothing."""
    positions = (real.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return {"input_ids": ids, "attention_mask": real.long(), "position_ids": positions}
