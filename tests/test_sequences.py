"""Learning rules on sequences against brute force: weights, losses, KLs, baselines, and a language model's tokens."""

import itertools
import math
from functools import cache, wraps
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import networks.language
from agents.returns import standardise
from agents.sequences.baselines import MovingAverage, batch_mean, group_mean, leave_one_out
from agents.sequences.config import SequenceConfig
from agents.sequences.factory import make_sequence_agent
from agents.sequences.kl import SampledTokens
from agents.sequences.types import Samples
from agents.sequences.value import PromptValue
from networks.language import (
    Prompts,
    prompt_features,
    sample,
    selected_log_softmax,
    token_log_probs,
)

N, C = 9, 5
EMPTY = 3
"""A sample without tokens, whose advantage would be the best by far."""


def draws(seed: int, empty: bool = True, junk: float = 1e30) -> Samples:
    """N completions of different lengths, `junk` off the mask."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, C + 1, size=N)
    advantages = rng.normal(size=N)
    if empty:
        lengths[EMPTY], advantages[EMPTY] = 0, 1e3
    mask = np.arange(C) < lengths[:, None]
    behaviour = np.where(mask, -rng.exponential(size=(N, C)), junk)
    reference = np.where(mask, -rng.exponential(size=(N, C)), -junk)
    return Samples(*map(torch.tensor, (mask, behaviour, reference, advantages)))


def moved(samples: Samples, seed: int, spread: float = 0.3, junk: float = 7.0) -> np.ndarray:
    """log pi [N, C] of a policy near pi_t, `junk` off the mask."""
    step = spread * np.random.default_rng(seed).normal(size=samples.mask.shape)
    return np.where(samples.mask.numpy(), samples.behaviour.numpy() + step, junk)


def agent_of(method: str, **options):
    return make_sequence_agent(SequenceConfig(method=method, **options)).double()


def whole(log_prob, mask) -> np.ndarray:
    """[N]: the log-probability of each sequence."""
    log_prob, mask = np.asarray(log_prob), np.asarray(mask)
    return np.array([sum(log_prob[i, t] for t in range(C) if mask[i, t]) for i in range(len(mask))])


def normal(log_weights: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """exp(log_weights) over the kept samples, divided by their sum."""
    weights = np.array([math.exp(x) if k else 0.0 for x, k in zip(log_weights, kept, strict=True)])
    return weights / weights.sum()


def best(samples: Samples, rho: float) -> np.ndarray:
    """[N] bool: the max(1, floor(rho n)) best of the n samples that have tokens."""
    real = np.flatnonzero(samples.mask.numpy().any(1))
    order = sorted(real, key=lambda i: -samples.advantages[i])
    return np.isin(np.arange(len(samples.mask)), order[: max(1, math.floor(rho * len(real)))])


def step(agent, samples: Samples, fitted, compared=None, parts=None):
    """The loss and metrics of a step, added over `parts` (index arrays); gradients of `fitted`, `compared`."""
    leaf = torch.tensor(fitted, requires_grad=True)
    other = leaf if compared is None else torch.tensor(compared, requires_grad=True)
    plan = agent.plan(samples)
    tokens = samples.mask[plan.kept].sum()
    parts = [np.flatnonzero(plan.kept)] if parts is None else parts
    losses = [
        agent.loss(leaf[i], other[i], samples.of(torch.tensor(i)), plan.weights[torch.tensor(i)], tokens) for i in parts
    ]
    total = sum(part.loss for part in losses)
    gradients = torch.autograd.grad(total, (leaf, other), allow_unused=True, materialize_grads=True)
    metrics = {name: sum(float(part.metrics[name]) for part in losses) for name in losses[0].metrics}
    return total.item(), [g.numpy() for g in gradients], metrics, plan.weights.numpy()


# ---------------------------------------------------------------------------------------------- E-step

ALPHA, BETA = 0.3, 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "method, options, base, temperature, rho",
    [
        ("awr", {"lambda_behaviour": BETA}, 0, BETA, None),
        ("rl-em", {"lambda_reference": BETA}, 1, BETA, None),
        ("dar", {"lambda_reference": ALPHA, "lambda_behaviour": BETA}, ALPHA / (ALPHA + BETA), ALPHA + BETA, None),
        ("dar-tr", {"lambda_reference": ALPHA, "lambda_behaviour": BETA}, ALPHA / (ALPHA + BETA), ALPHA + BETA, None),
        ("at-dar", {"lambda_reference": ALPHA, "eta_init": BETA}, ALPHA / (ALPHA + BETA), ALPHA + BETA, None),
        (
            "topk-dar",
            {"lambda_reference": ALPHA, "lambda_behaviour": BETA, "top_k": 0.4},
            ALPHA / (ALPHA + BETA),
            ALPHA + BETA,
            0.4,
        ),
        ("vmpo", {"eta_init": BETA, "top_k": 0.5}, 0, BETA, 0.5),
        ("vmpo", {"eta_init": BETA, "top_k": 0.0}, 0, BETA, 0.0),
        ("vmpo", {"eta_init": BETA, "top_k": 0.3}, 0, BETA, 0.3),
    ],
)
def test_weights_are_ratios_of_whole_sequences_times_exponentials(seed, method, options, base, temperature, rho):
    samples = draws(seed)
    plan = agent_of(method, **options).plan(samples)
    real = samples.mask.numpy().any(1)
    ratio = whole(samples.reference, samples.mask) - whole(samples.behaviour, samples.mask)
    kept = real if rho is None else best(samples, rho)
    expected = normal(base * ratio + samples.advantages.numpy() / temperature, kept)
    np.testing.assert_allclose(plan.weights.numpy(), expected, rtol=1e-6, atol=1e-12)
    assert plan.weights.sum().item() == pytest.approx(1, abs=1e-9)
    assert plan.weights[EMPTY] == 0 and not plan.kept[EMPTY]
    assert plan.metrics["e_step/kept"].item() == pytest.approx(kept.sum() / real.sum())
    assert plan.metrics["e_step/chi_square"].item() == pytest.approx(real.sum() * (expected**2).sum() - 1)
    bounded = method in ("vmpo", "dar-tr")  # a trust region needs the samples of no weight, too
    np.testing.assert_array_equal(plan.kept.numpy(), real if bounded else kept)
    assert not plan.weights.requires_grad


@pytest.mark.parametrize("method", ["awr", "dar", "rl-em", "vmpo", "dar-tr", "at-dar", "topk-dar", "sft", "ppo"])
def test_what_stands_off_the_mask_changes_no_plan(method):
    one, other = agent_of(method).plan(draws(0)), agent_of(method).plan(draws(0, junk=-3.0))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_an_empty_sample_is_as_good_as_none():
    samples = draws(1)
    there = torch.arange(N) != EMPTY
    for method in ("awr", "dar", "vmpo", "at-dar", "sft", "ppo"):
        agent = agent_of(method)
        one, other = agent.plan(samples), agent.plan(samples.of(there))
        torch.testing.assert_close(one.weights[there], other.weights)
        torch.testing.assert_close(one.loss, other.loss)
        torch.testing.assert_close(one.metrics, other.metrics)


@pytest.mark.parametrize("bound", [0.5, 1.5, 3.0, 20.0])
def test_weights_are_clipped_at_a_multiple_of_the_mean_weight(bound):
    samples = draws(2)
    options = {"lambda_reference": 0.2, "lambda_behaviour": 0.5}
    free = agent_of("dar", **options).plan(samples)
    plan = agent_of("dar", max_weight=bound, **options).plan(samples)
    n = samples.mask.any(1).sum().item()
    assert n == N - 1
    np.testing.assert_allclose(plan.weights.numpy(), np.minimum(free.weights.numpy(), bound / n), rtol=1e-6)
    assert (n * plan.weights <= bound + 1e-6).all()
    assert plan.metrics["e_step/saturated"].item() == pytest.approx((n * free.weights.numpy() > bound).sum() / n)
    assert "e_step/saturated" not in free.metrics


def test_dar_without_a_pull_to_the_reference_is_awr():
    samples = draws(3)
    same = samples._replace(reference=samples.behaviour)
    awr = agent_of("awr", lambda_behaviour=ALPHA + BETA).plan(same).weights
    dar = agent_of("dar", lambda_reference=ALPHA, lambda_behaviour=BETA).plan(same).weights
    torch.testing.assert_close(dar, awr, rtol=1e-6, atol=0)
    awr = agent_of("awr", lambda_behaviour=BETA).plan(samples).weights
    far = agent_of("dar", lambda_reference=ALPHA, lambda_behaviour=BETA).plan(samples).weights
    near = agent_of("dar", lambda_reference=1e-8, lambda_behaviour=BETA).plan(samples).weights
    torch.testing.assert_close(near, awr, rtol=1e-6, atol=0)
    assert (far - awr).abs().max() > 0.01


# ---------------------------------------------------------------------------------------------- duals


def central_difference(parameter: nn.Parameter, function, h: float = 1e-5) -> float:
    start = parameter.item()
    values = []
    for x in (start + h, start - h):
        parameter.data.fill_(x)
        values.append(function())
    parameter.data.fill_(start)
    return (values[0] - values[1]) / (2 * h)


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("eta", [0.2, 1.0, 8.0])
def test_vmpos_dual_loss_and_its_gradient(eta, rho):
    samples, epsilon = draws(4), 0.07
    agent = agent_of("vmpo", eta_init=eta, top_k=rho, epsilon_eta=epsilon)
    advantages = samples.advantages.numpy()[best(samples, rho)]

    def dual() -> float:
        eta = agent.temperature().item()
        return eta * epsilon + eta * math.log(sum(math.exp(a / eta) for a in advantages) / len(advantages))

    loss = agent.plan(samples).loss
    assert agent.temperature().item() == pytest.approx(eta, rel=1e-5)
    assert loss.shape == () and loss.item() == pytest.approx(dual(), rel=1e-6)
    (parameter,) = agent.temperature.parameters()
    loss.backward()
    assert parameter.grad.item() == pytest.approx(central_difference(parameter, dual), rel=1e-4, abs=1e-7)


def test_the_dual_loss_of_two_anchors_and_its_gradient():
    samples, budgets = draws(5), (0.05, 0.3)
    options = {"epsilon_reference": budgets[0], "epsilon_eta": budgets[1], "lambda_reference": 0.4, "eta_init": 0.8}
    agent = agent_of("at-dar", **options)
    real = samples.mask.numpy().any(1)
    ratio = whole(samples.reference, samples.mask) - whole(samples.behaviour, samples.mask)
    to_reference, to_behaviour = normal(ratio, real)[real], normal(0 * ratio, real)[real]
    advantages = samples.advantages.numpy()[real]

    def dual() -> float:
        alpha, beta = agent.temperature().tolist()
        total = alpha + beta
        mass = to_reference ** (alpha / total) * to_behaviour ** (beta / total) * np.exp(advantages / total)
        return alpha * budgets[0] + beta * budgets[1] + total * math.log(mass.sum())

    loss = agent.plan(samples).loss
    assert agent.temperature().tolist() == pytest.approx([0.4, 0.8], rel=1e-5)
    assert loss.item() == pytest.approx(dual(), rel=1e-6)
    loss.backward()
    for parameter in agent.temperature.parameters():
        assert parameter.grad.item() == pytest.approx(central_difference(parameter, dual), rel=1e-4)


@pytest.mark.parametrize("method", ["awr", "dar", "dar-tr", "topk-dar", "rl-em", "sft", "dpo", "ppo"])
def test_methods_of_fixed_coefficients_have_no_dual_loss(method):
    samples = draws(0)
    even = samples.of(torch.arange(len(samples.mask) // 2 * 2))  # dpo's come in pairs
    assert agent_of(method).plan(even).loss == 0


# ---------------------------------------------------------------------------------------------- M-step


@pytest.mark.parametrize("method", ["awr", "dar", "rl-em", "at-dar", "topk-dar", "sft"])
def test_the_m_step_is_weighted_likelihood(method):
    samples = draws(6)
    fitted = moved(samples, 0)
    loss, (gradient, _), metrics, weights = step(agent_of(method), samples, fitted, parts=[np.arange(N)])
    expected = -sum(w * x for w, x in zip(weights, whole(fitted, samples.mask), strict=True))
    assert loss == pytest.approx(expected, rel=1e-9)
    assert metrics["m_step/policy_loss"] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_array_equal(gradient, np.where(samples.mask, -weights[:, None], 0))
    other = np.where(samples.mask, fitted, -1e30)
    again, (gradient_again, _), _, _ = step(agent_of(method), samples, other, parts=[np.arange(N)])
    assert again == loss and np.array_equal(gradient_again, gradient)


REGIONS = {
    "vmpo": ("vmpo", {}),
    "vmpo-reverse": ("vmpo", {"trust_region_kl": "reverse"}),
    "dar-tr": ("dar-tr", {}),
    "penalty": ("gempi", {"anchors": "both", "temperature": "fixed", "filter": "all", "trust_region": "penalty"}),
}


@pytest.mark.parametrize("name", REGIONS)
def test_a_trust_region_pulls_each_token_back(name):
    method, options = REGIONS[name]
    options = options | ({"gamma": 5.0} if name == "penalty" else {"alpha_init": 5.0})
    samples = draws(7, junk=-2.0)
    fitted, compared = moved(samples, 1), moved(samples, 2)
    _, (likelihood, pull), metrics, weights = step(agent_of(method, **options), samples, fitted, compared)
    mask, log_rho = samples.mask.numpy(), compared - samples.behaviour.numpy()
    np.testing.assert_allclose(likelihood, np.where(mask, -weights[:, None], 0))
    rho = np.exp(np.where(mask, log_rho, 0))
    slope = rho * log_rho if "reverse" in name else rho - 1
    np.testing.assert_allclose(pull, np.where(mask, 5.0 * slope / mask.sum(), 0), rtol=1e-5, atol=1e-12)
    assert metrics["m_step/kl"] > 0
    _, (_, still), metrics, _ = step(agent_of(method, **options), samples, fitted, samples.behaviour.numpy())
    assert np.all(still == 0) and metrics["m_step/kl"] == 0


@pytest.mark.parametrize("method", ["vmpo", "dar-tr"])
@pytest.mark.parametrize("spread", [0.01, 1.0])
def test_alpha_rises_where_the_kl_exceeds_its_budget(method, spread):
    samples, epsilon, start = draws(8), 0.02, 2.0
    agent = agent_of(method, epsilon_alpha=epsilon, alpha_init=start)
    fitted = moved(samples, 3, spread)
    plan = agent.plan(samples)
    leaf = torch.tensor(fitted)
    part = agent.loss(leaf, leaf, samples, plan.weights, samples.mask.sum())
    (alpha,) = agent.trust_region.parameters()
    (gradient,) = torch.autograd.grad(part.loss, alpha)
    kl = part.metrics["m_step/kl"].item()
    assert part.metrics["m_step/alpha"].item() == pytest.approx(start, rel=1e-5)
    assert (kl > epsilon) == (spread == 1.0)
    assert (gradient < 0) == (kl > epsilon)  # descent on it raises alpha
    slope = 1 - math.exp(-start)  # of softplus, where it equals alpha
    assert gradient.item() == pytest.approx(slope * (epsilon - kl), rel=1e-4)
    likelihood = part.metrics["m_step/policy_loss"].item()
    assert part.loss.item() == pytest.approx(likelihood + start * (epsilon - kl) + start * kl, rel=1e-5)


RULES = {
    "sft": ("sft", {}),
    "awr": ("awr", {}),
    "topk-dar": ("topk-dar", {}),
    "dar, clipped": ("dar", {"max_weight": 1.2}),
    "vmpo": ("vmpo", {}),
    "dar-tr": ("dar-tr", {"trust_region_kl": "reverse"}),
    "penalty": REGIONS["penalty"],
    "ppo, sequence": ("ppo", {"kl_coefficient": 0.7}),
    "ppo, token": ("ppo", {"ratio": "token", "kl_coefficient": 0.7}),
    "dpo": ("dpo", {"dpo_beta": 0.5}),
}


@pytest.mark.parametrize("rule", RULES)
def test_losses_and_metrics_of_parts_add_up(rule):
    method, options = RULES[rule]
    samples = draws(9, empty=method != "dpo", junk=-1.0)
    samples = samples.of(torch.arange(N - 1))
    fitted, compared = moved(samples, 4), moved(samples, 5)
    agent = agent_of(method, **options)
    loss, gradients, metrics, weights = step(agent, samples, fitted, compared)
    rng = np.random.default_rng(0)
    kept = agent.plan(samples).kept.numpy()
    units = np.arange(N - 1).reshape(-1, 2) if agent.pairs else np.flatnonzero(kept)[:, None]
    for cuts in ([1], [1, 2], list(range(1, len(units)))):
        parts = [part.flatten() for part in np.split(rng.permutation(units), cuts)]
        again, gradients_again, metrics_again, _ = step(agent, samples, fitted, compared, parts)
        assert again == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(gradients_again, gradients, rtol=1e-6, atol=1e-9)
        assert metrics_again == pytest.approx(metrics, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("rule", ["vmpo", "dar-tr", "penalty", "ppo, sequence", "ppo, token"])
@pytest.mark.parametrize("junk", [-1e3, 1e30, math.inf])
def test_what_stands_off_the_mask_reaches_no_parameter(rule, junk):
    method, options = RULES[rule]
    agent, found = agent_of(method, **options), []
    for samples in (draws(16, junk=-1.0), draws(16, junk=junk)):
        leaf = torch.tensor(moved(samples, 4), requires_grad=True)
        fitted = torch.where(samples.mask, leaf, 0)  # as a model's log-probabilities come
        part = agent.loss(fitted, fitted, samples, agent.plan(samples).weights, samples.mask.sum())
        found.append((part.loss.detach(), torch.autograd.grad(part.loss, leaf)[0], part.metrics))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_sft_is_cross_entropy():
    rng = np.random.default_rng(0)
    drawn = draws(10, empty=False)
    for dtype, within in ((torch.float64, 1e-7), (torch.float32, 1e-6)):
        logits = torch.tensor(2 * rng.normal(size=(N, C, 7)), dtype=dtype, requires_grad=True)
        tokens = torch.tensor(rng.integers(7, size=(N, C)))
        samples = Samples(drawn.mask, *(x.to(dtype) for x in drawn[1:]))
        targets = torch.where(samples.mask, tokens, -100)
        expected = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=-100) / N
        selected = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        fitted = selected if dtype == torch.float64 else selected_log_softmax(logits, tokens)
        for agent in (agent_of("sft"), agent_of("awr", lambda_behaviour=1e9)):  # which is uniform weights, too
            plan = agent.plan(samples)
            part = agent.loss(fitted, fitted, samples, plan.weights, samples.mask.sum())
            torch.testing.assert_close(part.loss, expected, rtol=within, atol=0)
            ours, theirs = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (part.loss, expected))
            torch.testing.assert_close(ours, theirs, rtol=10 * within, atol=within / 10)
        sft = agent_of("sft")
        metrics = sft.loss(fitted, fitted, samples, sft.plan(samples).weights, samples.mask.sum()).metrics
        per_token = expected.item() * N / samples.mask.sum().item()
        assert metrics["m_step/token_loss"].item() == pytest.approx(per_token, rel=1e-6)


# ---------------------------------------------------------------------------------------------- KL of sampled tokens


@pytest.mark.parametrize("seed", range(3))
def test_sampled_kls_are_unbiased_and_not_negative(seed):
    rng = np.random.default_rng(seed)
    log_old, log_new = (torch.tensor(1.5 * rng.normal(size=7)).log_softmax(0) for _ in range(2))
    p, q = log_old.exp().numpy(), log_new.exp().numpy()
    old, new = SampledTokens(log_old.unsqueeze(1), drew=True), SampledTokens(log_new.unsqueeze(1), drew=False)
    forward, reverse = old.kl(new).squeeze(1).numpy(), new.kl(old).squeeze(1).numpy()
    expected_forward = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected_reverse = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert (p * forward).sum() == pytest.approx(expected_forward, rel=1e-9)
    assert (p * reverse).sum() == pytest.approx(expected_reverse, rel=1e-9)
    assert abs(expected_forward - expected_reverse) > 1e-3
    assert np.all(forward >= 0) and np.all(reverse >= 0)


def test_sampled_kls_vanish_with_their_gradients_at_the_old_policy():
    log_old = torch.randn(7, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(0)
    leaf = log_old.clone().requires_grad_()
    old, new = SampledTokens(log_old, drew=True), SampledTokens(leaf, drew=False)
    for estimate in (old.kl(new), new.kl(old)):
        assert torch.all(estimate == 0)
        assert torch.all(torch.autograd.grad(estimate.sum(), leaf)[0] == 0)


def test_sampled_kls_of_small_moves_are_exact_in_float32():
    move = torch.tensor([1e-5, -1e-5, 3e-4, -3e-4, 0.01, -0.01])
    old, new = SampledTokens(torch.zeros(6), drew=True), SampledTokens(move, drew=False)
    x = move.double().numpy()
    for estimate, cube in ((old.kl(new), x**3 / 6), (new.kl(old), x**3 / 3)):
        assert torch.all(estimate >= 0)
        np.testing.assert_allclose(estimate.numpy(), x**2 / 2 + cube, rtol=0.05)  # its Taylor series


# ---------------------------------------------------------------------------------------------- PPO


def surrogate(samples: Samples, log_prob: np.ndarray, epsilon: float, ratio: str) -> dict[str, float]:
    """PPO's loss and what it reports, one ratio at a time."""
    mask, old, advantages = (x.numpy() for x in (samples.mask, samples.behaviour, samples.advantages))
    terms, squares, outside, kl = [], [], [], []
    for i in range(len(mask)):
        logs = [log_prob[i, t] - old[i, t] for t in range(C) if mask[i, t]]
        kl += [math.exp(x) - 1 - x for x in logs]
        for x in logs if ratio == "token" else [sum(logs)] if logs else []:
            rho = math.exp(x)
            terms.append(min(rho * advantages[i], min(max(rho, 1 - epsilon), 1 + epsilon) * advantages[i]))
            squares.append((rho - 1) ** 2)
            outside.append(rho > 1 + epsilon or rho < 1 - epsilon)
    return {
        "m_step/policy_loss": -np.mean(terms),
        "m_step/ratio_variance": np.mean(squares),
        "m_step/clipped": np.mean(outside),
        "m_step/kl": np.mean(kl),
    }


@pytest.mark.parametrize("coefficient", [0.0, 0.6])
@pytest.mark.parametrize("epsilon", [0.1, 0.3])
@pytest.mark.parametrize("ratio", ["sequence", "token"])
def test_ppos_surrogate(ratio, epsilon, coefficient):
    samples = draws(11, junk=-1.0)
    compared = moved(samples, 6, 0.2)
    agent = agent_of("ppo", ratio=ratio, clip_epsilon=epsilon, kl_coefficient=coefficient)
    loss, (of_fitted, gradient), metrics, _ = step(agent, samples, 0 * compared, compared)
    expected = surrogate(samples, compared, epsilon, ratio)
    assert metrics == pytest.approx(expected, rel=1e-6)
    assert loss == pytest.approx(expected["m_step/policy_loss"] + coefficient * expected["m_step/kl"], rel=1e-6)
    assert 0 < expected["m_step/clipped"] < 1
    assert np.all(of_fitted == 0)

    def total(x: float, i: int, t: int) -> float:
        there = compared.copy()
        there[i, t] += x
        values = surrogate(samples, there, epsilon, ratio)
        return values["m_step/policy_loss"] + coefficient * values["m_step/kl"]

    for i, t in itertools.product(range(N), range(C)):
        slope = (total(1e-6, i, t) - total(-1e-6, i, t)) / 2e-6
        assert gradient[i, t] == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("ratio", ["sequence", "token"])
def test_ppo_at_the_old_policy_is_the_policy_gradient(ratio):
    samples = draws(12)
    mask, advantages = samples.mask.numpy(), samples.advantages.numpy()
    agent = agent_of("ppo", ratio=ratio, kl_coefficient=0.5)
    at_old = np.where(mask, samples.behaviour.numpy(), 0.0)
    behaviour = samples._replace(behaviour=torch.tensor(np.where(mask, at_old, -4.0)))
    loss, (gradient, _), metrics, _ = step(agent, behaviour, at_old)
    count = N - 1 if ratio == "sequence" else mask.sum()
    lengths = mask.any(1) if ratio == "sequence" else mask.sum(1)
    assert loss == pytest.approx(-(lengths * advantages).sum() / count)
    np.testing.assert_allclose(gradient, np.where(mask, -advantages[:, None] / count, 0), rtol=1e-7)
    assert metrics["m_step/ratio_variance"] == metrics["m_step/clipped"] == metrics["m_step/kl"] == 0


@pytest.mark.parametrize("ratio", ["sequence", "token"])
def test_clipped_ratios_have_no_gradient(ratio):
    old = torch.full((4, 1), -3.0, dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    samples = Samples(torch.ones(4, 1, dtype=torch.bool), old, old, advantages)
    moves = np.array([[0.5], [-0.5], [-0.5], [0.5]])  # two with their advantages, two against them
    _, (gradient, _), metrics, _ = step(agent_of("ppo", ratio=ratio), samples, old.numpy() + moves)
    expected = [0, 0, -math.exp(-0.5) / 4, math.exp(0.5) / 4]
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-12)
    assert metrics["m_step/clipped"] == 1


@pytest.mark.parametrize("advantage", [1.0, 0.0])
def test_a_ratio_beyond_the_range_of_floats_is_clipped(advantage):
    old = torch.full((2, 200), -1.0)
    samples = Samples(torch.ones(2, 200, dtype=torch.bool), old, old, torch.tensor([advantage, 1.0]))
    moves = np.repeat(np.float32([[0.5], [0.0]]), 200, 1)  # a ratio of e^100, and one of 1
    loss, (gradient, _), _, _ = step(make_sequence_agent(SequenceConfig(method="ppo")), samples, old.numpy() + moves)
    assert loss == pytest.approx(-(1.2 * advantage + 1) / 2)
    np.testing.assert_allclose(gradient, np.repeat([[0.0], [-0.5]], 200, 1))


# ---------------------------------------------------------------------------------------------- DPO


def test_dpos_loss_and_gradient():
    samples, beta, pairs = draws(17, empty=False).of(torch.arange(8)), 0.7, 4
    fitted = moved(samples, 7)
    mask = samples.mask.numpy()
    implicit = beta * (whole(fitted, mask) - whole(samples.reference, mask))
    margins = [implicit[2 * j] - implicit[2 * j + 1] for j in range(pairs)]
    wrong = [1 / (1 + math.exp(m)) for m in margins]  # sigmoid(-margin)
    loss, (gradient, _), metrics, _ = step(agent_of("dpo", dpo_beta=beta), samples, fitted)
    assert loss == pytest.approx(sum(-math.log(1 - w) for w in wrong) / pairs, rel=1e-9)
    for i in range(8):
        slope = (1 if i % 2 else -1) * beta * wrong[i // 2] / pairs
        np.testing.assert_allclose(gradient[i], np.where(mask[i], slope, 0), rtol=1e-9)
    assert metrics["m_step/policy_loss"] == pytest.approx(loss)
    assert metrics["m_step/margin"] == pytest.approx(np.mean(margins))
    assert metrics["m_step/accuracy"] == pytest.approx(np.mean([m > 0 for m in margins]))
    assert 0 < metrics["m_step/accuracy"] < 1


def test_dpo_at_the_reference_is_log_two():
    samples = draws(14, empty=False).of(torch.arange(8))
    loss, _, metrics, _ = step(agent_of("dpo"), samples, samples.reference.numpy())
    assert loss == pytest.approx(math.log(2), rel=1e-12)
    assert metrics["m_step/margin"] == 0


@pytest.mark.parametrize(
    "method, reference",
    [
        *[(name, False) for name in ("sft", "ppo", "awr", "vmpo")],
        *[(name, True) for name in ("dpo", "rl-em", "dar", "at-dar", "dar-tr", "topk-dar")],
    ],
)
def test_methods_ask_for_the_reference_where_they_use_it(method, reference):
    agent = agent_of(method)
    assert agent.needs_reference == reference and agent.pairs == (method == "dpo")
    samples = draws(15, empty=False).of(torch.arange(8))
    other = samples._replace(reference=samples.reference + torch.linspace(0, 1, 8).unsqueeze(1))
    fitted = moved(samples, 8)
    everything = [np.arange(8)]
    same = step(agent, samples, fitted, parts=everything)[0] == step(agent, other, fitted, parts=everything)[0]
    assert same != reference


# ---------------------------------------------------------------------------------------------- baselines


def test_means_of_groups_and_batches():
    rewards = np.random.default_rng(0).normal(size=(3, 4))
    given = torch.tensor(rewards)
    for b, k in itertools.product(range(3), range(4)):
        assert group_mean(given)[b, k].item() == pytest.approx(sum(rewards[b]) / 4)
        others = [rewards[b, j] for j in range(4) if j != k]
        assert leave_one_out(given)[b, k].item() == pytest.approx(sum(others) / 3)
        assert batch_mean(given)[b, k].item() == pytest.approx(sum(rewards.flatten()) / 12)
    assert torch.all(leave_one_out(given[:, :1]) == 0)


def test_only_leave_one_out_ignores_a_completions_own_reward():
    for outcome in itertools.product([0.0, 1.0], repeat=3):
        for k in range(3):
            flipped = [1 - r if j == k else r for j, r in enumerate(outcome)]
            one, other = torch.tensor([outcome]).double(), torch.tensor([flipped]).double()
            assert leave_one_out(one)[0, k].item() == pytest.approx(leave_one_out(other)[0, k].item(), abs=1e-12)
            assert group_mean(one)[0, k] != group_mean(other)[0, k]


def test_leave_one_out_is_unbiased_and_the_group_mean_shrinks():
    p, k = 0.3, 3  # a Bernoulli policy whose action is its reward: d E[r] / d logit = p (1 - p)
    expected = {group_mean: 0.0, leave_one_out: 0.0}
    for outcome in itertools.product([0.0, 1.0], repeat=k):
        chance = math.prod(p if r else 1 - p for r in outcome)
        rewards = torch.tensor([outcome], dtype=torch.float64)
        for baseline in expected:
            estimate = ((rewards - baseline(rewards)) * (rewards - p)).mean().item()
            expected[baseline] += chance * estimate
    assert expected[leave_one_out] == pytest.approx(p * (1 - p))
    assert expected[group_mean] == pytest.approx(p * (1 - p) * (k - 1) / k)


def test_the_moving_average_is_of_the_batches_before():
    decay, rng = 0.7, np.random.default_rng(1)
    average, copy, means = MovingAverage(decay), MovingAverage(decay), []
    for t in range(6):
        rewards = torch.tensor(5 + rng.normal(size=(2, 3)))
        mean = rewards.mean().item()
        if t == 3:
            copy.set_state(average.get_state())
        if means:
            shares = [decay ** (len(means) - 1 - s) for s in range(len(means))]
            mean = sum(a * m for a, m in zip(shares, means, strict=True)) / sum(shares)
        baseline = average(rewards)
        assert baseline.shape == (2, 3) and baseline.dtype == rewards.dtype
        np.testing.assert_allclose(baseline.numpy(), mean, rtol=1e-9)
        if t >= 3:
            assert torch.equal(copy(rewards), baseline)
        means.append(rewards.mean().item())


def test_standardised_advantages_have_mean_0_and_deviation_1():
    rng = np.random.default_rng(2)
    for scale, shift in ((1.0, 0.0), (1e-3, 0.0), (50.0, 20.0)):
        given = torch.tensor(scale * rng.normal(size=(4, 5)) + shift, dtype=torch.float32)
        out = standardise(given, torch.ones_like(given, dtype=torch.bool))
        assert out.mean().item() == pytest.approx(0, abs=1e-5)
        assert out.std(correction=0).item() == pytest.approx(1, rel=1e-4)
        assert torch.equal(out.flatten().argsort(), given.flatten().argsort())


@pytest.mark.parametrize("value", [0.0, 1.0, 0.7, -3.3])
def test_equal_advantages_become_0(value):
    for shape in ((3, 4), (7, 9)):
        given = torch.full(shape, value)
        assert torch.all(standardise(given, torch.ones_like(given, dtype=torch.bool)) == 0)


def test_small_differences_between_large_rewards_are_standardised():
    given = 100 + torch.tensor([[0.0, 0.01, 0.02, 0.03]])
    out = standardise(given, torch.ones_like(given, dtype=torch.bool))
    assert out.std(correction=0).item() == pytest.approx(1, rel=0.01)


def test_the_value_head_learns_alone():
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rewards = torch.tensor([1.0, 0.0, 2.0, 0.5, -1.0])
    head = PromptValue(3)
    assert torch.all(head(features) == 0) and head(features).shape == (5,)
    loss = head.loss(features, rewards)
    assert loss.item() == pytest.approx(0.5 * np.mean(rewards.numpy() ** 2))
    loss.backward()
    assert features.grad is None
    expected = -(rewards.unsqueeze(1) * features.detach()).mean(0)
    torch.testing.assert_close(head.linear.weight.grad[0], expected)


# ---------------------------------------------------------------------------------------------- language models

VOCABULARY, END = 11, 4
ENDS = torch.tensor([END])
PROMPTS = [[1, 2, 3], [5], [7, END, 9, 10, 6], [8, 2]]
ANSWERS = [[2, 7, END], [3, 1, 9, 0], [END], [10, END]]


class Plain(nn.Module):
    """A causal mean of embeddings: a module of no library, which takes its positions and its mask as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, 16), nn.Embedding(32, 16)
        self.out = nn.Linear(16, VOCABULARY)

    def forward(self, input_ids, attention_mask, position_ids):
        real = attention_mask.unsqueeze(-1).float()
        sums = (self.token(input_ids) * real).cumsum(1) / real.cumsum(1).clamp(min=1)
        return SimpleNamespace(logits=self.out((2 * sums + self.token(input_ids) + self.position(position_ids)).tanh()))


class Recurrent(Plain):
    """One that is asked like those of transformers, and keeps something that only it can read."""

    prepare_inputs_for_generation = None

    def forward(self, input_ids, attention_mask, position_ids, past_key_values=None, use_cache=None, logits_to_keep=0):
        if past_key_values:
            input_ids = torch.cat([past_key_values.ids, input_ids], 1)
            position_ids = torch.cat([past_key_values.positions, position_ids], 1)
        logits = super().forward(input_ids, attention_mask, position_ids).logits
        kept = SimpleNamespace(ids=input_ids, positions=position_ids, layers=[self])
        return SimpleNamespace(logits=logits[:, -logits_to_keep:], past_key_values=kept if use_cache else None)


def gpt2(dropout: float = 0.0) -> nn.Module:
    drops = {name: dropout for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": VOCABULARY, "n_positions": 32}
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**shape, **drops, initializer_range=0.3, bos_token_id=0, eos_token_id=END))


@cache
def model_of(name: str) -> nn.Module:
    torch.manual_seed(1)
    if name == "gpt2":
        return gpt2().eval()
    if name in ("plain", "recurrent"):
        return {"plain": Plain, "recurrent": Recurrent}[name]().eval()
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"vocab_size": VOCABULARY, "num_key_value_heads": 1, "initializer_range": 0.4}
    if name == "window":
        return MistralForCausalLM(MistralConfig(**shape, sliding_window=3)).eval()
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


MODELS = ["gpt2", "llama", "window", "plain", "recurrent"]


def padded(prompts: list[list[int]], pad: int = 0) -> Prompts:
    width = max(map(len, prompts))
    tokens = [[pad] * (width - len(p)) + p for p in prompts]
    real = [[False] * (width - len(p)) + [True] * len(p) for p in prompts]
    return Prompts(torch.tensor(tokens), torch.tensor(real))


def answers(completions: list[list[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, completions))
    tokens = [c + [pad] * (width - len(c)) for c in completions]
    return torch.tensor(tokens), torch.tensor([[t < len(c) for t in range(width)] for c in completions])


@torch.no_grad()
def alone(model: nn.Module, sequence: list[int], **options):
    """The model's output on one sequence without padding."""
    ids = torch.tensor([sequence])
    mask, positions = torch.ones_like(ids), torch.arange(len(sequence)).unsqueeze(0)
    return model(input_ids=ids, attention_mask=mask, position_ids=positions, **options)


def log_probs_alone(model: nn.Module, prompt: list[int], completion: list[int], temperature: float) -> list[float]:
    """One token at a time, each from a run of its own."""
    found = []
    for t, token in enumerate(completion):
        logits = alone(model, prompt + completion[:t]).logits[0, -1].double().numpy() / temperature
        found.append(logits[token] - math.log(np.exp(logits).sum()))
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", MODELS)
def test_log_probs_of_tokens_are_those_of_each_sequence_alone(name, temperature):
    model = model_of(name)
    expected = np.zeros((4, 4))
    for i, (prompt, completion) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected[i, : len(completion)] = log_probs_alone(model, prompt, completion, temperature)
    for pad in (0, END):
        tokens, mask = answers(ANSWERS, pad)
        with torch.no_grad():
            found = token_log_probs(model, padded(PROMPTS, pad), tokens, mask, temperature)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
        assert torch.all(found[~mask] == 0)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_prompt_features_are_the_last_hidden_states(name):
    with torch.no_grad():
        found = prompt_features(model_of(name), padded(PROMPTS))
    for features, prompt in zip(found, PROMPTS, strict=True):
        expected = alone(model_of(name), prompt, output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_sft_of_a_model_has_the_gradient_of_its_cross_entropy():
    model, prompt = gpt2().train(), PROMPTS[2]
    tokens, mask = answers(ANSWERS[:3])
    prompts = Prompts(torch.tensor([prompt] * 3), torch.ones(3, len(prompt), dtype=torch.bool))
    logits = model(input_ids=torch.cat([prompts.tokens, tokens], 1)).logits[:, len(prompt) - 1 : -1]
    targets = torch.where(mask, tokens, -100)
    (cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / 3).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    sft, zeros = make_sequence_agent(SequenceConfig(method="sft")), torch.zeros(3, 4)
    samples = Samples(mask, zeros, zeros, zeros[:, 0])
    fitted = token_log_probs(model, prompts, tokens, mask)
    sft.loss(fitted, fitted, samples, sft.plan(samples).weights, mask.sum()).loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("name", MODELS)
def test_samples_carry_the_log_probs_of_their_tokens(name, temperature):
    model, prompts = model_of(name), padded(PROMPTS, END).repeat(4)

    def draw(seed: int):
        return sample(model, prompts, 6, ENDS, torch.Generator().manual_seed(seed), temperature)

    one = draw(0)
    for x, y in zip(one, draw(0), strict=True):
        assert torch.equal(x, y)
    assert not torch.equal(one.tokens[:, 0], draw(1).tokens[:, 0])
    with torch.no_grad():
        expected = token_log_probs(model, prompts, one.tokens, one.mask, temperature)
    np.testing.assert_allclose(one.log_prob.numpy(), expected.numpy(), atol=1e-4)
    assert torch.all(one.log_prob[~one.mask] == 0) and torch.all(one.log_prob[one.mask] < 0)
    lengths = []
    for tokens, mask in zip(one.tokens.tolist(), one.mask.tolist(), strict=True):
        length = tokens.index(END) + 1 if END in tokens else len(tokens)
        assert mask == [t < length for t in range(len(tokens))]
        lengths.append(length)
    assert min(lengths) < max(lengths) == one.tokens.shape[1] <= 6


@pytest.mark.parametrize("name", MODELS)
def test_the_likeliest_tokens_are_those_of_a_loop_without_a_cache(name):
    model = model_of(name)
    free = sample(model, padded(PROMPTS), 5, torch.tensor([VOCABULARY + 1]), None)  # an end that no model draws
    for end in (VOCABULARY + 1, free.tokens[0, 2].item(), free.tokens[1, 0].item()):
        found = sample(model, padded(PROMPTS, min(end, VOCABULARY - 1)), 5, torch.tensor([end]), None)
        longest = 0
        for i, prompt in enumerate(PROMPTS):
            expected: list[int] = []
            while len(expected) < 5 and end not in expected:
                expected.append(int(alone(model, prompt + expected).logits[0, -1].argmax()))
            assert found.tokens[i][found.mask[i]].tolist() == expected
            assert found.mask[i].tolist() == [t < len(expected) for t in range(found.mask.shape[1])]
            longest = max(longest, len(expected))
        assert found.tokens.shape[1] == longest


def test_sampling_stops_once_all_have_ended():
    found = sample(model_of("gpt2"), padded([PROMPTS[0]] * 3), 5, ENDS, None)
    first = found.tokens[0, 0].item()
    ended = sample(model_of("gpt2"), padded([PROMPTS[0]] * 3), 5, torch.tensor([first]), None)
    assert ended.tokens.tolist() == [[first]] * 3 and ended.mask.all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_of_tokens_are_the_softmax(temperature):
    model, prompt, many = model_of("plain"), PROMPTS[2], 3000
    generator = torch.Generator().manual_seed(3)
    found = sample(model, padded([[1], prompt]).of(torch.tensor([1])).repeat(many), 1, ENDS, generator, temperature)
    logits = alone(model, prompt).logits[0, -1].double().numpy()
    counts = np.bincount(found.tokens[:, 0].numpy(), minlength=VOCABULARY)

    def p_value(temperature: float) -> float:
        chances = np.exp(logits / temperature)
        return chisquare(counts, many * chances / chances.sum()).pvalue

    assert p_value(temperature) > 1e-3
    assert p_value(1.5 - temperature) < 1e-6


@pytest.mark.parametrize("training", [True, False])
def test_samples_are_drawn_without_dropout(training):
    model, prompts = gpt2(dropout=0.5).train(training), padded(PROMPTS)
    torch.manual_seed(5)
    one = sample(model, prompts, 5, ENDS, torch.Generator().manual_seed(0))
    other = sample(model, prompts, 5, ENDS, torch.Generator().manual_seed(0))
    assert model.training == training and model.transformer.drop.training == training
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.log_prob, other.log_prob)
    with torch.no_grad():
        expected = token_log_probs(model.eval(), prompts, one.tokens, one.mask)
        dropped = token_log_probs(model.train(), prompts, one.tokens, one.mask)
    np.testing.assert_allclose(one.log_prob.numpy(), expected.numpy(), atol=1e-4)
    assert (dropped - expected).abs().max() > 0.01


@pytest.mark.parametrize("shape", [(7,), (1,), (2, 5), (3, 3), (1, 13)])
def test_selected_log_softmax_in_pieces(monkeypatch, shape):
    monkeypatch.setattr(networks.language, "ROWS", 3)
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(*shape, VOCABULARY, generator=generator)
    tokens = torch.randint(VOCABULARY, shape, generator=generator)
    for given in (logits, logits.bfloat16()):
        leaf = given.clone().requires_grad_()
        found = selected_log_softmax(leaf, tokens, 0.7)
        plain = given.float().requires_grad_()
        expected = torch.log_softmax(plain / 0.7, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        assert found.dtype == torch.float32 and found.shape == shape
        torch.testing.assert_close(found, expected)
        (gradient,) = torch.autograd.grad(found.sum(), leaf)
        (wanted,) = torch.autograd.grad(expected.sum(), plain)
        torch.testing.assert_close(gradient, wanted.to(given.dtype))


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_completions_of_one_prompt_share_its_keys_and_values(name, length, monkeypatch):
    model, some = model_of(name), torch.tensor([0, 1, 2, 4, 5, 9, 10, 11, 8])
    tokens = torch.randint(VOCABULARY, (9, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    widths, forward = [], type(model).forward

    def watched(self, **inputs):
        widths.append(len(inputs["input_ids"]))
        return forward(self, **inputs)

    monkeypatch.setattr(type(model), "forward", wraps(forward)(watched))

    def gradients(prompts: Prompts) -> tuple[torch.Tensor, list[torch.Tensor]]:
        found = token_log_probs(model, prompts, tokens, mask, 0.7)
        return found.detach(), torch.autograd.grad((found * torch.arange(9).unsqueeze(1)).sum(), model.parameters())

    prompts = padded(PROMPTS).repeat(4).of(some)
    found, fitted = gradients(prompts)
    assert widths == ([9] if name == "plain" or length == 1 else [3, 9])
    expected, wanted = gradients(prompts._replace(number=None))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for x, y in zip(fitted, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


def test_prompts_that_mostly_differ_are_not_shared():
    prompts = padded(PROMPTS).repeat(2)
    assert prompts.distinct()[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert prompts.of(torch.tensor([0, 3, 5, 4])).distinct()[1] is None
    once, row = prompts.of(torch.tensor([7, 4, 5, 6])).distinct()
    assert torch.equal(once.tokens[row], prompts.tokens[[7, 4, 5, 6]]) and len(once.tokens) == 2
    assert padded(PROMPTS).distinct()[1] is None


def test_repeated_and_chosen_prompts():
    prompts = padded(PROMPTS)
    repeated = prompts.repeat(2)
    for i in range(8):
        assert torch.equal(repeated.tokens[i], prompts.tokens[i // 2])
        assert torch.equal(repeated.real[i], prompts.real[i // 2])
    some = prompts.of(torch.tensor([2, 0]))
    assert some.tokens.tolist() == prompts.tokens[[2, 0]].tolist() and some.real.tolist() == [
        [True] * 5,
        [False] * 2 + [True] * 3,
    ]


# ---------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    "method, option, value",
    [
        ("awr", "top_k", 0.3),
        ("awr", "lambda_reference", 0.3),
        ("awr", "epsilon_alpha", 0.3),
        ("rl-em", "lambda_behaviour", 0.3),
        ("dar", "eta_init", 3.0),
        ("dar", "clip_epsilon", 0.3),
        ("at-dar", "lambda_behaviour", 0.3),
        ("at-dar", "max_weight", 20.0),
        ("vmpo", "max_weight", 20.0),
        ("vmpo", "anchors", "both"),
        ("vmpo", "dpo_beta", 0.3),
        ("topk-dar", "alpha_init", 0.3),
        ("gempi", "gamma", 2.0),
        ("gempi", "renyi_order", 3.0),
        ("ppo", "epsilon_eta", 0.3),
        ("ppo", "max_weight", 20.0),
        ("dpo", "baseline", "leave-one-out"),
        ("dpo", "kl_coefficient", 0.3),
        ("dpo", "standardise_advantages", True),
        ("sft", "baseline", "none"),
        ("sft", "ratio", "token"),
        ("sft", "target_kl", 0.3),
    ],
)
def test_options_without_effect_are_refused(method, option, value):
    SequenceConfig(method=method)
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} has no effect on --method {method}"):
        SequenceConfig(method=method, **{option: value})


@pytest.mark.parametrize(
    "method, option, values",
    [
        ("vmpo", "top_k", [-0.1, 1.1, math.nan]),
        ("vmpo", "eta_init", [0.0, -1.0]),
        ("vmpo", "epsilon_alpha", [0.0]),
        ("awr", "lambda_behaviour", [0.0, math.inf]),
        ("dar", "lambda_reference", [0.0, -0.1]),
        ("dar", "max_weight", [-1.0, math.nan]),
        ("ppo", "clip_epsilon", [0.0, -0.2, math.nan]),
        ("ppo", "kl_coefficient", [-0.1, math.inf]),
        ("ppo", "target_kl", [-0.1]),
        ("dpo", "dpo_beta", [0.0, -0.1]),
    ],
)
def test_numbers_out_of_range_are_refused(method, option, values):
    for value in values:
        with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} must"):
            SequenceConfig(method=method, **{option: value})


def test_rows_without_a_closed_form_are_refused():
    with pytest.raises(ValueError, match="--divergence renyi"):
        SequenceConfig(method="gempi", anchors="both", divergence="renyi")
    with pytest.raises(ValueError, match="--temperature solved"):
        SequenceConfig(method="gempi", anchors="both", temperature="solved")


def test_rewards_that_are_not_known_enter_no_baseline():
    nan = float("nan")
    rewards = torch.tensor([[1.0, 0.0, nan, nan], [nan, nan, nan, 1.0]])
    assert group_mean(rewards)[0].tolist() == [0.5] * 4
    assert leave_one_out(rewards)[0, :2].tolist() == [0.0, 1.0] and leave_one_out(rewards)[1, 3] == 0
    assert batch_mean(rewards).flatten()[0] == pytest.approx(2 / 3)
    average = MovingAverage()
    average(rewards)
    before = average.get_state()
    average(torch.full((2, 2), nan))
    assert average.get_state() == before


def test_an_unlikely_token_of_others_leaves_the_kl_finite():
    log_prob = torch.tensor([[-0.1]], requires_grad=True)
    old, new = SampledTokens(torch.tensor([[-200.0]]), True), SampledTokens(log_prob, False)
    for kl in (old.kl(new), new.kl(old)):
        (gradient,) = torch.autograd.grad(kl.sum(), log_prob, retain_graph=True)
        assert kl.isfinite().all() and gradient.isfinite().all()
