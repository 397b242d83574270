"""A language model's tokens: their log-probabilities and how they are drawn, against each sequence run alone."""

import math
from functools import cache, wraps
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import networks.language
from agents.sequences.config import SequenceConfig
from agents.sequences.factory import make_sequence_agent
from agents.sequences.types import Samples
from networks.language import (
    Prompts,
    prompt_features,
    sample,
    selected_log_softmax,
    token_features,
    token_log_probs,
)

VOCABULARY, END = 11, 4
ENDS = torch.tensor([END])
PROMPTS = [[1, 2, 3], [5], [7, END, 9, 10, 6], [8, 2]]
ANSWERS = [[2, 7, END], [3, 1, 9, 0], [END], [10, END]]


class Plain(nn.Module):
    """A causal mean of embeddings: a module of no library, which takes its positions and its mask as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, 16), nn.Embedding(32, 16)
        self.out = nn.Linear(16, VOCABULARY)

    def forward(self, input_ids, attention_mask, position_ids):
        real = attention_mask.unsqueeze(-1).float()
        sums = (self.token(input_ids) * real).cumsum(1) / real.cumsum(1).clamp(min=1)
        return SimpleNamespace(logits=self.out((2 * sums + self.token(input_ids) + self.position(position_ids)).tanh()))


class Recurrent(Plain):
    """One that is asked like those of transformers, and keeps something that only it can read."""

    prepare_inputs_for_generation = None

    def forward(self, input_ids, attention_mask, position_ids, past_key_values=None, use_cache=None, logits_to_keep=0):
        if past_key_values:
            input_ids = torch.cat([past_key_values.ids, input_ids], 1)
            position_ids = torch.cat([past_key_values.positions, position_ids], 1)
        logits = super().forward(input_ids, attention_mask, position_ids).logits
        kept = SimpleNamespace(ids=input_ids, positions=position_ids, layers=[self])
        return SimpleNamespace(logits=logits[:, -logits_to_keep:], past_key_values=kept if use_cache else None)


def gpt2(dropout: float = 0.0) -> nn.Module:
    drops = {name: dropout for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": VOCABULARY, "n_positions": 32}
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**shape, **drops, initializer_range=0.3, bos_token_id=0, eos_token_id=END))


@cache
def model_of(name: str) -> nn.Module:
    torch.manual_seed(1)
    if name == "gpt2":
        return gpt2().eval()
    if name in ("plain", "recurrent"):
        return {"plain": Plain, "recurrent": Recurrent}[name]().eval()
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"vocab_size": VOCABULARY, "num_key_value_heads": 1, "initializer_range": 0.4}
    if name == "window":
        return MistralForCausalLM(MistralConfig(**shape, sliding_window=3)).eval()
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


MODELS = ["gpt2", "llama", "window", "plain", "recurrent"]


def padded(prompts: list[list[int]], pad: int = 0) -> Prompts:
    width = max(map(len, prompts))
    tokens = [[pad] * (width - len(p)) + p for p in prompts]
    real = [[False] * (width - len(p)) + [True] * len(p) for p in prompts]
    return Prompts(torch.tensor(tokens), torch.tensor(real))


def answers(completions: list[list[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, completions))
    tokens = [c + [pad] * (width - len(c)) for c in completions]
    return torch.tensor(tokens), torch.tensor([[t < len(c) for t in range(width)] for c in completions])


@torch.no_grad()
def alone(model: nn.Module, sequence: list[int], **options):
    """The model's output on one sequence without padding."""
    ids = torch.tensor([sequence])
    mask, positions = torch.ones_like(ids), torch.arange(len(sequence)).unsqueeze(0)
    return model(input_ids=ids, attention_mask=mask, position_ids=positions, **options)


def log_probs_alone(model: nn.Module, prompt: list[int], completion: list[int], temperature: float) -> list[float]:
    """One token at a time, each from a run of its own."""
    found = []
    for t, token in enumerate(completion):
        logits = alone(model, prompt + completion[:t]).logits[0, -1].double().numpy() / temperature
        found.append(logits[token] - math.log(np.exp(logits).sum()))
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", MODELS)
def test_log_probs_of_tokens_are_those_of_each_sequence_alone(name, temperature):
    model = model_of(name)
    expected = np.zeros((4, 4))
    for i, (prompt, completion) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected[i, : len(completion)] = log_probs_alone(model, prompt, completion, temperature)
    for pad in (0, END):
        tokens, mask = answers(ANSWERS, pad)
        with torch.no_grad():
            found = token_log_probs(model, padded(PROMPTS, pad), tokens, mask, temperature)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
        assert torch.all(found[~mask] == 0)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_prompt_features_are_the_last_hidden_states(name):
    with torch.no_grad():
        found = prompt_features(model_of(name), padded(PROMPTS))
    for features, prompt in zip(found, PROMPTS, strict=True):
        expected = alone(model_of(name), prompt, output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_token_features_are_the_hidden_states_before_each_token(name):
    tokens, mask = answers(ANSWERS, END)
    with torch.no_grad():
        found = token_features(model_of(name), padded(PROMPTS), tokens)
    assert found.shape[:2] == tokens.shape
    for i, (prompt, completion) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        for t in range(len(completion)):
            states = alone(model_of(name), prompt + completion[:t], output_hidden_states=True).hidden_states[-1]
            torch.testing.assert_close(found[i, t], states[0, -1], rtol=1e-4, atol=1e-5)


def test_sft_of_a_model_has_the_gradient_of_its_cross_entropy():
    model, prompt = gpt2().train(), PROMPTS[2]
    tokens, mask = answers(ANSWERS[:3])
    prompts = Prompts(torch.tensor([prompt] * 3), torch.ones(3, len(prompt), dtype=torch.bool))
    logits = model(input_ids=torch.cat([prompts.tokens, tokens], 1)).logits[:, len(prompt) - 1 : -1]
    targets = torch.where(mask, tokens, -100)
    (cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / 3).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    sft, zeros = make_sequence_agent(SequenceConfig(method="sft")), torch.zeros(3, 4)
    samples = Samples(mask, zeros, zeros, zeros[:, 0])
    fitted = token_log_probs(model, prompts, tokens, mask)
    sft.loss(fitted, fitted, samples, sft.plan(samples).weights, mask.sum()).loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("name", MODELS)
def test_samples_carry_the_log_probs_of_their_tokens(name, temperature):
    model, prompts = model_of(name), padded(PROMPTS, END).repeat(4)

    def draw(seed: int):
        return sample(model, prompts, 6, ENDS, torch.Generator().manual_seed(seed), temperature)

    one = draw(0)
    for x, y in zip(one, draw(0), strict=True):
        assert torch.equal(x, y)
    assert not torch.equal(one.tokens[:, 0], draw(1).tokens[:, 0])
    with torch.no_grad():
        expected = token_log_probs(model, prompts, one.tokens, one.mask, temperature)
    np.testing.assert_allclose(one.log_prob.numpy(), expected.numpy(), atol=1e-4)
    assert torch.all(one.log_prob[~one.mask] == 0) and torch.all(one.log_prob[one.mask] < 0)
    lengths = []
    for tokens, mask in zip(one.tokens.tolist(), one.mask.tolist(), strict=True):
        length = tokens.index(END) + 1 if END in tokens else len(tokens)
        assert mask == [t < length for t in range(len(tokens))]
        lengths.append(length)
    assert min(lengths) < max(lengths) == one.tokens.shape[1] <= 6


@pytest.mark.parametrize("name", MODELS)
def test_the_likeliest_tokens_are_those_of_a_loop_without_a_cache(name):
    model = model_of(name)
    free = sample(model, padded(PROMPTS), 5, torch.tensor([VOCABULARY + 1]), None)  # an end that no model draws
    for end in (VOCABULARY + 1, free.tokens[0, 2].item(), free.tokens[1, 0].item()):
        found = sample(model, padded(PROMPTS, min(end, VOCABULARY - 1)), 5, torch.tensor([end]), None)
        longest = 0
        for i, prompt in enumerate(PROMPTS):
            expected: list[int] = []
            while len(expected) < 5 and end not in expected:
                expected.append(int(alone(model, prompt + expected).logits[0, -1].argmax()))
            assert found.tokens[i][found.mask[i]].tolist() == expected
            assert found.mask[i].tolist() == [t < len(expected) for t in range(found.mask.shape[1])]
            longest = max(longest, len(expected))
        assert found.tokens.shape[1] == longest


def test_sampling_stops_once_all_have_ended():
    found = sample(model_of("gpt2"), padded([PROMPTS[0]] * 3), 5, ENDS, None)
    first = found.tokens[0, 0].item()
    ended = sample(model_of("gpt2"), padded([PROMPTS[0]] * 3), 5, torch.tensor([first]), None)
    assert ended.tokens.tolist() == [[first]] * 3 and ended.mask.all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_of_tokens_are_the_softmax(temperature):
    model, prompt, many = model_of("plain"), PROMPTS[2], 3000
    generator = torch.Generator().manual_seed(3)
    found = sample(model, padded([[1], prompt]).select(torch.tensor([1])).repeat(many), 1, ENDS, generator, temperature)
    logits = alone(model, prompt).logits[0, -1].double().numpy()
    counts = np.bincount(found.tokens[:, 0].numpy(), minlength=VOCABULARY)

    def p_value(temperature: float) -> float:
        chances = np.exp(logits / temperature)
        return chisquare(counts, many * chances / chances.sum()).pvalue

    assert p_value(temperature) > 1e-3
    assert p_value(1.5 - temperature) < 1e-6


@pytest.mark.parametrize("training", [True, False])
def test_samples_are_drawn_without_dropout(training):
    model, prompts = gpt2(dropout=0.5).train(training), padded(PROMPTS)
    torch.manual_seed(5)
    one = sample(model, prompts, 5, ENDS, torch.Generator().manual_seed(0))
    other = sample(model, prompts, 5, ENDS, torch.Generator().manual_seed(0))
    assert model.training == training and model.transformer.drop.training == training
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.log_prob, other.log_prob)
    with torch.no_grad():
        expected = token_log_probs(model.eval(), prompts, one.tokens, one.mask)
        dropped = token_log_probs(model.train(), prompts, one.tokens, one.mask)
    np.testing.assert_allclose(one.log_prob.numpy(), expected.numpy(), atol=1e-4)
    assert (dropped - expected).abs().max() > 0.01


@pytest.mark.parametrize("shape", [(7,), (1,), (2, 5), (3, 3), (1, 13)])
def test_selected_log_softmax_in_pieces(monkeypatch, shape):
    monkeypatch.setattr(networks.language, "ROWS", 3)
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(*shape, VOCABULARY, generator=generator)
    tokens = torch.randint(VOCABULARY, shape, generator=generator)
    for given in (logits, logits.bfloat16()):
        leaf = given.clone().requires_grad_()
        found = selected_log_softmax(leaf, tokens, 0.7)
        plain = given.float().requires_grad_()
        expected = torch.log_softmax(plain / 0.7, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        assert found.dtype == torch.float32 and found.shape == shape
        torch.testing.assert_close(found, expected)
        (gradient,) = torch.autograd.grad(found.sum(), leaf)
        (wanted,) = torch.autograd.grad(expected.sum(), plain)
        torch.testing.assert_close(gradient, wanted.to(given.dtype))


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_completions_of_one_prompt_share_its_keys_and_values(name, length, monkeypatch):
    model, some = model_of(name), torch.tensor([0, 1, 2, 4, 5, 9, 10, 11, 8])
    tokens = torch.randint(VOCABULARY, (9, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    widths, forward = [], type(model).forward

    def watched(self, **inputs):
        widths.append(len(inputs["input_ids"]))
        return forward(self, **inputs)

    monkeypatch.setattr(type(model), "forward", wraps(forward)(watched))

    def gradients(prompts: Prompts) -> tuple[torch.Tensor, list[torch.Tensor]]:
        found = token_log_probs(model, prompts, tokens, mask, 0.7)
        return found.detach(), torch.autograd.grad((found * torch.arange(9).unsqueeze(1)).sum(), model.parameters())

    prompts = padded(PROMPTS).repeat(4).select(some)
    found, fitted = gradients(prompts)
    assert widths == ([9] if name == "plain" or length == 1 else [3, 9])
    expected, wanted = gradients(prompts._replace(number=None))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for x, y in zip(fitted, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


def test_prompts_that_mostly_differ_are_not_shared():
    prompts = padded(PROMPTS).repeat(2)
    assert prompts.distinct()[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert prompts.select(torch.tensor([0, 3, 5, 4])).distinct()[1] is None
    once, row = prompts.select(torch.tensor([7, 4, 5, 6])).distinct()
    assert torch.equal(once.tokens[row], prompts.tokens[[7, 4, 5, 6]]) and len(once.tokens) == 2
    assert padded(PROMPTS).distinct()[1] is None


def test_repeated_and_chosen_prompts():
    prompts = padded(PROMPTS)
    repeated = prompts.repeat(2)
    for i in range(8):
        assert torch.equal(repeated.tokens[i], prompts.tokens[i // 2])
        assert torch.equal(repeated.real[i], prompts.real[i // 2])
    some = prompts.select(torch.tensor([2, 0]))
    assert some.tokens.tolist() == prompts.tokens[[2, 0]].tolist() and some.real.tolist() == [
        [True] * 5,
        [False] * 2 + [True] * 3,
    ]
