"""Learning rules on sequences against brute force: weights, losses, KLs, and the options of each."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from agents.sequences.config import SequenceConfig
from agents.sequences.factory import make_sequence_agent
from agents.sequences.kl import SampledTokens
from agents.sequences.types import Samples
from agents.sequences.value import token_returns
from networks.language import selected_log_softmax

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
        agent.loss(leaf[i], other[i], samples.select(torch.tensor(i)), plan.weights[torch.tensor(i)], tokens)
        for i in parts
    ]
    total = sum(part.loss for part in losses)
    gradients = torch.autograd.grad(total, (leaf, other), allow_unused=True, materialize_grads=True)
    metrics = {name: sum(float(part.metrics[name]) for part in losses) for name in losses[0].metrics}
    return total.item(), [g.numpy() for g in gradients], metrics, plan.weights.numpy()


# ---------------------------------------------------------------------------------------------- E-step

ALPHA, BETA = 0.3, 0.9
BEST_OF_N = {"temperature": "flat", "trust_region": "none", "top_k": 0.0}


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
        ("gempi", BEST_OF_N, 0, math.inf, 0.0),
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
        one, other = agent.plan(samples), agent.plan(samples.select(there))
        torch.testing.assert_close(one.weights[there], other.weights)
        torch.testing.assert_close(one.dual_loss, other.dual_loss)
        torch.testing.assert_close(one.metrics, other.metrics)


@pytest.mark.parametrize("method, options, rho", [("dar", {}, 1.0), ("topk-dar", {"top_k": 0.4}, 0.4)])
@pytest.mark.parametrize("bound", [0.1, 0.5, 1.5, 20.0])
def test_weights_are_clipped_before_they_are_made_to_add_up(bound, method, options, rho):
    """min((pi_ref / pi_t)^(alpha / (alpha + beta)) exp(A / (alpha + beta)), w_max), then divided by their sum."""
    samples = draws(2)
    plan = agent_of(method, max_weight=bound, lambda_reference=0.2, lambda_behaviour=0.5, **options).plan(samples)
    kept = best(samples, rho)
    ratio = whole(samples.reference, samples.mask) - whole(samples.behaviour, samples.mask)
    raw = np.exp(np.where(kept, 0.2 / 0.7 * ratio + samples.advantages.numpy() / 0.7, -np.inf))
    clipped = np.minimum(raw, bound)
    np.testing.assert_allclose(plan.weights.numpy(), clipped / clipped.sum(), rtol=1e-5)
    assert plan.metrics["e_step/saturated"].item() == pytest.approx((raw >= bound).sum() / kept.sum())
    assert "e_step/saturated" not in agent_of("dar").plan(samples).metrics


@pytest.mark.parametrize("method", ["awr", "vmpo", "dar", "at-dar", "topk-dar"])
def test_an_e_step_a_prompt_is_an_e_step_of_each(method):
    """12 samples of 3 prompts, then a prompt none of whose samples counts."""
    samples = draws(5)
    each = len(samples.mask) // 4
    samples = samples.select(torch.arange(4 * each))
    samples = samples._replace(mask=samples.mask & (torch.arange(4 * each) < 3 * each).unsqueeze(1), each=each)
    plan = agent_of(method, e_step="prompt").plan(samples)
    alone = [agent_of(method).plan(samples.select(torch.arange(i * each, (i + 1) * each))) for i in range(3)]
    expected = torch.cat([p.weights / 3 for p in alone] + [torch.zeros(each)])
    torch.testing.assert_close(plan.weights, expected.to(plan.weights.dtype))
    torch.testing.assert_close(plan.dual_loss, sum(p.dual_loss for p in alone) / 3)
    for name, value in plan.metrics.items():
        torch.testing.assert_close(value, sum(p.metrics[name] for p in alone) / 3)
    assert not torch.allclose(plan.weights, agent_of(method).plan(samples).weights)


def of_tokens(samples: Samples, seed: int) -> Samples:
    """The same with an advantage for each token, the best by far off the mask."""
    advantages = np.random.default_rng(seed).normal(size=(N, C))
    return samples._replace(advantages=torch.tensor(np.where(samples.mask.numpy(), advantages, 1e3)))


@pytest.mark.parametrize("each", [None, 3])
@pytest.mark.parametrize(
    "method, options, base, temperature, rho",
    [
        ("awr", {"lambda_behaviour": BETA}, 0, BETA, 1),
        ("rl-em", {"lambda_reference": BETA}, 1, BETA, 1),
        ("dar", {"lambda_reference": ALPHA, "lambda_behaviour": BETA}, ALPHA / (ALPHA + BETA), ALPHA + BETA, 1),
        (
            "topk-dar",
            {"lambda_reference": ALPHA, "lambda_behaviour": BETA, "top_k": 0.4},
            ALPHA / (ALPHA + BETA),
            ALPHA + BETA,
            0.4,
        ),
        ("vmpo", {"eta_init": BETA, "top_k": 0.5}, 0, BETA, 0.5),
    ],
)
def test_tokens_with_advantages_are_the_samples(method, options, base, temperature, rho, each):
    """The E-step is over all tokens, top-k and ratios too, or with --e-step prompt over those of a prompt; the M-step's
    loss and gradient are of each token."""
    samples = of_tokens(draws(6), 0)
    options = options | {"e_step": "prompt"} if each else options
    samples = samples._replace(each=each or 1)
    agent, fitted = agent_of(method, **options), moved(samples, 3)
    expected = np.zeros((N, C))
    groups = np.split(np.arange(N), N // each) if each else [np.arange(N)]
    for group in groups:
        real = [(i, t) for i in group for t in range(C) if samples.mask[i, t]]
        ranked = sorted(real, key=lambda at: -samples.advantages[at].item())[: max(1, math.floor(rho * len(real)))]
        raw = {
            at: math.exp(base * (samples.reference[at] - samples.behaviour[at]) + samples.advantages[at] / temperature)
            for at in ranked
        }
        for at, mass in raw.items():
            expected[at] = mass / sum(raw.values()) / len(groups)
    plan = agent.plan(samples)
    np.testing.assert_allclose(plan.weights.numpy(), expected, rtol=1e-6, atol=1e-12)
    everything = samples.mask.numpy().any(1) if method == "vmpo" else (expected > 0).any(1)
    np.testing.assert_array_equal(plan.kept.numpy(), everything)
    far = samples.behaviour.numpy() if method == "vmpo" else fitted  # where a trust region has no gradient
    _, (gradient, _), metrics, _ = step(agent, samples, fitted, far)
    np.testing.assert_allclose(gradient, -expected, rtol=1e-6, atol=1e-12)
    loss = -sum(expected[i, t] * fitted[i, t] for i in range(N) for t in range(C) if expected[i, t])
    assert metrics["m_step/policy_loss"] == pytest.approx(loss, rel=1e-6)


def test_one_token_each_is_the_same_sample_either_way():
    samples = draws(7, empty=False)
    samples = Samples(*(x[:, :1] for x in samples[:3]), samples.advantages)
    for method in ("vmpo", "at-dar", "topk-dar"):
        whole, token = (
            agent_of(method).plan(x) for x in (samples, samples._replace(advantages=samples.advantages[:, None]))
        )
        torch.testing.assert_close(whole.weights, token.weights[:, 0], rtol=0, atol=0)
        torch.testing.assert_close((whole.dual_loss, whole.metrics), (token.dual_loss, token.metrics), rtol=0, atol=0)


def test_tokens_come_to_the_exact_target_of_each_state():
    """On all sequences of three letters of two, as often as pi_t draws them, with the exact values as the critic: the
    policy that fits the weights best is pi_t(a | s) exp(A(s, a) / eta) / Z(s), for every state s."""
    rng, length, eta = np.random.default_rng(8), 3, 0.6
    sequences = list(itertools.product(range(2), repeat=length))
    states = [s for n in range(length) for s in itertools.product(range(2), repeat=n)]
    of_one = {s: int(rng.integers(1, 4)) / 4 for s in states}  # pi_t(1 | s)
    pi_t = {(s, a): of_one[s] if a else 1 - of_one[s] for s in states for a in (0, 1)}
    value = dict(zip(sequences, rng.normal(size=len(sequences)), strict=True))
    for s in reversed(states):
        value[s] = sum(pi_t[s, a] * value[*s, a] for a in (0, 1))
    drawn = [
        s for s in sequences for _ in range(round(4**length * math.prod(pi_t[s[:t], s[t]] for t in range(length))))
    ]
    assert len(drawn) == 4**length
    values = torch.tensor([[value[s[:t]] for t in range(length)] for s in drawn])
    mask, rewards = torch.ones(len(drawn), length, dtype=torch.bool), torch.tensor([value[s] for s in drawn])
    advantages = token_returns(values, rewards, mask, 0.0) - values
    weights = agent_of("awr", lambda_behaviour=eta).plan(Samples(mask, 0 * values, 0 * values, advantages)).weights
    mass = dict.fromkeys(pi_t, 0.0)
    for i, s in enumerate(drawn):
        for t in range(length):
            mass[s[:t], s[t]] += weights[i, t].item()
    for s in states:
        target = [pi_t[s, a] * math.exp((value[*s, a] - value[s]) / eta) for a in (0, 1)]
        assert mass[s, 1] / (mass[s, 0] + mass[s, 1]) == pytest.approx(target[1] / sum(target), rel=1e-6)


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

    loss = agent.plan(samples).dual_loss
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
    to_reference, to_behaviour = np.exp(ratio[real]) / real.sum(), np.full(real.sum(), 1 / real.sum())
    advantages = samples.advantages.numpy()[real]

    def dual() -> float:
        alpha, beta = agent.temperature().tolist()
        total = alpha + beta
        mass = to_reference ** (alpha / total) * to_behaviour ** (beta / total) * np.exp(advantages / total)
        return alpha * budgets[0] + beta * budgets[1] + total * math.log(mass.sum())

    loss = agent.plan(samples).dual_loss
    assert agent.temperature().tolist() == pytest.approx([0.4, 0.8], rel=1e-5)
    assert loss.item() == pytest.approx(dual(), rel=1e-6)
    loss.backward()
    for parameter in agent.temperature.parameters():
        assert parameter.grad.item() == pytest.approx(central_difference(parameter, dual), rel=1e-4)


@pytest.mark.parametrize("method", ["awr", "dar", "dar-tr", "topk-dar", "rl-em", "sft", "dpo", "ppo"])
def test_methods_of_fixed_coefficients_have_no_dual_loss(method):
    samples = draws(0)
    even = samples.select(torch.arange(len(samples.mask) // 2 * 2))  # dpo's come in pairs
    assert agent_of(method).plan(even).dual_loss == 0


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
    samples = samples.select(torch.arange(N - 1))
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
        samples = Samples(drawn.mask, *(x.to(dtype) for x in drawn[1:4]))
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


def test_an_unlikely_token_of_others_leaves_the_kl_finite():
    log_prob = torch.tensor([[-0.1]], requires_grad=True)
    old, new = SampledTokens(torch.tensor([[-200.0]]), True), SampledTokens(log_prob, False)
    for kl in (old.kl(new), new.kl(old)):
        (gradient,) = torch.autograd.grad(kl.sum(), log_prob, retain_graph=True)
        assert kl.isfinite().all() and gradient.isfinite().all()


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
    samples, beta, pairs = draws(17, empty=False).select(torch.arange(8)), 0.7, 4
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
    samples = draws(14, empty=False).select(torch.arange(8))
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
    samples = draws(15, empty=False).select(torch.arange(8))
    other = samples._replace(reference=samples.reference + torch.linspace(0, 1, 8).unsqueeze(1))
    fitted = moved(samples, 8)
    everything = [np.arange(8)]
    same = step(agent, samples, fitted, parts=everything)[0] == step(agent, other, fitted, parts=everything)[0]
    assert same != reference


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
        ("sft", "max_weight", 20.0),
        ("dpo", "e_step", "prompt"),
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
