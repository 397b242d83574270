"""Dropout of attention weights, and DropPath, in the cores and in language models."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from networks.attention import RelativeAttention, plain_attention
from networks.config import NetworkConfig
from networks.cores import make_core
from networks.drop_path import DropPath, drop_blocks
from runners.lm.model import has_dropout

P = 0.4


def test_a_path_is_dropped_for_whole_samples_and_none_on_average():
    torch.manual_seed(0)
    layer, before, after = DropPath(P), torch.full((20_000, 2, 3), 5.0), torch.full((20_000, 2, 3), 6.0)
    mixed = layer(before, after).flatten(1)
    assert (mixed == mixed[:, :1]).all()
    torch.testing.assert_close(mixed[:, 0].unique(), torch.tensor([5, 5 + 1 / (1 - P)]))
    assert mixed.mean().item() == pytest.approx(6, abs=0.02)
    assert torch.equal(layer.eval()(before, after), after) and torch.equal(DropPath(0.0)(before, after), after)


def test_attention_weights_are_dropped_while_learning_alone():
    """By hand, with values that show each weight apart."""
    torch.manual_seed(0)
    keys = torch.randn(1, 1, 5, 5)
    query, bias, values = torch.randn(1, 1, 2, 5), torch.zeros(1, 1, 2, 5), torch.eye(5).view(1, 1, 5, 5)
    whole = plain_attention(query, keys, values, bias)
    found = torch.stack([plain_attention(query, keys, values, bias, P) for _ in range(4000)])
    dropped = found == 0
    assert dropped.float().mean().item() == pytest.approx(P, abs=0.02)
    torch.testing.assert_close(found[~dropped], (whole / (1 - P)).expand_as(found)[~dropped])
    torch.testing.assert_close(found.mean(0), whole, atol=0.02, rtol=0)

    attention = RelativeAttention(8, 2, 4, P)
    x, mask = torch.randn(3, 6, 8), torch.ones(3, 6, 6, dtype=torch.bool).tril()
    assert not torch.equal(attention(x, x, mask), attention(x, x, mask))
    attention.eval()
    assert torch.equal(attention(x, x, mask), attention(x, x, mask))


@pytest.mark.parametrize("core", ["trxl", "trxl-i", "gtrxl"])
def test_a_core_leaves_out_blocks_of_an_environment_at_a_time(core):
    """One environment is as without any block, or as with some, and not the same for all."""
    config = NetworkConfig(core=core, embedding=8, heads=2, key_size=4, mlp_size=8, layers=1, memory=4, drop_path=P)
    torch.manual_seed(0)
    made = make_core(config)
    x, first = torch.randn(3, 1, 8).expand(3, 64, 8), torch.zeros(3, 64, dtype=torch.bool)
    y, _ = made(x, first, made.initial_state(64))
    different = {tuple(column.flatten().round(decimals=4).tolist()) for column in y.detach().transpose(0, 1)}
    assert len(different) == 4  # attention left out or not, and the MLP
    if core != "trxl":  # an environment without any sub-block passes its input on, whatever its gates would do
        assert tuple(x[:, 0].flatten().round(decimals=4).tolist()) in different
    y, _ = made.eval()(x, first, made.initial_state(64))
    assert (y == y[:, :1]).all()


def test_drop_path_is_of_transformers():
    for core in ("lstm", "gru", "mingru", "feedforward"):
        with pytest.raises(ValueError, match=f"--drop-path leaves out .*, and --core {core} has none"):
            NetworkConfig(core=core, drop_path=0.1)
    with pytest.raises(ValueError, match="--drop-path must lie in"):
        NetworkConfig(drop_path=1.0)
    with pytest.raises(ValueError, match="--drop-path finds no blocks"):
        drop_blocks(torch.nn.Linear(2, 2), 0.1)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_blocks_of_a_language_model_are_left_out(kind):
    if kind == "gpt2":
        options = dict(n_embd=8, n_layer=1, n_head=2, n_positions=16, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=11, bos_token_id=0, eos_token_id=0, **options))
    else:
        shape = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=11, **shape))
    ids = torch.randint(11, (1, 6)).expand(64, 6)
    whole = model.eval()(ids).logits
    assert not has_dropout(model)
    drop_blocks(model, P)
    assert has_dropout(model) and torch.equal(model(ids).logits, whole)
    torch.manual_seed(0)
    logits = model.train()(ids).logits
    assert len({tuple(row.flatten().round(decimals=4).tolist()) for row in logits.detach()}) == 2
    logits.sum().backward()
