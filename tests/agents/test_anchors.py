"""The distance of the target to pi_ref, whose ratios to pi_t add up to anything on a sample, against exact sums.

Sequences of five letters of an alphabet of three, under two policies that choose a letter by the one before it: 243
sequences, so expectations are sums over all of them, in float64. The target's equations are solved by scipy. Under
top-k the target is on the best sequences alone, and its distance to pi_ref is that to all of pi_ref.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from agents.gempi.anchors import bases_of
from agents.gempi.chi_square import FARTHEST, ChiSquare
from agents.gempi.e_step import EStep, e_step
from agents.gempi.filters import All, Filter, TopK
from agents.gempi.kl import KL
from agents.gempi.renyi import Renyi
from agents.gempi.target import Divergence
from agents.gempi.temperature import Dual, Fixed, Solved, Temperature

LETTERS, LENGTH, DRAWN = 3, 5, 100_000
SEQUENCES = np.array(list(itertools.product(range(LETTERS), repeat=LENGTH)))
DIVERGENCES: dict[str, Divergence] = {"kl": KL(), "chi-square": ChiSquare(), "half": Renyi(0.5), "double": Renyi(2.0)}
BOTH = ("reference", "behaviour")


def policy(seed: int, spread: float) -> np.ndarray:
    """Return the probability of each of SEQUENCES."""
    logits = spread * np.random.default_rng(seed).normal(size=(LETTERS + 1, LETTERS))
    rows = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    before = np.concatenate([np.full((len(SEQUENCES), 1), LETTERS), SEQUENCES[:, :-1]], 1)
    return rows[before, SEQUENCES].prod(1)


PI_T, PI_REF = policy(0, 0.5), policy(1, 0.6)
ADVANTAGES = np.random.default_rng(2).normal(size=len(SEQUENCES))


def drawn(count: int) -> np.ndarray:
    """Return a sample of pi_t in which each sequence is as frequent as pi_t has it, to one occurrence, so that what a
    test measures is the estimate, and not the noise of a sample."""
    return np.searchsorted(PI_T.cumsum() / PI_T.sum(), (np.arange(count) + 0.5) / count)


INDEX = drawn(DRAWN)


RHO = 0.5
ORDER = np.argsort(-ADVANTAGES)
BEST = np.isin(np.arange(len(SEQUENCES)), ORDER[: np.searchsorted(PI_T[ORDER].cumsum(), RHO) + 1])
"""Sequences whose samples top-k keeps: the best, to the one at which the sum of pi_t exceeds RHO, all of them."""
FILTERS: dict[str, tuple[Filter, np.ndarray]] = {"all": (All(), PI_T > 0), "top-k": (TopK(RHO), BEST)}
every_filter = pytest.mark.parametrize("filter_, kept", FILTERS.values(), ids=FILTERS)


def sampled(
    divergence: Divergence,
    temperature: Temperature,
    anchors=("reference",),
    index=INDEX,
    filter_: Filter = FILTERS["all"][0],
) -> EStep:
    """Return the E-step over sequences that pi_t drew."""
    by_name = {"reference": np.log(PI_REF / PI_T), "behaviour": 0 * PI_T}
    ratios = torch.tensor(np.stack([by_name[name][index] for name in anchors]))
    mask = torch.ones(len(index), dtype=torch.bool)
    return e_step(torch.tensor(ADVANTAGES[index]), ratios, mask, divergence, temperature.double(), filter_, anchors)


def kl(q: np.ndarray, p: np.ndarray) -> float:
    return float(np.sum(np.where(q > 0, q * np.log(np.maximum(q, 1e-300) / p), 0)))


def mixture(alpha: float, beta: float, kept: np.ndarray) -> np.ndarray:
    """Return q* of eq. 12, on the sequences `kept`, for the coefficients of pi_ref and pi_t."""
    total = alpha + beta
    mass = kept * PI_REF ** (alpha / total) * PI_T ** (beta / total) * np.exp(ADVANTAGES / total)
    return mass / mass.sum()


def tilted(name: str, coefficient: float, kept: np.ndarray) -> tuple[np.ndarray, float]:
    """Return q* on the sequences `kept`, and its divergence from pi_ref, the one anchor, of an exact sum."""
    if name == "kl":
        q = mixture(coefficient, 0, kept)
        return q, kl(q, PI_REF)
    anchor, best, worst = kept * PI_REF, ADVANTAGES[kept].max(), ADVANTAGES[kept].min()
    if name == "chi-square":

        def linear(mu: float) -> np.ndarray:
            return anchor * np.maximum(ADVANTAGES - mu, 0) / (2 * coefficient)

        q = linear(brentq(lambda mu: linear(mu).sum() - 1, -1e3, best))
        return q, float(np.sum(q**2 / PI_REF) - 1)
    order = {"half": 0.5, "double": 2.0}[name]
    sign, beyond = (1, worst - 1e-9) if order > 1 else (-1, best + 1e-9)

    def power(mu: float) -> np.ndarray:
        mass = anchor * np.where(kept, sign * (ADVANTAGES - mu), 1) ** (1 / (order - 1))
        return mass / mass.sum()

    aim = coefficient * order / abs(order - 1)
    mu = brentq(lambda mu: power(mu) @ (sign * (ADVANTAGES - mu)) - aim, beyond - sign * 1e3, beyond)
    q = power(mu)
    return q, math.log(np.sum(PI_REF * (q / PI_REF) ** order)) / (order - 1)


@every_filter
@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_distance_to_pi_ref_is_that_of_an_exact_sum(name, filter_, kept):
    coefficient = 2.5
    q, expected = tilted(name, coefficient, kept)
    advantages, mask = torch.tensor(ADVANTAGES[INDEX]), torch.ones(DRAWN, dtype=torch.bool)
    support = filter_.support(advantages, mask)
    np.testing.assert_array_equal(support.numpy(), kept[INDEX])
    bases = bases_of(("reference",), torch.tensor(np.log(PI_REF / PI_T)[INDEX])[None], mask, support)
    found = DIVERGENCES[name].target(advantages, bases, torch.tensor([coefficient], dtype=torch.float64), support)
    assert found.divergences.item() == pytest.approx(expected, rel=0.01)
    step = sampled(DIVERGENCES[name], Fixed(coefficient), filter_=filter_)
    assert step.diagnostics["e_step/kl_reference"].item() == pytest.approx(kl(q, PI_REF), rel=0.01)


@every_filter
@pytest.mark.parametrize("alpha, beta", [(0.1, 0.9), (0.5, 0.5), (0.02, 0.3)])
def test_the_distances_of_dar_are_those_of_exact_sums(alpha, beta, filter_, kept):
    """That to pi_t is to pi_t on the kept sequences, as V-MPO's budget has it."""
    q = mixture(alpha, beta, kept)
    found = sampled(KL(), Fixed(alpha, beta), BOTH, filter_=filter_).diagnostics
    share = PI_T[kept].sum()
    assert found["e_step/kl_reference"].item() == pytest.approx(kl(q, PI_REF), rel=0.01)
    assert found["e_step/kl_behaviour"].item() == pytest.approx(kl(q, PI_T / share), rel=0.01)
    total = alpha + beta
    mass = PI_REF ** (alpha / total) * (PI_T / share) ** (beta / total) * np.exp(ADVANTAGES / total)
    assert found["e_step/log_z"].item() == pytest.approx(math.log(mass[kept].sum()), abs=0.005)


@every_filter
def test_at_dar_spends_its_budgets_by_exact_sums(filter_, kept):
    """Of q* at the coefficients that descent on the dual of a sample comes to."""
    budgets = (0.3 if kept.all() else 0.9, 0.25)
    index = drawn(10_000)
    temperature = Dual((0.5, budgets[0]), (0.5, budgets[1])).double()
    optimiser = torch.optim.Adam(temperature.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.99)
    for _ in range(400):
        optimiser.zero_grad()
        sampled(KL(), temperature, BOTH, index, filter_).dual_loss.backward()
        optimiser.step()
        schedule.step()
    q = mixture(*temperature().tolist(), kept)
    assert (kl(q, PI_REF), kl(q, PI_T / PI_T[kept].sum())) == pytest.approx(budgets, rel=0.01)


@every_filter
@pytest.mark.parametrize("name", ["kl", "chi-square", "half"])
def test_a_solved_coefficient_of_pi_ref_meets_its_budget_by_an_exact_sum(name, filter_, kept):
    share = PI_REF[kept].sum()
    least = 1 / share - 1 if name == "chi-square" else -math.log(share)
    budget = least + 0.05
    step = sampled(DIVERGENCES[name], Solved(budget), index=drawn(50_000), filter_=filter_)
    _, spent = tilted(name, step.diagnostics["e_step/eta"].item(), kept)
    assert spent == pytest.approx(budget, rel=0.01)


def test_ratios_that_are_all_small_are_a_distance():
    """Eq. 14's estimate, sum_i w_i (log(N w_i) - log r_i), of ratios of about e^-5, in a loop."""
    rng = np.random.default_rng(4)
    advantages, ratios = rng.normal(size=64), -5 + 0.3 * rng.normal(size=64)
    mask = torch.ones(64, dtype=torch.bool)
    arguments = torch.tensor(advantages), torch.tensor(np.stack([ratios, 0 * ratios])), mask
    for filter_ in (All(), TopK(0.25)):
        step = e_step(*arguments, KL(), Fixed(0.2, 0.8).double(), filter_, BOTH)
        weights = step.weights.numpy()
        expected = sum(w * (math.log(64 * w) - r) for w, r in zip(weights, ratios, strict=True) if w)
        assert step.diagnostics["e_step/kl_reference"].item() == pytest.approx(expected, abs=1e-6)
        assert expected > 4.8


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("offset", [-2000.0, -200.0, 40.0])
def test_ratios_of_any_size_stay_finite(name, offset):
    """Long completions have ratios that float64 does not: their weights are finite and add up, and so do gradients."""
    ratios = torch.tensor(offset + np.random.default_rng(5).normal(size=32), dtype=torch.float32)
    temperature = Dual((0.5, 0.1))
    mask = torch.ones(32, dtype=torch.bool)
    step = e_step(torch.randn(32), ratios[None], mask, DIVERGENCES[name], temperature, All(), ("reference",))
    assert step.weights.isfinite().all() and step.weights.sum().item() == pytest.approx(1, abs=1e-4)
    step.dual_loss.backward()
    (raw,) = temperature.parameters()
    assert raw.grad.abs() <= FARTHEST


def test_what_is_logged_has_no_gradient():
    """Metrics are summed until they are written: one with a gradient would keep every batch's graph."""
    ratios, mask = torch.stack([torch.randn(8), torch.zeros(8)]), torch.ones(8, dtype=torch.bool)
    step = e_step(torch.randn(8), ratios, mask, KL(), Dual((0.5, 0.1), (0.5, 0.1)), All(), ("reference", "behaviour"))
    assert {"e_step/lambda_reference", "e_step/lambda_behaviour"} <= step.diagnostics.keys()
    assert step.dual_loss.requires_grad and not any(value.requires_grad for value in step.diagnostics.values())
