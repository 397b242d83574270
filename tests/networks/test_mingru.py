"""The minGRU: its scan beside a plain loop, its layers beside the paper's equations, and how it starts."""

import numpy as np
import pytest
import torch

from networks.cores import MinGRUCore
from networks.mingru import MinGRULayer, scan
from support import oracles
from support.oracles import array


def coefficients(steps: int, resets: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return keep [T, 3, 4], a share `resets` of it 0, gain [T, 3, 4] and a start [3, 4], all in float64."""
    generator = torch.Generator().manual_seed(steps)
    keep, gain, start, reset = (torch.randn(steps, 3, 4, generator=generator, dtype=torch.float64) for _ in range(4))
    return keep.sigmoid() * (reset.sigmoid() > resets), gain, start[0]


@pytest.mark.parametrize("resets", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 9, 33, 64])
def test_scan_is_a_loop(steps: int, resets: float) -> None:
    keep, gain, start = coefficients(steps, resets)
    h, expected = start, []
    for t in range(steps):
        h = keep[t] * h + gain[t]
        expected.append(h)
    torch.testing.assert_close(scan(keep, gain, start), torch.stack(expected), atol=1e-13, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_gradients_of_the_scan_by_finite_differences(steps: int) -> None:
    inputs = [tensor.requires_grad_() for tensor in coefficients(steps, 0.3)]
    assert torch.autograd.gradcheck(scan, inputs)
    assert torch.autograd.gradgradcheck(scan, inputs)


def test_scan_in_float32_forgets_what_is_large_and_keeps_what_is_small() -> None:
    """Products of `keep` that underflow, and 1e30 before a reset: in log space, or divided, these would be NaN."""
    keep, gain, start = torch.full((64, 1, 1), 1e-12), torch.ones(64, 1, 1), torch.full((1, 1), 1e30)
    gain[:31], keep[31] = 1e30, 0
    for tensor in (keep, gain, start):
        tensor.requires_grad_()
    h = scan(keep, gain, start)
    torch.testing.assert_close(h[31:], torch.ones(33, 1, 1))
    h[31:].sum().backward()
    assert not gain.grad[:31].any() and not start.grad.any() and not keep.grad[:31].any()
    torch.testing.assert_close(gain.grad[31:], torch.ones(33, 1, 1))


@pytest.mark.parametrize("pattern", ["never", "always", "random"])
def test_mingru_matches_its_equations(pattern: str) -> None:
    torch.manual_seed(0)
    core = MinGRUCore(6, layers=2, mlp_size=5).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    x, start = torch.randn(9, 3, 6, dtype=torch.float64), torch.randn(3, 2, 6, dtype=torch.float64)
    first = {"never": torch.zeros(9, 3), "always": torch.ones(9, 3), "random": torch.rand(9, 3) < 0.3}[pattern].bool()
    y, (end,) = core(x, first, (start,))
    layers = [{name: array(value) for name, value in layer.state_dict().items()} for layer in core.layers]
    expected, expected_end = oracles.mingru(layers, array(x), first.numpy(), array(start))
    np.testing.assert_allclose(array(y), expected, atol=1e-12)
    np.testing.assert_allclose(array(end), expected_end, atol=1e-12)


@pytest.mark.parametrize("span", [3, 64])
def test_mingru_starts_with_time_scales_up_to_its_span(span: int) -> None:
    """A gate z keeps what a unit holds for 1 / z steps."""
    torch.manual_seed(0)
    steps = 1 / MinGRULayer(4000, 1, 0.0, span).gate.bias.sigmoid()
    assert 2 <= steps.min() < 2.1 and 0.97 * span < steps.max() <= span
    torch.testing.assert_close(steps.mean(), torch.tensor((span + 2) / 2), rtol=0.05, atol=0)
