"""Categorical and Gaussian against torch.distributions, integrals, Monte-Carlo and full-matrix formulas."""

import numpy as np
import oracles
import pytest
import scipy.integrate
import scipy.stats
import torch
from oracles import array
from torch import Tensor

from networks.distributions import Categorical, Gaussian

SHAPE = (4, 3)  # leading dimensions
ACTIONS = 5


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def categorical(seed: int) -> Categorical:
    return Categorical(2.0 * normal(seed, *SHAPE, ACTIONS) + 3.0)  # not normalised


def gaussian(seed: int, size: int = ACTIONS) -> Gaussian:
    return Gaussian(normal(seed, *SHAPE, size), torch.exp(0.5 * normal(seed + 50, *SHAPE, size)))


def torch_categorical(p: Categorical) -> torch.distributions.Distribution:
    return torch.distributions.Categorical(logits=p.logits)


def torch_gaussian(p: Gaussian) -> torch.distributions.Distribution:
    return torch.distributions.Independent(torch.distributions.Normal(p.mean, p.std), 1)


def full(p: Gaussian):
    """Means [N, A] and covariance matrices [N, A, A]."""
    means, stds = (array(part).reshape(-1, part.shape[-1]) for part in p)
    return means, [np.diag(std**2) for std in stds]


# --- Categorical ----------------------------------------------------------------------------------


def test_categorical_against_torch() -> None:
    p, q = categorical(0), categorical(1)
    action = torch.randint(ACTIONS, SHAPE)
    torch.testing.assert_close(p.log_prob(action), torch_categorical(p).log_prob(action))
    torch.testing.assert_close(p.entropy(), torch_categorical(p).entropy())
    torch.testing.assert_close(p.kl(q), torch.distributions.kl_divergence(torch_categorical(p), torch_categorical(q)))
    assert torch.equal(p.mode(), p.logits.argmax(-1))


def test_categorical_against_sums() -> None:
    p, q = categorical(2), categorical(3)
    log_p = torch.stack([p.log_prob(torch.full(SHAPE, a)) for a in range(ACTIONS)], -1)
    log_q = torch.stack([q.log_prob(torch.full(SHAPE, a)) for a in range(ACTIONS)], -1)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(SHAPE, dtype=torch.float64))
    torch.testing.assert_close(p.entropy(), -(log_p.exp() * log_p).sum(-1))
    torch.testing.assert_close(p.kl(q), (log_p.exp() * (log_p - log_q)).sum(-1))


def test_categorical_kl_has_a_direction() -> None:
    p, q = categorical(0), categorical(1)
    assert (p.kl(q) - q.kl(p)).abs().max() > 0.1
    torch.testing.assert_close(p.kl(p), torch.zeros(SHAPE, dtype=torch.float64), atol=1e-12, rtol=0)


def test_categorical_does_not_mind_a_shift_of_its_logits() -> None:
    p = categorical(4)
    shifted = Categorical(p.logits + 1e3 * normal(5, *SHAPE, 1))
    action = torch.randint(ACTIONS, SHAPE)
    torch.testing.assert_close(shifted.log_prob(action), p.log_prob(action))
    torch.testing.assert_close(shifted.entropy(), p.entropy())
    torch.testing.assert_close(shifted.kl(p), torch.zeros(SHAPE, dtype=torch.float64), atol=1e-9, rtol=0)


def test_categorical_is_stable_at_extreme_logits() -> None:
    logits = torch.tensor([[0.0, -1e4, 1e4], [1e4, 1e4, -1e4]], requires_grad=True)
    p, q = Categorical(logits), Categorical(torch.zeros(2, 3))
    torch.testing.assert_close(p.entropy(), torch.tensor([0.0, np.log(2.0)], dtype=torch.float32))
    torch.testing.assert_close(p.kl(q), torch.tensor([np.log(3.0), np.log(1.5)], dtype=torch.float32))
    (p.entropy() + p.kl(q) + p.log_prob(torch.tensor([2, 0]))).sum().backward()
    assert logits.grad.isfinite().all()


def test_categorical_sampling_frequencies() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0], [0.5, 0.5, 0.5, -3.0]])
    draws = 40_000
    p = Categorical(logits.expand(draws, 2, 4))
    actions = p.sample(torch.Generator().manual_seed(0))
    assert actions.shape == (draws, 2) and actions.dtype == torch.int64
    for column in range(2):
        counts = np.bincount(actions[:, column].numpy(), minlength=4)
        expected = draws * array(torch.softmax(logits[column].double(), -1))
        assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3
    # The two columns are drawn independently of each other.
    table = np.histogram2d(actions[:, 0].numpy(), actions[:, 1].numpy(), bins=4)[0]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


# --- Gaussian -------------------------------------------------------------------------------------


def test_gaussian_against_torch() -> None:
    p, q = gaussian(0), gaussian(1)
    action = normal(9, *SHAPE, ACTIONS)
    torch.testing.assert_close(p.log_prob(action), torch_gaussian(p).log_prob(action))
    torch.testing.assert_close(p.entropy(), torch_gaussian(p).entropy())
    torch.testing.assert_close(p.kl(q), torch.distributions.kl_divergence(torch_gaussian(p), torch_gaussian(q)))
    torch.testing.assert_close(p.mode(), p.mean)


def test_gaussian_against_scipy() -> None:
    p, action = gaussian(2), normal(10, *SHAPE, ACTIONS)
    means, covariances = full(p)
    actual = zip(array(p.log_prob(action)).ravel(), array(p.entropy()).ravel(), strict=True)
    points = array(action).reshape(-1, ACTIONS)
    for (log_prob, entropy), mean, covariance, point in zip(actual, means, covariances, points, strict=True):
        reference = scipy.stats.multivariate_normal(mean, covariance)
        assert log_prob == pytest.approx(reference.logpdf(point), rel=1e-9)
        assert entropy == pytest.approx(reference.entropy(), rel=1e-9)


def test_gaussian_against_integrals() -> None:
    """One dimension, by quadrature of the density that log_prob gives."""
    p = Gaussian(torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64))
    q = Gaussian(torch.tensor([-0.4], dtype=torch.float64), torch.tensor([1.3], dtype=torch.float64))

    def log(d: Gaussian, a: float) -> float:
        return d.log_prob(torch.tensor([a], dtype=torch.float64)).item()

    def expectation(f) -> float:
        return scipy.integrate.quad(lambda a: np.exp(log(p, a)) * f(a), -8.0, 8.0)[0]

    assert expectation(lambda a: 1.0) == pytest.approx(1.0)
    assert p.entropy().item() == pytest.approx(expectation(lambda a: -log(p, a)))
    assert p.kl(q).item() == pytest.approx(expectation(lambda a: log(p, a) - log(q, a)))


@pytest.mark.parametrize("make", [categorical, gaussian], ids=["categorical", "gaussian"])
def test_entropy_and_kl_by_monte_carlo(make) -> None:
    draws = 20_000
    p, q = make(6), make(7)
    p, q = (type(d)(*(part.expand(draws, *part.shape) for part in d)) for d in (p, q))
    action = p.sample(torch.Generator().manual_seed(1))
    for samples, exact in ((-p.log_prob(action), p.entropy()), (p.log_prob(action) - q.log_prob(action), p.kl(q))):
        error = samples.std(0) / draws**0.5
        assert ((samples.mean(0) - exact).abs() < 5.0 * error + 1e-9).all()


def test_gaussian_kl_against_full_matrices() -> None:
    p, q = gaussian(0), gaussian(1)
    (mean_p, cov_p), (mean_q, cov_q) = full(p), full(q)
    rows = range(len(mean_p))
    whole = [oracles.gaussian_kl(mean_p[i], cov_p[i], mean_q[i], cov_q[i]) for i in rows]
    of_mean = [oracles.gaussian_kl(mean_p[i], cov_p[i], mean_q[i], cov_p[i]) for i in rows]
    of_std = [oracles.gaussian_kl(mean_p[i], cov_p[i], mean_p[i], cov_q[i]) for i in rows]
    np.testing.assert_allclose(array(p.kl(q)).ravel(), whole, rtol=1e-9)
    np.testing.assert_allclose(array(p.kl_mean(q)).ravel(), of_mean, rtol=1e-9)
    np.testing.assert_allclose(array(p.kl_std(q)).ravel(), of_std, rtol=1e-9)
    # The same from V-MPO's own expressions.
    eq_26 = [oracles.decoupled_mean(mean_p[i], cov_p[i], mean_q[i]) for i in rows]
    eq_27 = [oracles.decoupled_covariance(cov_p[i], cov_q[i]) for i in rows]
    np.testing.assert_allclose(array(p.kl_mean(q)).ravel(), eq_26, rtol=1e-9)
    np.testing.assert_allclose(array(p.kl_std(q)).ravel(), eq_27, rtol=1e-9)


def test_decoupled_kl_in_closed_form() -> None:
    """Old N(0, 2), new N(1, 4) in one dimension: mean part 1/8, std part (1/4 - 1 + ln 4) / 2."""
    old = Gaussian(torch.tensor([0.0]), torch.tensor([2.0]))
    new = Gaussian(torch.tensor([1.0]), torch.tensor([4.0]))
    assert old.kl_mean(new).item() == pytest.approx(0.125)
    assert old.kl_std(new).item() == pytest.approx(0.5 * (0.25 - 1.0 + np.log(4.0)))


def test_decoupled_kl_moves_one_part_each() -> None:
    old, new = gaussian(0), gaussian(1)
    mean, std = (part.clone().requires_grad_() for part in new)
    old.kl_mean(Gaussian(mean, std)).sum().backward()
    assert mean.grad.abs().min() > 0 and std.grad is None
    mean.grad = None
    old.kl_std(Gaussian(mean, std)).sum().backward()
    assert std.grad.abs().min() > 0 and mean.grad is None
    # Together they are the whole when either half is still.
    same_std = Gaussian(new.mean, old.std)
    same_mean = Gaussian(old.mean, new.std)
    torch.testing.assert_close(old.kl_mean(new), old.kl(same_std))
    torch.testing.assert_close(old.kl_std(new), old.kl(same_mean))


def test_gaussian_sampling() -> None:
    mean = torch.tensor([0.0, -1.0, 3.0], dtype=torch.float64)
    std = torch.tensor([1.0, 0.1, 2.0], dtype=torch.float64)
    p = Gaussian(mean.expand(20_000, 3), std.expand(20_000, 3))
    action = p.sample(torch.Generator().manual_seed(0))
    assert action.shape == (20_000, 3)
    for column in range(3):
        assert scipy.stats.kstest(array(action[:, column]), "norm", (mean[column], std[column])).pvalue > 1e-3
    correlation = np.corrcoef(array(action), rowvar=False) - np.eye(3)
    assert np.abs(correlation).max() < 0.03


# --- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [categorical, gaussian], ids=["categorical", "gaussian"])
def test_parameters_round_trip(make) -> None:
    p, q = make(0), make(1)
    parameters = p.parameters()
    assert parameters.shape == (*SHAPE, 2 * ACTIONS if make is gaussian else ACTIONS)
    back = p.like(parameters)
    torch.testing.assert_close(back.parameters(), parameters)
    torch.testing.assert_close(back.kl(p), torch.zeros(SHAPE, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(back.kl(q), p.kl(q))
    action = p.mode()
    torch.testing.assert_close(back.log_prob(action), p.log_prob(action))


def test_gaussian_parameters_are_mean_then_std() -> None:
    p = gaussian(0)
    torch.testing.assert_close(p.parameters(), torch.cat([p.mean, p.std], -1))


@pytest.mark.parametrize("make", [categorical, gaussian], ids=["categorical", "gaussian"])
def test_sampling_is_reproducible_and_without_gradient(make) -> None:
    p = make(0)
    p = type(p)(*(part.requires_grad_() for part in p))
    again = [p.sample(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(again[0], again[1]) and not torch.equal(again[0], again[2])
    # An action is data: a policy gradient goes through log_prob alone.
    assert not again[0].requires_grad
    assert p.sample().shape == again[0].shape


@pytest.mark.parametrize("make", [categorical, gaussian], ids=["categorical", "gaussian"])
def test_gradients_by_finite_differences(make) -> None:
    p, q = make(0), make(1)
    action = p.sample(torch.Generator().manual_seed(0))
    parts = tuple(part[0, 0].clone().requires_grad_() for part in (*p, *q))
    half = len(parts) // 2

    def run(*parts):
        a, b = type(p)(*parts[:half]), type(p)(*parts[half:])
        decoupled = (a.kl_mean(b), a.kl_std(b)) if make is gaussian else ()
        return (a.log_prob(action[0, 0]), a.entropy(), a.kl(b), *decoupled)

    assert torch.autograd.gradcheck(run, parts)
