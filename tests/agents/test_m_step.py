"""The M-step: weighted likelihood, and the KL trust region with its multipliers, against the equations."""

import numpy as np
import pytest
import torch

from agents.gempi.m_step import sampling_error, weighted_likelihood_loss
from agents.gempi.trust_region import DualKL, GaussianDualKL, Penalty, Unconstrained
from networks.distributions import Categorical, Gaussian
from support.agent_oracles import categorical_kl, central_difference, gaussian_kl_mean, gaussian_kl_std, log_softmax

N, A = 12, 3


def masked(seed: int) -> np.ndarray:
    mask = np.random.default_rng(seed).random(N) < 0.7
    mask[:2] = True, False
    return mask


def alpha_gradient(region: DualKL, loss: torch.Tensor) -> dict[str, float]:
    """d loss / d alpha of each multiplier, whatever its parametrisation."""
    gradients = {}
    for name, alpha in region.alpha.items():
        (raw,) = alpha.parameters()
        gradient, slope = torch.autograd.grad(loss, raw, retain_graph=True)[0], torch.autograd.grad(alpha(), raw)[0]
        gradients[name] = (gradient / slope).item()
    return gradients


def logits(seed: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    old = rng.normal(size=(N, A))
    return old, old + apart * rng.normal(size=(N, A))


def gaussians(seed: int, apart: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=(N, A)), rng.uniform(0.3, 1.5, size=(N, A))
    return mean, std, mean + apart * rng.normal(size=(N, A)), std * np.exp(apart * rng.normal(size=(N, A)))


def test_weighted_likelihood_and_its_gradient():
    rng = np.random.default_rng(0)
    x, action = rng.normal(size=(N, A)), rng.integers(A, size=N)
    weights = np.where(masked(0), rng.random(N), 0)
    weights /= weights.sum()
    leaf = torch.tensor(x, requires_grad=True)
    loss = weighted_likelihood_loss(Categorical(leaf).log_prob(torch.tensor(action)), torch.tensor(weights))
    expected = -sum(w * log_softmax(row)[a] for w, row, a in zip(weights, x, action, strict=True))
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    loss.backward()
    closed = weights[:, None] * (np.exp(log_softmax(x)) - np.eye(A)[action])  # softmax minus one-hot
    np.testing.assert_allclose(leaf.grad.numpy(), closed, atol=1e-12)


def test_a_sample_without_weight_adds_nothing():
    log_prob = torch.tensor([-1.0, -torch.inf], requires_grad=True)
    loss = weighted_likelihood_loss(log_prob, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert loss.item() == 1.0 and log_prob.grad.tolist() == [-1.0, 0.0]


def test_the_maximum_of_the_weighted_likelihood_is_the_weighted_share():
    """A free categorical fitted to psi ends at the share of psi that each action holds."""
    rng = np.random.default_rng(1)
    action, weights = torch.tensor(rng.integers(A, size=N)), torch.tensor(rng.dirichlet(np.ones(N)))
    leaf = torch.zeros(A, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([leaf], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = weighted_likelihood_loss(Categorical(leaf.expand(N, A)).log_prob(action), weights)
        loss.backward()
        return loss

    optimiser.step(closure)
    share = [weights[action == a].sum().item() for a in range(A)]
    np.testing.assert_allclose(leaf.detach().softmax(0).numpy(), share, atol=1e-6)


def test_the_sampling_error_of_a_categorical_is_zero_on_average():
    """Exactly: every action once a state, weighed by pi_old, for a pi far from it."""
    old, new = (Categorical(torch.tensor(x)) for x in logits(4, 1.5))
    cross_entropy, everywhere = old.kl(new) + old.entropy(), torch.tensor(True)
    for state in range(N):
        errors = [
            sampling_error(new.log_prob(torch.full((N,), a))[state], cross_entropy[state], everywhere) for a in range(A)
        ]
        assert max(map(abs, errors)) > 0.1
        mean = sum(p * e for p, e in zip(old.logits[state].softmax(0), errors, strict=True))
        assert mean.item() == pytest.approx(0, abs=1e-12)


def test_the_sampling_error_of_a_gaussian_is_zero_on_average():
    """Integrate by Gauss-Hermite quadrature, exact for the quadratic log density of each dimension."""
    mean_old, std_old, mean, std = (torch.tensor(x[:, :1]) for x in gaussians(5, 0.7))
    old, new = Gaussian(mean_old, std_old), Gaussian(mean, std)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    everywhere = torch.ones(N, dtype=torch.bool)
    errors = [
        sampling_error(new.log_prob(mean_old + std_old * x), old.kl(new) + old.entropy(), everywhere) for x in nodes
    ]
    assert max(map(abs, errors)) > 0.1
    assert np.dot(weights, [e.item() for e in errors]) == pytest.approx(0, abs=1e-12)


def test_the_sampling_error_is_a_mean_over_the_mask():
    mask = torch.tensor(masked(6))
    log_prob, cross_entropy = torch.randn(2, N, generator=torch.Generator().manual_seed(0))
    log_prob[~mask] = -torch.inf
    expected = np.mean([(log_prob[i] + cross_entropy[i]).item() for i in range(N) if mask[i]])
    assert sampling_error(log_prob, cross_entropy, mask).item() == pytest.approx(expected, abs=1e-6)


def test_categorical_trust_region():
    old, new = logits(2, 0.5)
    mask, epsilon = masked(2), 0.03
    region = DualKL(5.0, epsilon).double()
    (alpha,) = (a().item() for a in region.alpha.values())
    leaf = torch.tensor(new, requires_grad=True)
    result = region(Categorical(torch.tensor(old)), Categorical(leaf), torch.tensor(mask))
    kl = categorical_kl(old, new)[mask].mean()
    assert alpha == pytest.approx(5, rel=1e-5)
    assert result.metrics["m_step/kl"].item() == pytest.approx(kl, abs=1e-12)
    assert result.loss.item() == pytest.approx(alpha * (epsilon - kl) + alpha * kl, abs=1e-10)
    assert list(alpha_gradient(region, result.loss).values()) == [pytest.approx(epsilon - kl, abs=1e-10)]
    # To theta the multiplier is a constant: alpha grad KL(old || new), over every valid row.
    (gradient,) = torch.autograd.grad(result.loss, leaf)
    expected = central_difference(lambda x: alpha * categorical_kl(old, x)[mask].mean(), new)
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-8)
    assert np.all(gradient.numpy()[~mask] == 0)


def test_gaussian_trust_region_has_two_parts():
    mean_old, std_old, mean, std = gaussians(3, 0.3)
    mask = masked(3)
    region = GaussianDualKL(mu_initial=1.0, mu_epsilon=0.01, sigma_initial=2.0, sigma_epsilon=5e-5).double()
    alpha = {name: a().item() for name, a in region.alpha.items()}
    leaves = [torch.tensor(x, requires_grad=True) for x in (mean, std)]
    old = Gaussian(torch.tensor(mean_old), torch.tensor(std_old))
    result = region(old, Gaussian(*leaves), torch.tensor(mask))
    kl_mu = gaussian_kl_mean(mean_old, std_old, mean)[mask].mean()
    kl_sigma = gaussian_kl_std(std_old, std)[mask].mean()
    assert result.loss.item() == pytest.approx(alpha["mu"] * 0.01 + alpha["sigma"] * 5e-5, abs=1e-9)
    gradients = alpha_gradient(region, result.loss)
    assert gradients["mu"] == pytest.approx(0.01 - kl_mu, abs=1e-9)
    assert gradients["sigma"] == pytest.approx(5e-5 - kl_sigma, abs=1e-9)
    # The mean part pulls on the mean alone, the covariance part on the standard deviation alone.
    to_mean, to_std = torch.autograd.grad(result.loss, leaves)
    slope_mean = central_difference(lambda x: alpha["mu"] * gaussian_kl_mean(mean_old, std_old, x)[mask].mean(), mean)
    slope_std = central_difference(lambda x: alpha["sigma"] * gaussian_kl_std(std_old, x)[mask].mean(), std)
    np.testing.assert_allclose(to_mean.numpy(), slope_mean, atol=1e-8)
    np.testing.assert_allclose(to_std.numpy(), slope_std, atol=1e-8)


def test_the_two_parts_sum_to_the_kl_where_one_of_them_is_zero():
    """kl_mean and kl_std against Monte Carlo of log old - log new: this fixes the direction and the scale."""
    generator = torch.Generator().manual_seed(0)
    old = Gaussian(torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))
    moved = Gaussian(torch.tensor([0.9], dtype=torch.float64), old.std)
    wider = Gaussian(old.mean, torch.tensor([1.1], dtype=torch.float64))
    x = old.mean + old.std * torch.randn(400_000, 1, generator=generator, dtype=torch.float64)
    for new, kl in ((moved, old.kl_mean(moved)), (wider, old.kl_std(wider))):
        estimate = (old.log_prob(x) - new.log_prob(x)).mean()
        torch.testing.assert_close(kl, estimate, rtol=1e-2, atol=0)
        torch.testing.assert_close(kl, old.kl(new), rtol=1e-12, atol=0)


def test_the_direction_is_old_to_new():
    """KL(old || new) where old never takes an action that new may: finite one way, large the other."""
    old, new = torch.tensor([[0.0, -200.0]]), torch.tensor([[0.0, 0.0]])
    region, mask = DualKL(1.0, 0.01), torch.tensor([True])
    forward = region(Categorical(old), Categorical(new), mask).metrics["m_step/kl"].item()
    backward = region(Categorical(new), Categorical(old), mask).metrics["m_step/kl"].item()
    assert forward == pytest.approx(np.log(2), abs=1e-6) and backward > 90


@pytest.mark.parametrize("apart, grows", [(1.0, True), (1e-3, False)])
def test_alpha_grows_exactly_when_the_kl_exceeds_the_budget(apart, grows):
    mask = torch.ones(N, dtype=torch.bool)
    mean_old, std_old, mean, std = map(torch.tensor, gaussians(4, apart))
    pairs = {
        "categorical": (DualKL(1.0, 0.01), *(Categorical(torch.tensor(x)) for x in logits(4, apart))),
        "gaussian": (
            GaussianDualKL(mu_initial=1.0, mu_epsilon=0.01, sigma_initial=1.0, sigma_epsilon=0.01),
            Gaussian(mean_old, std_old),
            Gaussian(mean, std),
        ),
    }
    for region, old, new in pairs.values():
        region = region.double()
        before = [a().item() for a in region.alpha.values()]
        optimiser = torch.optim.SGD(region.parameters(), lr=0.1)
        region(old, new, mask).loss.backward()
        optimiser.step()
        after = [a().item() for a in region.alpha.values()]
        assert all((now > then) == grows for then, now in zip(before, after, strict=True))


def test_the_kl_is_exactly_zero_at_theta_old():
    rng = np.random.default_rng(5)
    x = torch.tensor(rng.normal(size=(N, A)) * 3, dtype=torch.float32)
    std = torch.tensor(rng.uniform(0.1, 2, size=(N, A)), dtype=torch.float32)
    mask = torch.ones(N, dtype=torch.bool)
    for region, parts, policy in (
        (DualKL(5.0, 0.01), 1, Categorical(x)),
        (GaussianDualKL(mu_initial=1.0, mu_epsilon=0.01, sigma_initial=1.0, sigma_epsilon=1e-4), 2, Gaussian(x, std)),
    ):
        leaves = [p.clone().requires_grad_() for p in policy]
        result = region(policy, type(policy)(*leaves), mask)
        kls = [v.item() for k, v in result.metrics.items() if k.startswith("m_step/kl")]
        assert kls == [0.0] * parts
        for gradient in torch.autograd.grad(result.loss, leaves):
            np.testing.assert_allclose(gradient.numpy(), 0, atol=1e-6)
        packed = policy.like(policy.parameters())  # as it travels with the unroll
        metrics = region(packed, policy, mask).metrics
        assert all(v.item() == 0 for k, v in metrics.items() if k.startswith("m_step/kl"))


def test_the_other_trust_regions():
    old, new = logits(6, 0.5)
    mask = masked(6)
    kl = categorical_kl(old, new)[mask].mean()
    leaf = torch.tensor(new, requires_grad=True)
    args = (Categorical(torch.tensor(old)), Categorical(leaf), torch.tensor(mask))
    assert Penalty(0.3)(*args).loss.item() == pytest.approx(0.3 * kl, abs=1e-10)
    free = Unconstrained()(*args)
    assert free.loss.item() == 0 and free.metrics["m_step/kl"].item() == pytest.approx(kl, abs=1e-10)


def test_a_dual_descent_ends_at_the_budget():
    """Fitted to a single action under the trust region, a free categorical stops where KL(old || new) = epsilon."""
    epsilon = 0.05
    old = Categorical(torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64))
    leaf = old.logits.clone().requires_grad_()
    region = DualKL(1.0, epsilon).double()
    optimiser = torch.optim.Adam([leaf, *region.parameters()], lr=0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.998)
    one, mask = torch.ones(1, dtype=torch.float64), torch.tensor([True])
    for _ in range(2000):
        optimiser.zero_grad()
        result = region(old, Categorical(leaf), mask)
        (weighted_likelihood_loss(Categorical(leaf).log_prob(torch.tensor([0])), one) + result.loss).backward()
        optimiser.step()
        schedule.step()
    assert result.metrics["m_step/kl"].item() == pytest.approx(epsilon, rel=0.02)
    # Stationarity: p_old - p_new = ... gives p_new = (e_0 + alpha p_old) / (1 + alpha).
    alpha = result.metrics["m_step/alpha"].item()
    expected = (torch.tensor([[1.0, 0, 0]]) + alpha * old.logits.softmax(-1)) / (1 + alpha)
    np.testing.assert_allclose(leaf.detach().softmax(-1).numpy(), expected.numpy(), atol=5e-3)
