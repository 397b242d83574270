"""The E-step against brute force, its dual against closed forms, finite differences and a line search."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from agents.gempi.e_step import EStep, e_step, efficiency
from agents.gempi.filters import All, TopK
from agents.gempi.kl import KL
from agents.gempi.temperature import Dual, Fixed, PositiveScalar, Solved
from support.agent_oracles import (
    best_eta,
    central_difference,
    kl_to_uniform,
    psi,
    temperature_gradient,
    temperature_loss,
    top_k,
)


def run(advantages, mask, temperature, filter_, log_base=None) -> EStep:
    advantages = torch.as_tensor(advantages)
    ratios = torch.zeros_like(advantages) if log_base is None else torch.as_tensor(log_base)
    return e_step(advantages, ratios.unsqueeze(0), torch.as_tensor(mask), KL(), temperature, filter_)


def samples(seed: int, n: int = 24, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.random(n) < 0.7
    mask[0] = True
    return spread * rng.normal(size=n), mask


def eta_gradient(temperature: Dual, loss: torch.Tensor) -> float:
    """d loss / d eta, whatever eta's parametrisation: dL/draw divided by d eta/draw."""
    (raw,) = temperature.parameters()
    return (torch.autograd.grad(loss, raw, retain_graph=True)[0] / torch.autograd.grad(temperature(), raw)[0]).item()


@pytest.mark.parametrize("rho", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("eta", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("seed", range(4))
def test_weights_are_the_softmax_on_the_best(seed, eta, rho):
    advantages, mask = samples(seed)
    step = run(advantages, mask, Fixed(eta).double(), TopK(rho))
    support = top_k(advantages, mask, rho)
    eta = Fixed(eta)().item()
    np.testing.assert_allclose(step.weights.numpy(), psi(advantages, support, eta), atol=1e-7)
    assert step.weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert np.all(step.weights.numpy()[~support] == 0)
    assert not step.weights.requires_grad


def test_the_support_has_exactly_k_members():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 7, 10, 32, 100, 640):
        for rho in ("0", "0.1", "0.29", "0.3", "0.5", "0.57", "0.7", "0.99", "1"):
            advantages, mask = torch.tensor(rng.normal(size=2 * n)), torch.tensor(rng.permutation(2 * n) < n)
            support = TopK(float(rho)).support(advantages, mask)
            assert support.sum() == max(1, math.floor(Fraction(rho) * n)), (n, rho)
            assert not (support & ~mask).any()
            outside = advantages[mask & ~support]
            assert len(outside) == 0 or advantages[support].min() > outside.max()


def test_the_support_of_a_large_batch_is_exact():
    """The product is one of float64: in float32 0.65 * 6,200 is 4,029.9998."""
    advantages = torch.arange(6_200.0)
    assert TopK(0.65).support(advantages, advantages >= 0).sum() == 4_030


def test_masked_samples_are_never_selected():
    advantages, mask = samples(1)
    advantages[~mask] = 1e6
    for filter_ in (All(), TopK(0.5), TopK(1.0)):
        step = run(advantages, mask, Dual((1.0, 0.1)).double(), filter_)
        assert np.all(step.weights.numpy()[~mask] == 0) and step.weights.sum().item() == pytest.approx(1)
    plain = run(advantages[mask], mask[mask], Dual((1.0, 0.1)).double(), TopK(0.5))
    masked = run(advantages, mask, Dual((1.0, 0.1)).double(), TopK(0.5))
    torch.testing.assert_close(masked.weights[torch.tensor(mask)], plain.weights)
    torch.testing.assert_close(masked.dual_loss, plain.dual_loss)


def test_k_equal_n_is_everything():
    advantages, mask = samples(2)
    for filter_ in (All(), TopK(1.0)):
        assert torch.equal(filter_.support(torch.tensor(advantages), torch.tensor(mask)), torch.tensor(mask))
    one = run(advantages, mask, Dual((0.7, 0.1)).double(), All())
    other = run(advantages, mask, Dual((0.7, 0.1)).double(), TopK(1.0))
    assert torch.equal(one.weights, other.weights) and torch.equal(one.dual_loss, other.dual_loss)


def test_order_does_not_matter_even_with_ties():
    rng = np.random.default_rng(3)
    advantages, mask = rng.integers(0, 4, size=30).astype(float), rng.random(30) < 0.8
    order = rng.permutation(30)
    step = run(advantages, mask, Dual((1.0, 0.1)).double(), TopK(0.5))
    shuffled = run(advantages[order], mask[order], Dual((1.0, 0.1)).double(), TopK(0.5))
    torch.testing.assert_close(shuffled.weights, step.weights[torch.tensor(order)])
    torch.testing.assert_close(shuffled.dual_loss, step.dual_loss)


def test_a_shift_of_the_advantages_moves_the_dual_alone():
    advantages, mask = samples(4)
    temperature = Dual((0.6, 0.1)).double()
    step, shifted = (run(advantages + c, mask, temperature, TopK(0.5)) for c in (0.0, 17.0))
    torch.testing.assert_close(shifted.weights, step.weights, atol=1e-12, rtol=0)
    torch.testing.assert_close(shifted.dual_loss, step.dual_loss + 17, atol=1e-10, rtol=0)


@pytest.mark.parametrize("eta", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("rho", [0.5, 1.0])
def test_dual_loss_and_its_gradient(eta, rho):
    advantages, mask = samples(5)
    support = top_k(advantages, mask, rho)
    temperature = Dual((eta, 0.1)).double()
    eta = temperature().item()
    step = run(advantages, mask, temperature, TopK(rho))
    assert step.dual_loss.item() == pytest.approx(temperature_loss(advantages, support, eta, 0.1), abs=1e-6)
    gradient = eta_gradient(temperature, step.dual_loss)
    assert gradient == pytest.approx(temperature_gradient(advantages, support, eta, 0.1), abs=1e-6)
    assert gradient == pytest.approx(0.1 - kl_to_uniform(psi(advantages, support, eta), support), abs=1e-6)
    slope = central_difference(lambda e: temperature_loss(advantages, support, e.item(), 0.1), np.array(eta))
    assert gradient == pytest.approx(slope.item(), abs=1e-6)
    assert step.diagnostics["e_step/kl"].item() == pytest.approx(0.1 - gradient, abs=1e-6)


def test_advantages_receive_no_gradient():
    advantages = torch.randn(10, requires_grad=True)
    step = run(advantages, torch.ones(10, dtype=torch.bool), Dual((1.0, 0.1)), TopK(0.5))
    step.dual_loss.backward()
    assert advantages.grad is None and not step.weights.requires_grad


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_at_the_dual_minimum_the_kl_is_the_budget(epsilon, spread):
    advantages, mask = samples(6, 60, spread)
    support = top_k(advantages, mask, 0.5)
    temperature = Dual((spread, epsilon)).double()
    optimiser = torch.optim.Adam(temperature.parameters(), lr=0.1 * max(1.0, spread))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.99)
    for _ in range(700):
        optimiser.zero_grad()
        step = run(advantages, mask, temperature, TopK(0.5))
        step.dual_loss.backward()
        optimiser.step()
        schedule.step()
    assert temperature().item() == pytest.approx(best_eta(advantages, support, epsilon), rel=1e-3)
    assert kl_to_uniform(step.weights.numpy(), support) == pytest.approx(epsilon, rel=1e-3)
    assert step.diagnostics["e_step/kl"].item() == pytest.approx(epsilon, rel=1e-3)


def test_a_boundless_budget_drives_eta_to_zero():
    """KL(psi || uniform) never exceeds log k: with epsilon above it dL/d eta > 0 everywhere; only the best stays."""
    advantages, mask = samples(7)
    temperature = Dual((1.0, 1e3)).double()
    optimiser = torch.optim.SGD(temperature.parameters(), lr=1e-2)
    before = temperature().item()
    for _ in range(20):
        step = run(advantages, mask, temperature, TopK(0.5))
        assert eta_gradient(temperature, step.dual_loss) > 0
        optimiser.zero_grad()
        step.dual_loss.backward()
        optimiser.step()
    assert 0 < temperature().item() < 1e-2 * before
    best = np.where(mask, advantages, -np.inf).argmax()
    assert run(advantages, mask, temperature, TopK(0.5)).weights[best].item() == pytest.approx(1, abs=1e-6)


def test_a_tight_budget_raises_eta():
    advantages, mask = samples(8)
    temperature = Dual((0.1, 1e-6)).double()
    assert eta_gradient(temperature, run(advantages, mask, temperature, TopK(0.5)).dual_loss) < 0


def test_a_hot_fixed_temperature_is_uniform_and_learns_nothing():
    advantages, mask = samples(9)
    step = run(advantages, mask, Fixed(1e8).double(), TopK(0.5))
    support = top_k(advantages, mask, 0.5)
    np.testing.assert_allclose(step.weights.numpy(), support / support.sum(), atol=1e-8)
    assert step.dual_loss.item() == 0 and not list(Fixed(1.0).parameters())


def test_base_log_weights_tilt_the_target():
    advantages, mask = samples(10)
    base = np.random.default_rng(10).normal(size=len(advantages))
    step = run(advantages, mask, Fixed(2.0).double(), All(), base)
    raw = np.where(mask, np.exp(base + advantages / 2), 0)
    np.testing.assert_allclose(step.weights.numpy(), raw / raw.sum(), atol=1e-12)


@pytest.mark.parametrize("spread", [1e-3, 1.0], ids=["level", "spread out"])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_float32_where_the_advantage_is_ten_thousand_temperatures(sign, spread):
    """float32 carries |A| / eta = 1e4 to 1e-3 only: the maximum has to go before the division, or psi inherits that."""
    rng = np.random.default_rng(11)
    advantages = (sign * (1 + spread * rng.random(40))).astype(np.float32)
    mask = np.ones(40, bool)
    temperature = Dual((1e-4, 0.1))
    step = run(advantages, mask, temperature, TopK(0.5))
    exact, eta = advantages.astype(np.float64), temperature().double().item()
    support = top_k(exact, mask, 0.5)
    np.testing.assert_allclose(step.weights.numpy(), psi(exact, support, eta), rtol=1e-4, atol=1e-7)
    assert step.weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert step.dual_loss.item() == pytest.approx(temperature_loss(exact, support, eta, 0.1), rel=1e-5)
    expected = temperature_gradient(exact, support, eta, 0.1)
    assert eta_gradient(temperature, step.dual_loss) == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_bfloat16_where_the_advantage_is_ten_thousand_temperatures(sign):
    """Advantages as bfloat16 has them, the arithmetic in float32: at 1e4 a bfloat16 is 64 away from the next."""
    rng = np.random.default_rng(12)
    advantages = torch.tensor(sign * (1 + 0.1 * rng.random(40))).to(torch.bfloat16)
    mask = torch.ones(40, dtype=torch.bool)
    temperature = Dual((1e-4, 0.1))
    step = run(advantages, mask, temperature, TopK(0.5))
    exact, eta = advantages.double().numpy(), temperature().double().item()
    support = TopK(0.5).support(advantages, mask).numpy()  # ties abound in bfloat16
    np.testing.assert_allclose(step.weights.double().numpy(), psi(exact, support, eta), atol=1e-2)
    assert step.weights.sum().item() == pytest.approx(1, abs=1e-2)
    assert step.dual_loss.item() == pytest.approx(temperature_loss(exact, support, eta, 0.1), rel=1e-2)
    assert math.isfinite(eta_gradient(temperature, step.dual_loss))


@pytest.mark.parametrize("eta", [1e-4, 1.0])
def test_one_sample_takes_all(eta):
    step = run(torch.tensor([3.0, 1.0]), torch.tensor([False, True]), Dual((eta, 0.1)), TopK(0.5))
    assert step.weights.tolist() == [0.0, 1.0]
    assert step.dual_loss.item() == pytest.approx(1.0 + 0.1 * eta, abs=1e-5)  # eta eps + A


def test_no_valid_sample_leaves_no_nan():
    temperature = Dual((1.0, 0.1))
    step = run(torch.randn(4), torch.zeros(4, dtype=torch.bool), temperature, TopK(0.5))
    assert torch.equal(step.weights, torch.zeros(4))
    step.dual_loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in temperature.parameters())
    assert step.dual_loss.isfinite()


@pytest.mark.parametrize("initial", [1e-4, 0.1, 1.0, 5.0, 100.0])
def test_a_positive_scalar_starts_where_it_is_told_and_stays_positive(initial):
    positive = PositiveScalar(initial)
    assert positive().item() == pytest.approx(initial, rel=1e-3)
    with torch.no_grad():
        for p in positive.parameters():
            p.fill_(-1e4)
    assert 0 < positive().item() <= 1e-7  # the paper's floor is 1e-8


@pytest.mark.parametrize(
    ("rho", "epsilon", "expected"),
    [
        (1.0, 0.02, 0.20),
        (1.0, 0.1, 0.40),
        (1.0, 0.3, 0.57),
        (1.0, 1.0, 0.52),
        (0.5, 0.02, 0.64),
        (0.5, 0.1, 0.69),
        (0.5, 0.3, 0.65),
        (0.5, 1.0, 0.41),
        (0.25, 0.02, 0.67),
        (0.25, 0.1, 0.67),
        (0.25, 0.3, 0.58),
        (0.25, 1.0, 0.31),
    ],
)
def test_the_efficiency_of_targets_is_that_of_the_table_in_docs_methods(rho, epsilon, expected):
    share = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    normal = 2**0.5 * torch.erfinv(2 * share - 1)
    valid = torch.ones_like(normal, dtype=torch.bool)
    step = e_step(3 * normal + 7, torch.zeros(1, len(share)), valid, KL(), Solved(epsilon), TopK(rho))
    assert step.diagnostics["e_step/efficiency"].item() == pytest.approx(expected, abs=0.01)


def test_the_efficiency_of_centred_weights_that_follow_the_advantages_is_one():
    """It is a correlation with the advantages, over N weights that need not be centred; equal weights have none."""
    advantages, mask = (torch.as_tensor(x) for x in samples(0, n=1000))
    centred = torch.where(mask, advantages - advantages[mask].mean(), 0)
    assert efficiency(centred / centred.square().sum(), advantages, mask).item() == pytest.approx(1)
    assert efficiency(mask / mask.sum(), advantages, mask).item() == pytest.approx(0, abs=1e-9)
    assert efficiency(mask / mask.sum(), torch.ones(1000), mask).item() == 0
