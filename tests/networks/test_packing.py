"""Packed samples: no attention across them, positions that start again, the same log-probabilities and gradients."""

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from networks.language import Prompts, first_fit, packed_log_probs, token_log_probs

SHAPE = dict(vocab_size=23, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=23, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "gemma2, sliding window": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, num_key_value_heads=1, head_dim=8, sliding_window=4)
    ),
}


def samples(seed: int, n: int = 12) -> tuple[Prompts, torch.Tensor, torch.Tensor]:
    """Prompts of 1 to 9 tokens and completions of 1 to 14, one of which has no token that counts."""
    rng = np.random.default_rng(seed)
    real = np.arange(9) >= 9 - rng.integers(1, 10, n)[:, None]
    lengths = rng.integers(1, 15, n)
    lengths[3] = 0
    mask = np.arange(14) < lengths[:, None]
    tokens = torch.tensor(rng.integers(1, 23, (n, 23)))
    return Prompts(tokens[:, :9], torch.tensor(real)), tokens[:, 9:], torch.tensor(mask)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_samples_have_the_loss_and_the_gradient_of_samples_apart(name, temperature):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    prompts, tokens, mask = samples(1)
    calls = []
    model.register_forward_pre_hook(lambda _, __, inputs: calls.append(inputs["input_ids"].shape), with_kwargs=True)
    results = []
    for log_probs in (token_log_probs, packed_log_probs):
        model.zero_grad()
        found = log_probs(model, prompts, tokens, mask, temperature)
        (-found.sum() / mask.sum()).backward()
        results.append((found.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    apart, packed = (rows * width for rows, width in calls)
    assert packed < 0.8 * apart


@pytest.mark.parametrize("seed", range(5))
def test_rows_hold_each_sample_once_and_none_too_much(seed):
    lengths = np.random.default_rng(seed).integers(0, 50, 40).tolist()
    row, start = first_fit(lengths)
    places = [(r, s + k) for r, s, n in zip(row, start, lengths, strict=True) for k in range(n)]
    assert len(places) == len(set(places)) and max(place for _, place in places) < max(lengths)
    assert (max(row) + 1) * max(lengths) <= 2 * sum(lengths)
