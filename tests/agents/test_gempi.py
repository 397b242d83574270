"""The E-step of every divergence against a solver, and the theory (GEMPI sections 8, 9) on small problems, float64.

Oracles: scipy's SLSQP on the primal problem, autograd of eq. 14 written out, and exact sums over all samples.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multinomial

from agents.config import AgentConfig
from agents.evaluation import evaluate_policy
from agents.factory import make_agent
from agents.gempi.anchors import bases_of
from agents.gempi.chi_square import ChiSquare
from agents.gempi.e_step import e_step
from agents.gempi.filters import All, Positive, TopK
from agents.gempi.kl import KL
from agents.gempi.methods import METHODS
from agents.gempi.renyi import Renyi
from agents.gempi.target import Bases, Divergence
from agents.gempi.temperature import Dual, Fixed, Flat, Solved
from agents.gempi.trust_region import kl_parts
from agents.types import rows
from networks.distributions import Gaussian
from support.agent_oracles import best_eta, learned, popart, random_batch, space, to_torch, top_k

ORDERS = (0.3, 0.5, 0.9, 1.5, 2.0, 3.0)
DIVERGENCES: dict[str, Divergence] = {"kl": KL(), "chi-square": ChiSquare()} | {f"renyi {o}": Renyi(o) for o in ORDERS}


def divergence(name: str, w: np.ndarray, b: np.ndarray) -> float:
    """D(w || b), from its definition."""
    if name == "kl":
        return float(np.sum(np.where(w > 0, w * np.log(np.maximum(w, 1e-300) / b), 0)))
    if name == "chi-square":
        return float(np.sum(b * (w / b - 1) ** 2))
    order = float(name.split()[1])
    return math.log(np.sum(b * np.maximum(w / b, 0) ** order)) / (order - 1)


def problem(seed: int, anchors: int = 1, n: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Advantages [n] and the anchors' masses [m, n]."""
    rng = np.random.default_rng(seed)
    bases = rng.dirichlet(np.full(n, 4.0), size=anchors)
    return rng.normal(size=n), bases


def solve(name: str, advantages: np.ndarray, bases: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """argmax_w w A - sum_j lambda_j D(w || b_j) over the simplex, by SLSQP from several starts."""
    n = len(advantages)

    def cost(w: np.ndarray) -> float:
        w = np.maximum(w, 1e-15)
        return -w @ advantages + sum(c * divergence(name, w, b) for c, b in zip(coefficients, bases, strict=True))

    starts = [bases.mean(0), np.full(n, 1 / n), 0.05 / n + 0.95 * np.eye(n)[advantages.argmax()]]
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1}
    options = {"ftol": 1e-15, "maxiter": 2000}
    found = [minimize(cost, s, bounds=[(1e-12, 1)] * n, constraints=simplex, options=options).x for s in starts]
    return min(found, key=cost)


def target(name: str, advantages: np.ndarray, bases: np.ndarray, coefficients: np.ndarray):
    support = torch.ones(len(advantages), dtype=torch.bool)
    masses = Bases(torch.tensor(np.log(bases)), torch.zeros(len(bases)))
    arguments = torch.tensor(advantages), masses, torch.tensor(coefficients), support
    found = DIVERGENCES[name].target(*arguments)
    return found.log_weights.exp().numpy(), found.divergences.numpy()


# Divergences


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("coefficient", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_target_is_the_solvers_optimum(name, coefficient, seed):
    advantages, bases = problem(seed)
    coefficients = np.array([coefficient])
    weights, divergences = target(name, advantages, bases, coefficients)
    expected = solve(name, advantages, bases, coefficients)
    np.testing.assert_allclose(weights, expected, atol=2e-4)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert divergences[0] == pytest.approx(divergence(name, weights, bases[0]), abs=1e-9)

    def objective(w):
        return w @ advantages - coefficient * divergence(name, np.maximum(w, 1e-15), bases[0])

    assert objective(weights) >= objective(expected) - 1e-9  # at least as good as the solver


@pytest.mark.parametrize("name", ["kl", "chi-square"])
@pytest.mark.parametrize("seed", range(4))
def test_mixed_anchors_are_solved_together(name, seed):
    advantages, bases = problem(seed, anchors=3)
    coefficients = np.array([0.2, 0.5, 0.1])
    weights, divergences = target(name, advantages, bases, coefficients)
    np.testing.assert_allclose(weights, solve(name, advantages, bases, coefficients), atol=2e-4)
    np.testing.assert_allclose(divergences, [divergence(name, weights, b) for b in bases], atol=1e-9)


def test_what_has_no_closed_form_is_refused():
    with pytest.raises(ValueError, match="renyi has a closed form for one anchor only, not 2"):
        AgentConfig(agent="gempi", divergence="renyi", anchors="both")
    with pytest.raises(ValueError, match="not 1, where it is the KL"):
        AgentConfig(agent="gempi", divergence="renyi", renyi_order=1.0)


def test_linear_tilting_is_the_papers_where_nothing_is_cut_off_and_only_there():
    advantages, (base,) = problem(5)
    advantages = advantages - base @ advantages
    weights, _ = target("chi-square", advantages, base[None], np.array([5.0]))
    np.testing.assert_allclose(weights, base * (1 + advantages / 10), atol=1e-12)
    weights, _ = target("chi-square", advantages, base[None], np.array([0.1]))
    tilted = base * (1 + advantages / 0.2)
    assert tilted.min() < 0 and weights.min() == 0
    assert np.abs(weights - np.maximum(tilted, 0) / np.maximum(tilted, 0).sum()).max() > 0.01  # nor by clipping it


@pytest.mark.parametrize("name", [n for n in DIVERGENCES if n != "kl"])
def test_renyi_meets_the_kl_at_order_one_and_all_meet_the_anchor_at_high_temperature(name):
    advantages, bases = problem(6)
    weights, divergences = target(name, advantages, bases, np.array([1e5]))
    np.testing.assert_allclose(weights, bases[0], atol=1e-4)
    assert abs(divergences[0]) < 1e-6
    support = torch.ones(7, dtype=torch.bool)
    masses = Bases(torch.tensor(np.log(bases)), torch.zeros(1))
    arguments = torch.tensor(advantages), masses, torch.tensor([0.7], dtype=torch.float64), support
    kl = KL().target(*arguments)
    for order in (0.999, 1.001):
        near = Renyi(order).target(*arguments)
        np.testing.assert_allclose(near.log_weights.exp().numpy(), kl.log_weights.exp().numpy(), atol=2e-3)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_extremes_stay_finite(name):
    """|A| / lambda = 1e4 in float32, one sample, ties, and no sample at all."""
    mask = torch.ones(40, dtype=torch.bool)
    advantages = torch.tensor(np.random.default_rng(0).normal(size=40), dtype=torch.float32)
    for values, valid in (
        (advantages, mask),
        (torch.ones(40), mask),
        (advantages, torch.arange(40) == 3),
        (advantages, ~mask),
    ):
        for coefficient in (1e-4, 1.0):
            temperature = Dual((coefficient, 0.1))
            step = e_step(values, torch.zeros(1, 40), valid, DIVERGENCES[name], temperature, All())
            assert step.weights.isfinite().all() and (step.weights >= 0).all()
            assert step.weights.sum().item() == pytest.approx(float(valid.any()), abs=1e-4)
            step.dual_loss.backward()
            assert all(p.grad.isfinite().all() for p in temperature.parameters())


# Anchors and temperature


def test_masses_of_an_anchor_on_samples_of_the_behaviour():
    """The ratios over the number of valid samples, whatever they add up to; those of pi_t over that of kept ones."""
    ratios = torch.tensor([[0.0, 0.0, 0.0, 0.0, 9.0], [0.0, math.log(3.0), 0.0, 5.0, 9.0]], dtype=torch.float64)
    mask, support = torch.arange(5) < 4, torch.arange(5) < 3
    masses = bases_of(("behaviour", "reference"), ratios, mask, support).log_masses.exp()
    np.testing.assert_allclose(masses[:, :3].numpy(), [[1 / 3] * 3, [1 / 4, 3 / 4, 1 / 4]], atol=1e-12)


def ratios_of(bases: np.ndarray) -> torch.Tensor:
    """Return log pi_j - log pi_t of samples on which the anchors have the masses `bases` [m, n]."""
    return torch.tensor(np.log(bases * bases.shape[1]))


def written_out(lambdas: torch.Tensor, advantages, log_b, epsilons) -> torch.Tensor:
    """Eq. 14, with the anchors' masses on the sample for pi_j."""
    total = lambdas.sum()
    return lambdas @ epsilons + total * torch.logsumexp((lambdas / total) @ log_b + advantages / total, 0)


@pytest.mark.parametrize("anchors", [1, 2, 3])
def test_the_dual_of_kl_is_equation_14(anchors):
    """Value and gradient, for the gradient that is the slack of each budget."""
    advantages, bases = problem(7, anchors)
    epsilons = torch.linspace(0.05, 0.3, anchors, dtype=torch.float64)
    starts = np.linspace(0.4, 1.1, anchors)
    temperature = Dual(*zip(starts, epsilons.tolist(), strict=True)).double()
    log_b = torch.tensor(np.log(bases))
    mask = torch.ones(7, dtype=torch.bool)
    step = e_step(torch.tensor(advantages), ratios_of(bases), mask, KL(), temperature, All(), ["x"] * anchors)
    lambdas = temperature().detach().requires_grad_()
    expected = written_out(lambdas, torch.tensor(advantages), log_b, epsilons)
    assert step.dual_loss.item() == pytest.approx(expected.item(), abs=1e-6)  # epsilon is kept in float32
    (gradient,) = torch.autograd.grad(expected, lambdas)
    coefficients = temperature()
    ours = torch.autograd.grad(temperature.loss(coefficients, kls(step, bases), torch.tensor(0.0)), coefficients)[0]
    np.testing.assert_allclose(ours.numpy(), gradient.numpy(), atol=1e-6)


def kls(step, bases: np.ndarray) -> torch.Tensor:
    w = step.weights.numpy()
    return torch.tensor([divergence("kl", w, b) for b in bases])


@pytest.mark.parametrize("seed", range(10))
def test_the_dual_is_jointly_convex(seed):
    advantages, bases = problem(seed, anchors=3)
    rng = np.random.default_rng(seed)
    arguments = torch.tensor(advantages), ratios_of(bases), torch.ones(len(advantages), dtype=torch.bool)

    def loss(coefficients: np.ndarray) -> float:
        temperature = Dual(*zip(coefficients.tolist(), (0.1, 0.2, 0.05), strict=True)).double()
        return e_step(*arguments, KL(), temperature, All(), ["x"] * 3).dual_loss.item()

    for _ in range(20):
        a, b = rng.uniform(0.05, 3, size=(2, 3))
        assert loss((a + b) / 2) <= (loss(a) + loss(b)) / 2 + 1e-6


@pytest.mark.parametrize("solved", [False, True], ids=["dual", "solved"])
@pytest.mark.parametrize("name", ["kl", "chi-square", "renyi 0.5", "renyi 2.0"])
def test_at_the_duals_fixed_point_the_budget_is_met(name, solved):
    """Complementary slackness, and the optimum of the constrained problem by SLSQP."""
    advantages, bases = problem(8)
    epsilon = 0.1
    if solved:
        masses = Bases(torch.tensor(np.log(bases)), torch.zeros(1))
        batch = torch.tensor(advantages), masses, torch.ones(7, dtype=torch.bool)
        coefficients = Solved(epsilon)(DIVERGENCES[name], *batch)
    else:
        temperature = Dual((1.0, epsilon)).double()
        descend(temperature, advantages, bases, DIVERGENCES[name])
        coefficients = temperature().detach()
    weights, divergences = target(name, advantages, bases, coefficients.numpy())
    assert divergences[0] == pytest.approx(epsilon, rel=1e-3)
    constraints = [
        {"type": "eq", "fun": lambda w: w.sum() - 1},
        {"type": "ineq", "fun": lambda w: epsilon - divergence(name, np.maximum(w, 1e-15), bases[0])},
    ]
    start, options = bases[0], {"ftol": 1e-14, "maxiter": 2000}
    best = minimize(lambda w: -w @ advantages, start, bounds=[(0, 1)] * 7, constraints=constraints, options=options).x
    np.testing.assert_allclose(weights, best, atol=3e-3)


def test_the_solved_temperature_of_chi_square_has_a_closed_form():
    """The standard deviation of A over 2 sqrt(epsilon), while nothing is cut off."""
    advantages = np.random.default_rng(4).normal(size=100)
    agent = gempi(divergence="chi-square", temperature="solved", filter="all", epsilon_eta=0.05)
    step = e_step(torch.tensor(advantages), torch.zeros(1, 100).double(), torch.ones(100).bool(), *agent)
    assert step.weights.min() > 0
    assert step.diagnostics["e_step/eta"].item() == pytest.approx(advantages.std() / (2 * math.sqrt(0.05)), rel=1e-6)
    assert step.diagnostics["e_step/chi_square"].item() == pytest.approx(0.05, rel=1e-6)
    assert step.dual_loss == 0


@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1e-3, 1.0, 1e3, 1e12])
def test_a_solved_temperature_follows_the_scale_of_advantages(scale):
    advantages = np.random.default_rng(5).normal(size=100)
    steps = [
        e_step(torch.tensor(c * advantages), torch.zeros(1, 100).double(), torch.ones(100).bool(), *elements)
        for c in (1.0, scale)
        for elements in [gempi(temperature="solved", filter="all", epsilon_eta=0.1)]
    ]
    torch.testing.assert_close(steps[0].weights, steps[1].weights, atol=1e-8, rtol=0)
    assert steps[1].diagnostics["e_step/kl"].item() == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("kept", [0.5, 1.0])
def test_vmpo_s_temperature_may_be_solved(kept):
    """The same method with the minimum of its dual in place of a step towards it; it has no eta to learn."""
    config = AgentConfig(agent="vmpo", temperature="solved", epsilon_eta=0.1, top_k=kept)
    agent = make_agent(config, space(False)).double()
    assert isinstance(agent.temperature, Solved) and not list(agent.temperature.parameters())
    assert config.row == METHODS["vmpo"]._replace(temperature="solved")
    advantages = np.random.default_rng(6).normal(size=60)
    elements = agent.divergence, agent.temperature, agent.filter
    step = e_step(torch.tensor(advantages), torch.zeros(1, 60).double(), torch.ones(60).bool(), *elements)
    support = top_k(advantages, np.ones(60, bool), kept)
    assert step.diagnostics["e_step/eta"].item() == pytest.approx(best_eta(advantages, support, 0.1), rel=1e-4)
    assert step.diagnostics["e_step/kl"].item() == pytest.approx(0.1, rel=1e-5) and step.dual_loss == 0


def test_where_no_temperature_can_be_solved_the_option_is_refused():
    for agent in ("awr", "dar", "rl-em", "topk-dar", "dar-tr", "at-dar"):
        with pytest.raises(ValueError, match="--temperature"):
            AgentConfig(agent=agent, temperature="solved")
    with pytest.raises(ValueError, match="--eta-init has no effect"):
        AgentConfig(agent="vmpo", temperature="solved", eta_init=0.3)


def test_a_budget_that_cannot_be_spent_leaves_the_best_sample():
    advantages = torch.tensor([0.1, 0.3, 0.2, -1.0]).double()
    elements = gempi(temperature="solved", filter="all", epsilon_eta=10.0)
    step = e_step(advantages, torch.zeros(1, 4).double(), torch.ones(4).bool(), *elements)
    torch.testing.assert_close(step.weights, torch.tensor([0.0, 1.0, 0.0, 0.0]).double())


def gempi(**options) -> tuple:
    """Divergence, temperature and filter of --agent gempi."""
    agent = make_agent(AgentConfig(agent="gempi", **options), space(False)).double()
    return agent.divergence, agent.temperature, agent.filter


@pytest.mark.parametrize("epsilons", [(0.3, 0.2), (0.02, 5.0)], ids=["both bind", "one is slack"])
def test_two_budgets(epsilons):
    """AT-DAR: at the fixed point a budget binds, or its coefficient has gone to 0."""
    advantages, bases = problem(9, anchors=2)
    temperature = Dual(*((0.5, epsilon) for epsilon in epsilons)).double()
    descend(temperature, advantages, bases, KL(), steps=3000)
    coefficients = temperature().detach().numpy()
    weights, divergences = target("kl", advantages, bases, coefficients)
    for coefficient, kl, epsilon in zip(coefficients, divergences, epsilons, strict=True):
        assert kl <= epsilon * 1.1  # the slack one's coefficient is on its way to 0 still
        assert kl == pytest.approx(epsilon, rel=0.1) or coefficient < 0.02
    constraints = [{"type": "eq", "fun": lambda w: w.sum() - 1}] + [
        {"type": "ineq", "fun": lambda w, b=b, e=e: e - divergence("kl", np.maximum(w, 1e-15), b)}
        for b, e in zip(bases, epsilons, strict=True)
    ]
    options = {"ftol": 1e-14, "maxiter": 2000}
    start = np.full(7, 1 / 7)
    best = minimize(lambda w: -w @ advantages, start, bounds=[(0, 1)] * 7, constraints=constraints, options=options).x
    assert weights @ advantages == pytest.approx(best @ advantages, abs=1e-2)


def descend(temperature: Dual, advantages, bases, divergence_: Divergence, steps: int = 1500) -> None:
    optimiser = torch.optim.Adam(temperature.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.997)
    mask = torch.ones(len(advantages), dtype=torch.bool)
    ratios, names = ratios_of(bases), ["x"] * len(bases)
    for _ in range(steps):
        optimiser.zero_grad()
        e_step(torch.tensor(advantages), ratios, mask, divergence_, temperature, All(), names).dual_loss.backward()
        optimiser.step()
        schedule.step()


# Methods


def weights_of(agent: str, ratios: np.ndarray, advantages: np.ndarray, **options) -> np.ndarray:
    """Return the weights of `--agent agent`, where pi_ref has log-ratios `ratios` to pi_t."""
    config = AgentConfig(agent=agent, **options)
    method = make_agent(config, space(False)).double()
    log_ratios = torch.tensor(np.stack([ratios if name == "reference" else 0 * ratios for name in method.row.anchors]))
    mask = torch.ones(len(advantages), dtype=torch.bool)
    elements = method.divergence, method.temperature, method.filter, method.row.anchors
    return e_step(torch.tensor(advantages), log_ratios, mask, *elements).weights.numpy()


def test_dar_becomes_vmpo():
    """GEMPI section 8: where pi_ref is pi_t, at eta = alpha + beta, and as alpha goes to 0."""
    rng = np.random.default_rng(0)
    advantages, ratios = rng.normal(size=50), rng.normal(size=50)
    vmpo = weights_of("vmpo", ratios, advantages, top_k=1.0, eta_init=0.75)
    dar = weights_of("dar", 0 * ratios, advantages, lambda_reference=0.25, lambda_behaviour=0.5)
    np.testing.assert_allclose(dar, vmpo, atol=1e-7)  # eta passes through a float32 softplus
    awr = weights_of("awr", ratios, advantages, lambda_behaviour=0.75)
    np.testing.assert_allclose(dar, awr, atol=1e-10)
    apart = weights_of("dar", ratios, advantages, lambda_reference=0.25, lambda_behaviour=0.5)
    assert np.abs(apart - awr).max() > 1e-2
    limit = weights_of("dar", ratios, advantages, lambda_reference=1e-12, lambda_behaviour=0.75)
    np.testing.assert_allclose(limit, awr, atol=1e-10)


def test_dar_is_its_closed_form():
    """w proportional to (pi_ref / pi_t)^(alpha / (alpha + beta)) exp(A / (alpha + beta)): divided by pi_t once."""
    rng = np.random.default_rng(1)
    advantages, ratios = rng.normal(size=30), rng.normal(size=30)
    raw = np.exp(0.25 / 0.75 * ratios + advantages / 0.75)
    found = weights_of("dar", ratios, advantages, lambda_reference=0.25, lambda_behaviour=0.5)
    np.testing.assert_allclose(found, raw / raw.sum(), atol=1e-8)
    raw = np.exp(ratios + advantages / 0.25)
    found = weights_of("rl-em", ratios, advantages, lambda_reference=0.25)
    np.testing.assert_allclose(found, raw / raw.sum(), atol=1e-8)


def test_the_new_rows_reduce_to_dar():
    rng = np.random.default_rng(2)
    advantages, ratios = rng.normal(size=50), rng.normal(size=50)
    numbers = {"lambda_reference": 0.25, "lambda_behaviour": 0.5}
    dar = weights_of("dar", ratios, advantages, **numbers)
    np.testing.assert_allclose(weights_of("dar-tr", ratios, advantages, **numbers), dar, atol=1e-12)
    np.testing.assert_allclose(weights_of("topk-dar", ratios, advantages, top_k=1.0, **numbers), dar, atol=1e-12)
    half = weights_of("topk-dar", ratios, advantages, top_k=0.5, **numbers)
    kept = advantages >= np.sort(advantages)[25]
    np.testing.assert_allclose(half, np.where(kept, dar, 0) / dar[kept].sum(), atol=1e-9)
    dual = weights_of("at-dar", ratios, advantages, lambda_reference=0.25, eta_init=0.5)
    np.testing.assert_allclose(dual, dar, atol=1e-7)


@pytest.mark.parametrize("continuous", [False, True])
def test_awr_is_vmpo_without_dual_filter_and_trust_region(continuous):
    """The whole loss and its gradient to the policy."""
    batch = random_batch(3, continuous)
    output, unroll, parameters, _ = to_torch(batch)
    awr = make_agent(AgentConfig(agent="awr", lambda_behaviour=0.6), space(continuous)).double()
    vmpo = make_agent(AgentConfig(agent="vmpo", eta_init=0.6, top_k=1.0), space(continuous)).double()
    one, other = (
        learned(awr, output, unroll, popart()),
        learned(vmpo, output, unroll, popart()),
    )
    torch.testing.assert_close(
        one.metrics["m_step/policy_loss"], other.metrics["m_step/policy_loss"], atol=1e-6, rtol=0
    )
    region = vmpo.trust_region(*policies(output, unroll), unroll.valid)
    (gradient,) = torch.autograd.grad(other.total - one.total - region.loss, parameters)
    assert gradient.abs().max() < 1e-6


def policies(output, unroll):
    return output.policy.like(unroll.policy), rows(output.policy)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("agent", METHODS)
def test_every_row_gives_a_loss(agent, continuous):
    batch = random_batch(4, continuous)
    output, unroll, parameters, _ = to_torch(batch)
    unroll = unroll._replace(reference=unroll.policy.flip(0))
    method = make_agent(AgentConfig(agent=agent, control_variate=0.5), space(continuous)).double()
    loss = learned(method, output, unroll, popart())
    (gradient,) = torch.autograd.grad(loss.total, parameters)
    assert loss.total.isfinite() and gradient.abs().max() > 0
    rows = {"e_step/eta", "e_step/ess", "e_step/chi_square", "e_step/kept", "e_step/log_z", "e_step/max_weight"}
    assert rows <= loss.metrics.keys()
    for name in METHODS[agent].anchors if METHODS[agent].anchors != ("behaviour",) else ():
        assert loss.metrics[f"e_step/kl_{name}"].isfinite()


def test_the_table_is_the_papers():
    """Section 9: anchors, temperature, filter and M-step of every method."""
    both = ("reference", "behaviour")
    assert {name: (*row,) for name, row in METHODS.items()} == {
        "awr": (("behaviour",), "fixed", "all", "none", "kl"),
        "vmpo": (("behaviour",), "dual", "top-k", "dual", "kl"),
        "rl-em": (("reference",), "fixed", "all", "none", "kl"),
        "dar": (both, "fixed", "all", "none", "kl"),
        "at-dar": (both, "dual", "all", "none", "kl"),
        "dar-tr": (both, "fixed", "all", "dual", "kl"),
        "topk-dar": (both, "fixed", "top-k", "none", "kl"),
        "rest-em": (("behaviour",), "flat", "positive", "none", "kl"),
    }


def test_the_agent_divides_the_reference_by_the_behaviour():
    """DAR's loss from numpy: weights (pi_ref / pi_t)^(1/3) exp(A / 0.75) over the valid steps, times -log pi."""
    output, unroll, _, _ = to_torch(random_batch(5, continuous=False))
    reference = torch.randn(unroll.policy.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unroll = unroll._replace(reference=reference)
    config = AgentConfig(agent="dar", lambda_reference=0.25, lambda_behaviour=0.5)
    loss = learned(make_agent(config, space(False)).double(), output, unroll, popart())
    advantages = evaluate_policy(unroll, config.discount, config.gae_lambda).advantages
    logs = [p.log_softmax(-1).gather(-1, unroll.action.unsqueeze(-1)).squeeze(-1) for p in (reference, unroll.policy)]
    raw = ((logs[0] - logs[1]) / 3 + advantages / 0.75).exp()[unroll.valid]
    new = output.policy.logits[:-1].log_softmax(-1).gather(-1, unroll.action.unsqueeze(-1)).squeeze(-1)[unroll.valid]
    expected = -(raw / raw.sum() * new).sum()
    torch.testing.assert_close(loss.metrics["m_step/policy_loss"], expected.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("region", ["dual", "penalty"])
def test_the_trust_region_runs_in_the_direction_asked_for(region):
    output, unroll, _, _ = to_torch(random_batch(6, continuous=False))
    old, new = policies(output, unroll)
    for name, kl in (("forward", old.kl(new)), ("reverse", new.kl(old))):
        config = AgentConfig(agent="gempi", trust_region=region, trust_region_kl=name)
        metrics = learned(make_agent(config, space(False)).double(), output, unroll, popart()).metrics
        torch.testing.assert_close(metrics["m_step/kl"], kl[unroll.valid].mean().detach())


@pytest.mark.parametrize("reverse", [False, True])
def test_the_parts_of_a_gaussian_s_kl_add_up_and_do_not_mix(reverse):
    torch.manual_seed(0)
    old = Gaussian(torch.randn(5, 3).double(), torch.rand(5, 3).double() + 0.5)
    new = Gaussian(*(torch.tensor(x.numpy() + 0.1 * np.ones_like(x), requires_grad=True) for x in old))
    parts = kl_parts(old, new, reverse)
    if reverse:
        p, q = (torch.distributions.Normal(*x) for x in (new, old))
        torch.testing.assert_close(sum(parts.values()), torch.distributions.kl_divergence(p, q).sum(-1))
    (mean, std), (none_mean, some_std) = (
        torch.autograd.grad(parts[part].sum(), tuple(new), allow_unused=True) for part in ("mu", "sigma")
    )
    assert mean.abs().min() > 0 and std is None
    assert none_mean is None and some_std.abs().min() > 0


def test_positive_advantages_alone():
    advantages = torch.tensor([-1.0, 0.0, 2.0, 3.0, 4.0])
    mask = torch.tensor([True, True, True, False, True])
    step = e_step(advantages, torch.zeros(1, 5), mask, KL(), Fixed(1.0), Positive())
    assert (step.weights > 0).tolist() == [False, False, True, False, True]
    none = e_step(-advantages.abs(), torch.zeros(1, 5), mask, KL(), Fixed(1.0), Positive())
    assert not none.weights.any() and none.dual_loss == 0


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_flat_temperature_weighs_kept_samples_as_the_anchor_does(name):
    advantages, (base,) = problem(3, n=12)
    base[2] *= 3
    mask, kept = torch.ones(12, dtype=torch.bool), advantages > 0
    step = e_step(torch.tensor(advantages), ratios_of(base[None]), mask, DIVERGENCES[name], Flat(()), Positive())
    np.testing.assert_allclose(step.weights.numpy(), np.where(kept, base, 0) / base[kept].sum(), atol=1e-6)
    assert step.dual_loss == 0 and step.diagnostics["e_step/log_z"].isfinite()


def test_a_tuple_of_ones_own():
    config = AgentConfig(agent="gempi", divergence="chi-square", filter="all", trust_region="penalty", gamma=0.5)
    agent = make_agent(config, space(False))
    assert isinstance(agent.divergence, ChiSquare) and isinstance(agent.filter, All)
    assert agent.trust_region.gamma == 0.5 and isinstance(agent.temperature, Dual)
    with pytest.raises(ValueError, match="--top-k has no effect on --agent awr"):
        AgentConfig(agent="awr", top_k=0.3)
    with pytest.raises(ValueError, match="--divergence has no effect on --agent vmpo"):
        AgentConfig(divergence="chi-square")
    assert isinstance(make_agent(AgentConfig(agent="gempi", top_k=0.2), space(False)).filter, TopK)


# The sample and the population


OUTCOMES = np.array([0.5, 0.3, 0.2])  # pi_t
REFERENCE = np.array([0.3, 0.3, 0.4])
ADVANTAGES = np.array([-0.5, 0.2, 1.0])
LAMBDAS = np.array([0.4, 0.6])  # of pi_ref, pi_t


def raw_weights() -> np.ndarray:
    """prod_j pi_j^(lambda_j / Lambda) exp(A / Lambda) / pi_t of each outcome."""
    total = LAMBDAS.sum()
    return (REFERENCE / OUTCOMES) ** (LAMBDAS[0] / total) * np.exp(ADVANTAGES / total)


def over_all_samples(n: int, statistic) -> float:
    """The exact expectation of `statistic`(counts [3]) over n draws from pi_t."""
    counts = np.array([(i, j, n - i - j) for i, j in itertools.product(range(n + 1), repeat=2) if i + j <= n])
    return float(multinomial.pmf(counts, n, OUTCOMES) @ np.array([statistic(c) for c in counts]))


def slope(sizes, biases) -> float:
    return float(np.polyfit(np.log(sizes), np.log(np.abs(biases)), 1)[0])


def test_bias_of_the_partition_function():
    """Z-hat, an average over samples of pi_t, has no bias: the paper's O(1/N) is that of its logarithm, in the dual."""
    raw, sizes = raw_weights(), (8, 16, 32, 64)
    z = OUTCOMES @ raw
    for n in sizes:
        assert over_all_samples(n, lambda c, n=n: c @ raw / n) == pytest.approx(z, rel=1e-10)
    biases = [over_all_samples(n, lambda c, n=n: math.log(c @ raw / n)) - math.log(z) for n in sizes]
    assert all(bias < 0 for bias in biases) and slope(sizes, biases) == pytest.approx(-1, abs=0.1)


def test_bias_of_self_normalised_weights():
    """E_q[A] by e_step's weights: biased by O(1/N), and the weights themselves tend to q* / pi_t."""
    raw, sizes = raw_weights(), (8, 16, 32, 64)
    target_ = OUTCOMES * raw / (OUTCOMES @ raw)
    biases = [over_all_samples(n, lambda c: c @ (raw * ADVANTAGES) / (c @ raw)) - target_ @ ADVANTAGES for n in sizes]
    assert slope(sizes, biases) == pytest.approx(-1, abs=0.1)

    n = 200_000
    drawn = np.random.default_rng(0).choice(3, size=n, p=OUTCOMES)
    log_ratios = torch.tensor(np.log(np.stack([REFERENCE, OUTCOMES]) / OUTCOMES)[:, drawn])
    temperature = Fixed(*LAMBDAS).double()
    mask, names = torch.ones(n, dtype=torch.bool), ("reference", "behaviour")
    step = e_step(torch.tensor(ADVANTAGES[drawn]), log_ratios, mask, KL(), temperature, All(), names)
    weights = n * step.weights.numpy()
    for outcome in range(3):
        expected = target_[outcome] / OUTCOMES[outcome]
        np.testing.assert_allclose(weights[drawn == outcome], expected, rtol=0.01)


def test_effective_sample_size_is_that_of_the_chi_square():
    raw, n = raw_weights(), 100_000
    target_ = OUTCOMES * raw / (OUTCOMES @ raw)
    chi_square = np.sum(target_**2 / OUTCOMES) - 1
    drawn = np.random.default_rng(1).choice(3, size=n, p=OUTCOMES)
    log_ratios = torch.tensor(np.log(np.stack([REFERENCE, OUTCOMES]) / OUTCOMES)[:, drawn])
    mask = torch.ones(n, dtype=torch.bool)
    elements = KL(), Fixed(*LAMBDAS).double(), All(), ("reference", "behaviour")
    found = e_step(torch.tensor(ADVANTAGES[drawn]), log_ratios, mask, *elements).diagnostics
    assert found["e_step/ess"].item() == pytest.approx(n / (1 + chi_square), rel=0.02)
    assert found["e_step/chi_square"].item() == pytest.approx(chi_square, rel=0.05)
    assert found["e_step/ess"].item() == pytest.approx(n / (1 + found["e_step/chi_square"].item()), rel=1e-9)


def test_what_a_filter_leaves_out_counts_as_weight_zero():
    """Half of 6 valid samples kept, alike: chi-square to pi_t = 6 sum w^2 - 1 = 1, of 8 places in all."""
    advantages = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 9.0, 9.0])
    mask = torch.tensor([True] * 6 + [False] * 2)
    found = e_step(advantages, torch.zeros(1, 8), mask, KL(), Fixed(1.0), TopK(0.5)).diagnostics
    expected = {"chi_square": 1, "ess": 3, "ess_share": 1, "kept": 0.5, "kl": 0, "max_weight": 1 / 3}
    for name, value in expected.items():
        assert found[f"e_step/{name}"].item() == pytest.approx(value, abs=1e-6), name
