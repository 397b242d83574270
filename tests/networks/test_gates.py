"""Each gate against its equation, the order of its arguments, and what it does before any training."""

import math

import numpy as np
import pytest
import torch

from networks.gates import make_gate
from support.oracles import array, gate_function, sigmoid

NAMES = ["gru", "input", "output", "highway", "sigtanh"]
BIASED = ["gru", "output", "highway", "sigtanh"]
SIZE = 7


def random_gate(name: str, seed: int = 0):
    """Every parameter random, each entry of the bias its own."""
    gate = make_gate(name, SIZE, 2.0).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return gate


def streams(seed: int = 0, shape: tuple[int, ...] = (5, 3)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + seed)
    x, y = torch.randn(2, *shape, SIZE, generator=generator, dtype=torch.float64)
    return x, y


def expected(name: str, gate, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    equation = gate_function(name, gate)
    pairs = zip(array(x).reshape(-1, SIZE), array(y).reshape(-1, SIZE), strict=True)
    return np.stack([equation(a, b) for a, b in pairs]).reshape(x.shape)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gate_matches_its_equation(name: str, seed: int) -> None:
    gate = random_gate(name, seed)
    x, y = streams(seed)
    np.testing.assert_allclose(array(gate(x, y)), expected(name, gate, x, y), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_skip_stream_comes_first(name: str) -> None:
    gate = random_gate(name)
    x, y = streams()
    assert np.abs(array(gate(y, x)) - expected(name, gate, x, y)).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_their_start(name: str) -> None:
    gate = make_gate(name, SIZE, 1.5)
    weights = {key: tuple(value.shape) for key, value in gate.named_parameters() if key != "bias"}
    assert weights == {
        "gru": {"from_y.weight": (3 * SIZE, SIZE), "from_x.weight": (2 * SIZE, SIZE), "candidate.weight": (SIZE, SIZE)},
        "sigtanh": {"gate.weight": (SIZE, SIZE), "candidate.weight": (SIZE, SIZE)},
    }.get(name, {"weight.weight": (SIZE, SIZE)})
    assert hasattr(gate, "bias") == (name in BIASED)
    if name in BIASED:
        torch.testing.assert_close(gate.bias, torch.full((SIZE,), 1.5))
        assert isinstance(gate.bias, torch.nn.Parameter)


@pytest.mark.parametrize("name", BIASED)
def test_a_large_bias_closes_the_gate(name: str) -> None:
    """The bias's sign: all four gates pass x alone when it grows."""
    gate = make_gate(name, SIZE, 50.0).double()
    x, y = streams()
    torch.testing.assert_close(gate(x, y), x)


@pytest.mark.parametrize("name", BIASED)
def test_openness_is_the_share_of_the_sub_block_in_the_output(name: str) -> None:
    """Recovered from the output: (g - x) / what the sub-block would bring in if the gate were open."""
    gate = random_gate(name)
    x, y = streams()
    brought = array({"output": y, "highway": y - x}.get(name, y))
    if name == "sigtanh":
        brought = np.tanh(array(y) @ array(gate.candidate.weight).T)
    elif name == "gru":
        r = sigmoid(array(y) @ array(gate.from_y.weight)[:SIZE].T + array(x) @ array(gate.from_x.weight)[:SIZE].T)
        brought = np.tanh(
            array(y) @ array(gate.from_y.weight)[2 * SIZE :].T + (r * array(x)) @ array(gate.candidate.weight).T
        ) - array(x)
    np.testing.assert_allclose(array(gate.openness(x, y)) * brought, array(gate(x, y) - x), atol=1e-9)


def test_input_gate_lets_the_sub_block_through_unchanged() -> None:
    gate = random_gate("input")
    x, y = streams()
    torch.testing.assert_close(gate(x, y) - gate(x, torch.zeros_like(y)), y)


@pytest.mark.parametrize("bias,passed", [(2.0, 0.8807970779778823), (0.0, 0.5), (1.0, 0.7310585786300049)])
def test_gru_gate_passes_sigmoid_of_its_bias(bias: float, passed: float) -> None:
    """With no opinion of its own (zero weights) the gate passes sigmoid(b_g) of x: 88% at b_g = 2."""
    gate = make_gate("gru", SIZE, bias).double()
    with torch.no_grad():
        for linear in (gate.from_x, gate.from_y, gate.candidate):
            linear.weight.zero_()
    x, y = streams()
    torch.testing.assert_close(gate(x, y), passed * x)


@pytest.mark.parametrize("scale", [0.0, 1.0])
@torch.no_grad()
def test_gru_gate_is_near_identity_when_made(scale: float) -> None:
    """As initialised, b_g = 2: the skip stream comes through, the more so the larger b_g."""
    torch.manual_seed(0)
    size = 64
    x = torch.randn(256, size)
    y = scale * torch.randn(256, size)
    gates = {}
    for bias in (0.0, 2.0, 4.0):
        gate = make_gate("gru", size, bias)
        z = torch.sigmoid(gate.from_y(y)[:, size : 2 * size] + gate.from_x(x)[:, size:] - bias)
        assert (1 - z).mean() == pytest.approx(1 / (1 + math.exp(-bias)), abs=0.03)
        gates[bias] = torch.nn.functional.cosine_similarity(gate(x, y), x, dim=-1).mean()
    assert gates[0.0] < gates[2.0] < gates[4.0]
    assert gates[2.0] > 0.97 and gates[4.0] > 0.999


@pytest.mark.parametrize("name", NAMES)
def test_gate_gradients_by_finite_differences(name: str) -> None:
    gate = random_gate(name)
    names = [key for key, _ in gate.named_parameters()]
    values = [value.detach().clone().requires_grad_() for value in gate.parameters()]
    x, y = (stream.requires_grad_() for stream in streams(shape=(2,)))

    def run(x, y, *values):
        return torch.func.functional_call(gate, dict(zip(names, values, strict=True)), (x, y))

    assert torch.autograd.gradcheck(run, (x, y, *values))


def test_gates_start_at_the_papers_bias():
    """GTrXL, table of gates: 2 for GRU, 1 for the others that have one."""
    starts = {name: make_gate(name, SIZE).bias.unique().tolist() for name in ("gru", "output", "highway", "sigtanh")}
    assert starts == {"gru": [2.0], "output": [1.0], "highway": [1.0], "sigtanh": [1.0]}
