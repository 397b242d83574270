"""Categorical and Gaussian against torch.distributions, integrals, Monte-Carlo and full-matrix formulas."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from networks.distributions import Categorical, Choice, Choices, Gaussian, MultiCategorical, Reals
from networks.heads import FORBIDDEN, PolicyHead
from support import oracles
from support.oracles import array

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


# --- a product of categoricals --------------------------------------------------------------------

SIZES = (2, 3, 4)


def product(seed: int) -> MultiCategorical:
    return MultiCategorical(2.0 * normal(seed, *SHAPE, sum(SIZES)), SIZES)


def table(p: MultiCategorical) -> Tensor:
    """Probabilities [4, 3, 2, 3, 4] of every joint action."""
    a, b, c = (logits.softmax(-1) for logits in p.logits.split(SIZES, -1))
    return torch.einsum("xyi,xyj,xyk->xyijk", a, b, c)


def test_a_product_against_the_table_of_its_joint_actions() -> None:
    p, q = product(0), product(1)
    joint, other = table(p), table(q)
    torch.testing.assert_close(p.entropy(), -(joint * joint.log()).sum((-3, -2, -1)))
    torch.testing.assert_close(p.kl(q), (joint * (joint / other).log()).sum((-3, -2, -1)))
    action = torch.tensor([1, 2, 0]).expand(*SHAPE, 3)
    torch.testing.assert_close(p.log_prob(action), joint[..., 1, 2, 0].log())
    mode = p.mode()
    torch.testing.assert_close(p.log_prob(mode).exp(), joint.amax((-3, -2, -1)))
    torch.testing.assert_close(p.like(p.parameters()).kl(q), p.kl(q))


def test_samples_of_a_product_are_as_frequent_as_its_table_says() -> None:
    p = MultiCategorical(normal(3, sum(SIZES)).expand(200_000, -1).float(), SIZES)
    action = p.sample(torch.Generator().manual_seed(0))
    counts = torch.zeros(SIZES).index_put_(tuple(action.unbind(-1)), torch.ones(200_000), accumulate=True)
    a, b, c = (logits.softmax(-1) for logits in p.logits[0].split(SIZES))
    torch.testing.assert_close(counts / 200_000, torch.einsum("i,j,k->ijk", a, b, c), atol=5e-3, rtol=0)


def test_actions_as_the_network_sees_them() -> None:
    assert Choice(3).embed(torch.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert Choices((2, 3)).embed(torch.tensor([[1, 2]])).tolist() == [[0, 1, 0, 0, 1]]
    assert Reals(2).embed(torch.tensor([[0.5, -1.0]])).tolist() == [[0.5, -1.0]]
    assert (Choices((2, 3)).parameters, Reals(2).parameters) == (5, 4)


@pytest.mark.parametrize("space", [Choice(5), Choices((2, 3))], ids=["one", "several"])
def test_a_forbidden_action_has_probability_zero_and_no_gradient(space: Choice | Choices) -> None:
    torch.manual_seed(0)
    head, x = PolicyHead(8, 16, space), torch.randn(50, 8)
    allowed = torch.rand(50, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    allowed[:, [0, 2]] = True  # one of each choice
    policy, old = head(x, allowed), head(x + 1, allowed)
    sampled = torch.stack([policy.sample() for _ in range(200)])
    embedded = space.embed(sampled)
    assert not embedded[:, ~allowed].any() and embedded[:, allowed].any()
    assert policy.logits[~allowed].eq(FORBIDDEN).all()

    entropy, kl, log_prob = policy.entropy(), old.kl(policy), policy.log_prob(sampled[0])
    for value in (entropy, kl, log_prob):
        assert torch.isfinite(value).all()
    (entropy.sum() + kl.sum() + log_prob.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
    if isinstance(space, Choice):
        kept = policy.logits.masked_fill(~allowed, -torch.inf).softmax(-1)
        plain = torch.distributions.Categorical(probs=kept)
        torch.testing.assert_close(entropy, plain.entropy(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(log_prob, plain.log_prob(sampled[0]), atol=1e-6, rtol=1e-5)
