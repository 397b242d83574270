"""Relative attention against a loop over batch, query, head and key written from Transformer-XL's equations."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from networks.attention import RelativeAttention, plain_attention, relative_shift, sinusoid_table
from support.oracles import array, attention, sinusoid

D_MODEL, HEADS, KEY_SIZE = 6, 2, 5


def make_attention(seed: int = 0, dtype: torch.dtype = torch.float64) -> RelativeAttention:
    """Every parameter random, also u and v (they may start at zero, which would hide a wrong use of them)."""
    torch.manual_seed(seed)
    module = RelativeAttention(D_MODEL, HEADS, KEY_SIZE).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.7)
    return module


def weights(module: RelativeAttention) -> dict[str, np.ndarray]:
    return {name: array(value) for name, value in module.state_dict().items()}


def random_mask(batch: int, steps: int, memory: int, generator: torch.Generator) -> torch.Tensor:
    """Causal, anything else at random, and every query sees itself."""
    mask = torch.rand(batch, steps, memory + steps, generator=generator) < 0.6
    offset = memory + torch.arange(steps)[:, None] - torch.arange(memory + steps)
    return (mask & (offset > 0)) | (offset == 0)


@pytest.mark.parametrize("memory,steps", [(0, 1), (0, 4), (1, 1), (3, 1), (3, 4), (7, 2), (2, 6)])
def test_relative_shift_places_each_offset(memory: int, steps: int) -> None:
    keys = memory + steps
    # The value at (b, i, column) names its batch, its query and its offset.
    offset = (keys - 1 - torch.arange(keys)).double()
    x = torch.arange(2.0)[:, None, None] * 1e4 + torch.arange(float(steps))[:, None] * 1e2 + offset
    shifted = relative_shift(x)
    assert shifted.shape == x.shape
    for b in range(2):
        for i in range(steps):
            for j in range(memory + i + 1):
                assert shifted[b, i, j] == b * 1e4 + i * 1e2 + (memory + i - j)


def test_relative_shift_takes_any_leading_dimensions() -> None:
    x = torch.randn(2, 3, 4, 4 + 5)
    torch.testing.assert_close(relative_shift(x)[1, 2], relative_shift(x[1, 2]))


@pytest.mark.parametrize("size", [2, 6, 32])
def test_sinusoid_table(size: int) -> None:
    offsets = torch.tensor([0.0, 1.0, 2.0, 7.0, 63.0, 511.0])
    table = array(sinusoid_table(offsets, size))
    assert table.shape == (6, size)
    for row, offset in zip(table, offsets.tolist(), strict=True):
        np.testing.assert_allclose(row, sinusoid(offset, size), atol=5e-5)  # float32 sine of an angle of hundreds
    np.testing.assert_array_equal(table[0], [0.0] * (size // 2) + [1.0] * (size // 2))  # concatenated, not interleaved


def test_sinusoid_table_keeps_its_precision_under_autocast() -> None:
    offsets = torch.arange(300.0)
    with torch.autocast("cpu", torch.bfloat16):
        table = sinusoid_table(offsets, 8)
    torch.testing.assert_close(table, sinusoid_table(offsets, 8), rtol=0, atol=0)


@pytest.mark.parametrize("memory,steps", [(0, 1), (0, 4), (3, 1), (3, 4), (5, 2), (1, 5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_attention_matches_brute_force(memory: int, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    module = make_attention(seed)
    # Queries get an input of their own: whoever takes them from the tail of the keys' input is found out.
    query_input = torch.randn(3, steps, D_MODEL, generator=generator, dtype=torch.float64)
    memory_and_input = torch.randn(3, memory + steps, D_MODEL, generator=generator, dtype=torch.float64)
    mask = random_mask(3, steps, memory, generator)
    expected = attention(weights(module), array(query_input), array(memory_and_input), mask.numpy())
    # The table of sinusoids may be kept in float32.
    np.testing.assert_allclose(array(module(query_input, memory_and_input, mask)), expected, atol=1e-6)


def test_attention_float32_matches_brute_force() -> None:
    generator = torch.Generator().manual_seed(3)
    module = make_attention(3, torch.float32)
    query_input = torch.randn(2, 6, D_MODEL, generator=generator)
    memory_and_input = torch.randn(2, 10, D_MODEL, generator=generator)
    mask = random_mask(2, 6, 4, generator)
    expected = attention(weights(module), array(query_input), array(memory_and_input), mask.numpy())
    np.testing.assert_allclose(array(module(query_input, memory_and_input, mask)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_plain_and_fused_attention_agree(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = (3, HEADS, 6, KEY_SIZE), (3, HEADS, 10, KEY_SIZE), (3, HEADS, 10, KEY_SIZE), (3, HEADS, 6, 10)
    given = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    mask = random_mask(3, 6, 4, generator)[:, None]
    coefficients = torch.randn(shapes[0], generator=generator).to(dtype)

    def run(mix) -> list[torch.Tensor]:
        mixed = mix(*given[:3], given[3].masked_fill(~mask, -torch.inf))
        return [mixed, *torch.autograd.grad((mixed * coefficients).sum(), given)]

    for plain, fused in zip(run(plain_attention), run(scaled_dot_product_attention), strict=True):
        torch.testing.assert_close(plain, fused, rtol=tolerance, atol=tolerance)


def test_masked_keys_have_no_say() -> None:
    generator = torch.Generator().manual_seed(4)
    module = make_attention(4)
    query_input = torch.randn(2, 3, D_MODEL, generator=generator, dtype=torch.float64)
    memory_and_input = torch.randn(2, 8, D_MODEL, generator=generator, dtype=torch.float64)
    mask = random_mask(2, 3, 5, generator)
    mask[:, :, 1:3] = False
    other = memory_and_input.clone()
    other[:, 1:3] = 1e4
    torch.testing.assert_close(module(query_input, other, mask), module(query_input, memory_and_input, mask))


def test_a_query_that_sees_only_itself_returns_its_own_value() -> None:
    module = make_attention(5)
    x = torch.randn(2, 4, D_MODEL, dtype=torch.float64)
    mask = torch.eye(4, dtype=torch.bool).expand(2, 4, 4)
    torch.testing.assert_close(module(x, x, mask), module.output(module.value(x)))


def test_positions_are_relative() -> None:
    """The same keys under the same offsets give the same answer wherever they stand."""
    module = make_attention(6)
    memory_and_input = torch.randn(1, 9, D_MODEL, dtype=torch.float64)
    window = torch.zeros(1, 5, 9, dtype=torch.bool)
    for i in range(5):
        window[0, i, 4 + i - 2 : 4 + i + 1] = True
    whole = module(memory_and_input[:, 4:], memory_and_input, window)
    for i in range(5):
        part = memory_and_input[:, 4 + i - 2 : 4 + i + 1]
        alone = module(part[:, -1:], part, torch.ones(1, 1, 3, dtype=torch.bool))
        torch.testing.assert_close(whole[:, i : i + 1], alone, atol=1e-6, rtol=1e-6)


def test_order_of_memory_matters() -> None:
    module = make_attention(7)
    keys = torch.randn(1, 4, D_MODEL, dtype=torch.float64)
    swapped = keys[:, [1, 0, 2, 3]]
    mask = torch.ones(1, 1, 4, dtype=torch.bool)
    assert not torch.allclose(module(keys[:, -1:], keys, mask), module(keys[:, -1:], swapped, mask), atol=1e-4)


def test_attention_parameters() -> None:
    shapes = {name: tuple(value.shape) for name, value in make_attention().named_parameters()}
    inner = HEADS * KEY_SIZE
    assert shapes == {
        "query.weight": (inner, D_MODEL),
        "key.weight": (inner, D_MODEL),
        "value.weight": (inner, D_MODEL),
        "relative.weight": (inner, D_MODEL),
        "output.weight": (D_MODEL, inner),
        "content_bias": (HEADS, KEY_SIZE),
        "position_bias": (HEADS, KEY_SIZE),
    }


def test_attention_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(8)
    module = make_attention(8)
    names = [name for name, _ in module.named_parameters()]
    values = [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]
    query_input = torch.randn(2, 2, D_MODEL, generator=generator, dtype=torch.float64, requires_grad=True)
    memory_and_input = torch.randn(2, 4, D_MODEL, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = random_mask(2, 2, 2, generator)

    def run(query_input, memory_and_input, *values):
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(module, parameters, (query_input, memory_and_input, mask))

    assert torch.autograd.gradcheck(run, (query_input, memory_and_input, *values))
