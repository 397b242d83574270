"""Statements of the paper that do not hold as printed, each beside what does: docs/errata.md derives them.

The paper is "Expectation-Maximization Formulations for SFT and RL Fine-Tuning of Transformers" (2026). Small problems
of a few outcomes, whose expectations are exact sums, in float64.
"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from agents.gempi.chi_square import ChiSquare
from agents.gempi.divergences import KL
from agents.gempi.e_step import EStep, e_step
from agents.gempi.filters import All, Filter, TopK
from agents.gempi.target import Bases
from agents.gempi.temperature import Dual, Fixed
from agents.gempi.trust_region import DualKL
from networks.distributions import Categorical

PI_T = np.array([0.5, 0.25, 0.25])
PI_REF = np.array([0.25, 0.25, 0.5])
ADVANTAGES = np.array([-0.6, 0.1, 1.1])  # E under pi_t is 0
COUNTS = np.array([20, 10, 10])
"""A sample of 40 in which every outcome is as frequent as pi_t has it: its means are the expectations under pi_t."""
DRAWN = np.repeat(np.arange(3), COUNTS)
ALL = All()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / q), 0)))


def chi_square(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.sum(p**2 / q) - 1)


def normal(masses: np.ndarray) -> np.ndarray:
    return masses / masses.sum()


def target(temperature: float, alpha: float = 0.0) -> np.ndarray:
    """q* between pi_ref, of coefficient `alpha`, and pi_t: eq. 12."""
    share = alpha / temperature
    return normal(PI_REF**share * PI_T ** (1 - share) * np.exp(ADVANTAGES / temperature))


def step_of(
    *coefficients: float, filter_: Filter = ALL, anchors: tuple[str, ...] = ("behaviour",), drawn: np.ndarray = DRAWN
) -> EStep:
    """The project's E-step on the sample, of fixed coefficients."""
    log_ratios = {"behaviour": np.zeros(3), "reference": np.log(PI_REF / PI_T)}
    ratios = torch.tensor(np.stack([log_ratios[name][drawn] for name in anchors]))
    mask = torch.ones(len(drawn), dtype=torch.bool)
    temperature = Fixed(*coefficients).double()
    return e_step(torch.tensor(ADVANTAGES[drawn]), ratios, mask, KL(), temperature, filter_, anchors)


def fitted(weights: np.ndarray) -> np.ndarray:
    """What a policy without constraints ends at that maximises sum_i w_i log pi(y_i) over the sample."""
    return np.array([weights[DRAWN == outcome].sum() for outcome in range(3)])


# Section 5


def test_the_lagrangian_of_the_m_step_as_printed_rewards_distance():
    """Eq. 12 has alpha (epsilon - KL) in a loss; what is minimised must hold alpha (KL - epsilon), as eq. 1 does."""
    psi, alpha, epsilon = normal(np.array([1.0, 2.0, 5.0])), 0.8, 0.01
    logits = torch.tensor(np.log((psi + alpha * PI_T) / (1 + alpha)), requires_grad=True)
    region = DualKL(alpha, epsilon).double()
    old, new = Categorical(torch.tensor(np.log(PI_T))), Categorical(logits)
    bound = region(old, new, torch.tensor(True)).loss
    likelihood = (torch.tensor(psi) * logits.log_softmax(0)).sum()
    # At the mixture (psi + alpha pi_old) / (1 + alpha) the loss of eq. 1 is stationary: the minimum, as it is convex.
    (gradient,) = torch.autograd.grad(bound - likelihood, logits)
    assert gradient.abs().max() < 1e-6

    def printed(policy: np.ndarray) -> float:
        return -psi @ np.log(policy) + alpha * (epsilon - kl(PI_T, policy))

    # As printed it falls without end where an outcome has less of psi than alpha pi_old.
    assert psi[0] < alpha * PI_T[0]
    away = [printed(normal(np.array([10.0**-k, 1, 1]))) for k in (2, 20, 200)]
    assert away[0] > away[1] > away[2] and away[1] - away[2] > 100


# Section 6


def under_dropout() -> tuple[torch.Tensor, torch.Tensor]:
    """log pi of a network's three outcomes, whole and under masks [draws, 3]."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3)).double()
    x = torch.randn(4, dtype=torch.float64)
    with torch.no_grad():
        masked = network(x.expand(500, 4)).log_softmax(-1)
        return network.eval()(x).log_softmax(-1), masked


def test_a_trust_region_compares_two_modes_just_as_a_ratio_does():
    """V-MPO's KL(pi_old || pi), pi_old without dropout and pi with it, is a distance before any step was made."""
    whole, masked = under_dropout()
    budget = 0.007
    region = DualKL(1.0, budget).double()
    policies = Categorical(whole.expand(500, 3)), Categorical(masked)
    found = region(*policies, torch.ones(500, dtype=torch.bool)).metrics
    assert found["m_step/kl"] > budget
    ratios = (masked - whole).exp()
    assert ((ratios - 1).abs() > 0.2).double().mean() > 0.1  # and so leave PPO's ratios their clip


def test_a_clipped_objective_bounds_no_kl():
    """Section 6 names a guarantee; the maximum of the clipped objective holds policies of any distance."""
    old, action, advantage, epsilon = np.array([0.4, 0.3, 0.3]), 0, 1.0, 0.2

    def clipped(policy: np.ndarray) -> float:
        ratio = policy[action] / old[action]
        return min(ratio * advantage, np.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)

    near, far = np.array([0.48, 0.26, 0.26]), np.array([0.48, 0.52 - 1e-30, 1e-30])
    assert clipped(near) == pytest.approx(clipped(far)) == pytest.approx(1 + epsilon)
    assert kl(old, near) < 0.02 and kl(old, far) > 10
    assert clipped(np.array([1 - 2e-30, 1e-30, 1e-30])) == pytest.approx(1 + epsilon)


# Section 7


def test_dpos_loss_is_a_ratio_of_two_modes_under_dropout():
    """At pi = pi_ref the loss is log 2, whatever the pair; the masked policy's is another for every mask."""
    whole, masked = under_dropout()
    beta, chosen, rejected = 1.0, 0, 1
    implicit = beta * (masked - whole)
    losses = -torch.nn.functional.logsigmoid(implicit[:, chosen] - implicit[:, rejected])
    assert losses.std() > 0.05 and (losses - math.log(2)).abs().max() > 0.2


# Section 8


def test_weights_of_a_sample_are_target_masses_divided_by_pi_t():
    """The last display of section 8, used as the weights of samples drawn from pi_t, fits pi_t twice."""
    temperature, alpha = 0.7, 0.3
    printed = {"vmpo": np.log(PI_T) + ADVANTAGES / temperature}
    printed["dar"] = (alpha * np.log(PI_REF) + (temperature - alpha) * np.log(PI_T) + ADVANTAGES) / temperature
    ours = {"vmpo": step_of(temperature)}
    ours["dar"] = step_of(alpha, temperature - alpha, anchors=("reference", "behaviour"))
    for name, wanted in (("vmpo", target(temperature)), ("dar", target(temperature, alpha))):
        np.testing.assert_allclose(fitted(ours[name].weights.numpy()), wanted, atol=1e-7)
        twice = fitted(normal(np.exp(printed[name][DRAWN])))
        np.testing.assert_allclose(twice, normal(wanted * PI_T), atol=1e-12)
        assert np.abs(twice - wanted).max() > 0.05


def test_the_partition_function_weighs_prompts_against_each_other():
    """Section 8 drops Z(x) "without changing the optimum": of each prompt alone, not of a policy that they share."""
    advantages = np.array([[0.0, 1.0, 2.0], [0.3, 0.0, -0.5]])  # of two prompts
    unnormalised = PI_T * np.exp(advantages / 0.5)
    z = unnormalised.sum(1)
    targets = unnormalised / z[:, None]

    def shared(prompt_weights: np.ndarray) -> np.ndarray:
        """The best one distribution for both prompts."""
        mixture = prompt_weights @ targets

        def loss(logits: np.ndarray) -> float:
            return -mixture @ (logits - np.log(np.exp(logits).sum()))

        return normal(np.exp(minimize(loss, np.zeros(3), tol=1e-12).x))

    with_z, without = shared(np.full(2, 0.5)), shared(normal(z))
    assert np.abs(with_z - without).max() > 0.1
    # The E-step over a batch of both prompts is the one without: its target is over prompts and completions together.
    drawn = np.concatenate([DRAWN, DRAWN])
    values = torch.tensor(np.concatenate([row[DRAWN] for row in advantages]))
    arguments = values, torch.zeros(1, len(drawn)).double(), torch.ones(len(drawn), dtype=torch.bool)
    weights = e_step(*arguments, KL(), Fixed(0.5).double(), All()).weights.numpy()
    joint = np.array([weights[drawn == outcome].sum() for outcome in range(3)])
    np.testing.assert_allclose(joint, without, atol=1e-5)
    np.testing.assert_allclose(weights[:40].sum(), normal(z)[0], atol=1e-7)


# Section 9


def test_self_normalised_weights_need_n_to_have_a_limit():
    """w_i -> q* / pi_t of section 9 is N w_i; w_i itself goes to 0."""
    wanted = target(0.7) / PI_T
    for copies in (1, 10, 1000):
        drawn = np.tile(DRAWN, copies)
        weights = step_of(0.7, drawn=drawn).weights.numpy()
        np.testing.assert_allclose(len(drawn) * weights, wanted[drawn], rtol=1e-6)
        assert weights.max() < 3 / len(drawn)


def test_the_log_of_the_partition_function_is_biased_by_half_the_chi_square():
    """E[Z-hat] = Z exactly; E[log Z-hat] = log Z - chi-square(q* || pi_t) / (2 N) + O(N^-2)."""
    raw = np.exp(ADVANTAGES[:2] / 0.7)
    p = PI_T[:2].sum()
    share = np.array([PI_T[0] / p, PI_T[1] / p])  # two outcomes: sums over a binomial
    z = share @ raw
    chi = chi_square(normal(share * raw), share)
    for n in (50, 400):
        k = np.arange(n + 1)
        logs = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
        mass = np.exp(logs + k * math.log(share[0]) + (n - k) * math.log(share[1]))
        estimates = (k * raw[0] + (n - k) * raw[1]) / n
        assert mass @ estimates == pytest.approx(z, rel=1e-10)
        assert n * (mass @ np.log(estimates) - math.log(z)) == pytest.approx(-chi / 2, rel=1 / n**0.5)


def test_a_higher_temperature_is_what_flattens_the_weights():
    """Raising Lambda is raising the temperature, by its definition: with pi_t as the anchor ESS rises with it."""
    shares = [step_of(temperature).diagnostics["e_step/ess"].item() for temperature in (0.1, 0.3, 1.0, 3.0, 10.0)]
    assert shares == sorted(shares) and shares[0] < 15 and shares[-1] > 39


def test_away_from_pi_t_a_higher_temperature_may_cost_effective_samples():
    """With pi_ref as the anchor it leads to pi_ref, which may be farther from pi_t than a target in between."""
    log_ratio = np.log(np.array([0.8, 0.1, 0.1]) / PI_T)
    advantages = -0.5 * log_ratio  # what pi_ref has too much of is bad
    mask = torch.ones(len(DRAWN), dtype=torch.bool)
    effective = []
    for temperature in (0.5, 1.0, 5.0, 50.0):
        elements = KL(), Fixed(temperature).double(), All(), ("reference",)
        step = e_step(torch.tensor(advantages[DRAWN]), torch.tensor(log_ratio[DRAWN])[None], mask, *elements)
        effective.append(step.diagnostics["e_step/ess"].item())
    assert effective == sorted(effective, reverse=True)
    assert effective[0] == pytest.approx(len(DRAWN), rel=1e-6) and effective[-1] < 30


def test_the_dual_spends_its_budget_and_minimises_no_chi_square():
    """At the dual's minimum KL(q || pi_t) is epsilon; the chi-square is least, 0, at an infinite temperature."""
    epsilon = 0.1

    def dual(log_eta: np.ndarray) -> float:
        eta = math.exp(log_eta[0])
        return eta * epsilon + eta * math.log(PI_T @ np.exp(ADVANTAGES / eta))

    eta = math.exp(minimize(dual, np.array([0.0]), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14}).x[0])
    assert kl(target(eta), PI_T) == pytest.approx(epsilon, rel=1e-4)
    assert chi_square(target(eta), PI_T) > 0.15 > 1e-4 > chi_square(target(100.0), PI_T)
    # From above, the dual's gradient lowers the temperature, and the chi-square grows with every step.
    temperature = Dual((5.0, epsilon)).double()
    ratios, mask = torch.zeros(1, len(DRAWN)).double(), torch.ones(len(DRAWN), dtype=torch.bool)
    step = e_step(torch.tensor(ADVANTAGES[DRAWN]), ratios, mask, KL(), temperature, All())
    step.dual_loss.backward()
    assert all(parameter.grad > 0 for parameter in temperature.parameters())


def test_linear_tilting_is_shifted_and_cut_off_at_zero():
    """q = pi (1 + (A - mu) / (2 lambda))_+: the printed one is negative, or the optimum of nothing, elsewhere."""
    support = torch.ones(3, dtype=torch.bool)

    def solved(advantages: np.ndarray, coefficient: float) -> np.ndarray:
        base = Bases(torch.tensor(np.log(PI_T))[None], torch.zeros(1))
        arguments = base, torch.tensor([coefficient]).double(), support
        return ChiSquare().target(torch.tensor(advantages), *arguments).log_weights.exp().numpy()

    def objective(q: np.ndarray, advantages: np.ndarray, coefficient: float) -> float:
        return q @ advantages - coefficient * chi_square(q, PI_T)

    def printed(advantages: np.ndarray, coefficient: float) -> np.ndarray:
        return PI_T * (1 + advantages / (2 * coefficient))

    np.testing.assert_allclose(solved(ADVANTAGES, 1.0), printed(ADVANTAGES, 1.0), atol=1e-9)  # E[A] = 0, nothing cut
    shifted = normal(printed(ADVANTAGES + 1.0, 1.0))  # of advantages whose mean under pi_t is 1
    np.testing.assert_allclose(solved(ADVANTAGES + 1.0, 1.0), printed(ADVANTAGES, 1.0), atol=1e-9)
    assert objective(solved(ADVANTAGES + 1, 1.0), ADVANTAGES + 1, 1.0) > objective(shifted, ADVANTAGES + 1, 1.0) + 1e-3
    assert printed(ADVANTAGES, 0.2).min() < 0 == solved(ADVANTAGES, 0.2).min()


def test_top_k_lowers_the_effective_sample_size():
    """To cut off the least weights and divide by the rest's sum raises sum_i w_i^2, always."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        advantages = torch.tensor(rng.normal(size=40) * rng.exponential())
        arguments = advantages, torch.zeros(1, 40).double(), torch.ones(40, dtype=torch.bool), KL(), Fixed(1.0).double()
        whole, half = (e_step(*arguments, each).diagnostics for each in (All(), TopK(0.5)))
        assert half["e_step/ess"] < whole["e_step/ess"]
        assert half["e_step/chi_square"] > whole["e_step/chi_square"]


def test_the_bias_of_top_k_is_the_mass_that_it_drops():
    """Total variation between q* and q* on S is q*(not S); the printed order is smaller by any factor."""
    for best in (2.0, 6.0, 12.0):
        q = normal(np.array([0.5, 0.5]) * np.exp([0.0, best]))
        kept = np.array([0.0, 1.0])
        dropped, printed = q[0], q[0] * q[0] / 0.5
        assert 0.5 * np.abs(q - kept).sum() == pytest.approx(dropped)
        assert dropped / printed == pytest.approx((1 + math.exp(best)) / 2)


def test_top_k_by_advantage_is_not_top_k_by_weight_where_pi_ref_is_an_anchor():
    """pi_ref has much of the second outcome: its weight is the largest, its advantage is not."""
    log_ratio = np.log(np.array([0.3, 0.65, 0.05]) / PI_T)
    ratios = torch.tensor(np.stack([log_ratio[DRAWN], np.zeros(len(DRAWN))]))
    arguments = torch.tensor(ADVANTAGES[DRAWN]), ratios, torch.ones(len(DRAWN), dtype=torch.bool), KL()
    names = "reference", "behaviour"
    whole, quarter = (
        e_step(*arguments, Fixed(0.8, 0.2).double(), each, names).weights.numpy() for each in (All(), TopK(0.25))
    )
    assert set(DRAWN[whole == whole.max()]) == {1}
    assert set(DRAWN[quarter > 0]) == {2}


def test_the_dual_of_vmpo_divides_by_k_once():
    """With Z the section's, a mean already, eta log(Z / k) has no minimum for a budget below log k."""
    k, epsilon = 20, 0.1
    advantages = np.random.default_rng(1).normal(size=k)

    def dual(eta: float, divided: int) -> float:
        """Z-hat of section 9 in V-MPO's case, divided by k so many times more."""
        return eta * epsilon + eta * (math.log(np.mean(np.exp(advantages / eta))) - divided * math.log(k))

    etas = np.geomspace(0.05, 1e4, 60)
    once, twice = ([dual(eta, divided) for eta in etas] for divided in (0, 1))
    assert 0 < int(np.argmin(once)) < len(etas) - 1
    assert (np.diff(twice) < 0).all()


def test_two_budgets_that_exclude_each_other_leave_the_dual_without_a_minimum():
    """No q is nearer than epsilon to both anchors: the coefficients grow for ever."""
    shares = np.linspace(0, 1, 101)
    chernoff = max(-math.log(PI_REF**a @ PI_T ** (1 - a)) for a in shares)

    def dual(scale: float, epsilon: float) -> float:
        """Eq. 14 at alpha = beta = `scale`."""
        z = (np.sqrt(PI_REF * PI_T) * np.exp(ADVANTAGES / (2 * scale))).sum()
        return 2 * scale * epsilon + 2 * scale * math.log(z)

    scales = np.geomspace(1, 1e5, 30)
    assert (np.diff([dual(scale, 0.5 * chernoff) for scale in scales]) < 0).all()
    assert dual(1e5, 0.5 * chernoff) < -1e3
    assert dual(1e5, 2.0 * chernoff) > 1e3
    # So with the project's dual, too: from a large start both coefficients are still pushed up.
    temperature = Dual((50.0, 0.5 * chernoff), (50.0, 0.5 * chernoff)).double()
    ratios = torch.tensor(np.stack([np.log(PI_REF / PI_T)[DRAWN], np.zeros(len(DRAWN))]))
    elements = torch.ones(len(DRAWN), dtype=torch.bool), KL(), temperature, All(), ("reference", "behaviour")
    e_step(torch.tensor(ADVANTAGES[DRAWN]), ratios, *elements).dual_loss.backward()
    assert all(parameter.grad < 0 for parameter in temperature.parameters())


# Section 10


def test_em_methods_with_pi_ref_have_an_importance_ratio():
    """The table of section 10 says that they need none: only of pi_t alone do the weights hold no ratio."""
    alone = step_of(0.7).weights.numpy()
    np.testing.assert_allclose(alone, normal(np.exp(ADVANTAGES[DRAWN] / 0.7)), atol=1e-8)
    both = step_of(0.3, 0.4, anchors=("reference", "behaviour")).weights.numpy()
    ratio = (PI_REF / PI_T) ** (0.3 / 0.7)
    np.testing.assert_allclose(both, normal((ratio * np.exp(ADVANTAGES / 0.7))[DRAWN]), atol=1e-7)
    assert np.abs(both - alone).max() > 0.001
