"""The whole V-MPO loss on small random unrolls against the numpy reference: values, gradients, what may not matter."""

import numpy as np
import pytest
import torch

from agents.config import AgentConfig
from agents.factory import make_agent
from agents.gempi.agent import Gempi
from agents.types import BY_TIME
from support.agent_oracles import (
    Batch,
    VMPOLoss,
    central_difference,
    forward_view,
    garbage,
    learned,
    permute,
    popart,
    random_batch,
    space,
    temperature_gradient,
    to_torch,
    vmpo_loss,
)

GAMMA, LAMBDA, RHO, EPSILON_ETA = 0.95, 1.0, 0.5, 0.1
MEAN, STD = 0.7, 2.5  # PopArt's
BOTH = pytest.mark.parametrize("continuous", [False, True], ids=["categorical", "gaussian"])


def make(continuous: bool, **changes) -> Gempi:
    options = dict(discount=GAMMA, gae_lambda=LAMBDA, top_k=RHO, epsilon_eta=EPSILON_ETA, eta_init=0.6)
    options |= dict(epsilon_alpha=0.02, alpha_init=3.0, alpha_mu_init=1.5, alpha_sigma_init=2.0)
    return make_agent(AgentConfig(**(options | changes)), space(continuous)).double()


def multipliers(agent: Gempi, continuous: bool) -> tuple[float, list[float], list[float]]:
    """eta, then alphas and their budgets in the order of `Batch.kls`."""
    config = agent.config
    epsilons = [config.epsilon_alpha_mu, config.epsilon_alpha_sigma] if continuous else [config.epsilon_alpha]
    return agent.temperature().item(), [a().item() for a in agent.trust_region.alpha.values()], epsilons


def reference(batch: Batch, agent: Gempi, new: np.ndarray | None = None) -> VMPOLoss:
    """The numpy loss; the value term comes in PopArt's units, squared errors divided by the square of the scale."""
    eta, alphas, epsilons = multipliers(agent, batch.continuous)
    new = batch.new if new is None else new
    value = batch.value * STD + MEAN
    target = forward_view(batch.reward, batch.ends, value, GAMMA, LAMBDA)
    value = value[:-1]
    kls, log_prob = batch.kls(new), batch.log_prob(new)
    options = (EPSILON_ETA, epsilons, RHO, agent.config.standardise_advantages)
    loss = vmpo_loss(log_prob, kls, value, target, batch.valid, eta, alphas, *options)
    scaled = loss.value / STD**2
    return loss._replace(value=scaled, total=loss.total - loss.value + scaled)


def run(batch: Batch, agent: Gempi):
    """What is learned and its gradients: to policy parameters, to values, to the multipliers (eta first).

    The loss of the M-step has no gradient to eta, nor the E-step's own one to anything else.
    """
    output, unroll, parameters, value = to_torch(batch, mean=MEAN, std=STD)
    step = learned(agent, output, unroll, popart(MEAN, STD))
    etas = list(agent.temperature.parameters())
    leaves = [parameters, value, *agent.trust_region.parameters()]
    to_policy, to_value, *to_dual = torch.autograd.grad(step.loss.total, [*leaves, *etas], allow_unused=True)
    to_eta = torch.autograd.grad(step.plan.dual_loss, [*etas, *leaves], allow_unused=True)
    assert to_dual[-1] is None and not any(g is not None for g in to_eta[1:])
    return step, to_policy.numpy(), to_value.numpy(), [g.item() for g in (to_eta[0], *to_dual[:-1])]


@BOTH
@pytest.mark.parametrize("seed", range(4))
def test_every_term(continuous, seed):
    batch, agent = random_batch(seed, continuous), make(continuous)
    expected = reference(batch, agent)
    loss, _, _, _ = run(batch, agent)
    assert loss.total.item() == pytest.approx(expected.total, abs=1e-6)
    assert loss.metrics["value/loss"].item() == pytest.approx(expected.value, abs=1e-9)
    assert loss.metrics["m_step/policy_loss"].item() == pytest.approx(expected.policy, abs=1e-9)
    kls = [v.item() for k, v in loss.metrics.items() if k.startswith("m_step/kl")]
    np.testing.assert_allclose(kls, expected.mean_kls, atol=1e-10)
    assert loss.metrics["e_step/max_weight"].item() == pytest.approx(expected.weights.max(), abs=1e-10)
    target = forward_view(batch.reward, batch.ends, batch.value * STD + MEAN, GAMMA, LAMBDA)
    np.testing.assert_allclose(loss.plan.returns.numpy()[batch.valid], target[batch.valid], atol=1e-10)


@BOTH
def test_the_options(continuous):
    """Standardised advantages reach the E-step alone; a value coefficient and an entropy bonus enter the total."""
    batch = random_batch(9, continuous)
    agent = make(continuous, standardise_advantages=True, value_coefficient=0.5, entropy_coefficient=0.03)
    expected = reference(batch, agent)
    plain = reference(batch, make(continuous))
    assert np.abs(expected.weights - plain.weights).max() > 0.01
    total = expected.total - 0.5 * expected.value - 0.03 * batch.entropy(batch.new)[batch.valid].mean()
    loss, _, _, _ = run(batch, agent)
    assert loss.total.item() == pytest.approx(total, abs=1e-6)
    assert loss.metrics["m_step/policy_loss"].item() == pytest.approx(expected.policy, abs=1e-7)
    assert loss.metrics["value/loss"].item() == pytest.approx(plain.value, abs=1e-9)


@BOTH
def test_the_control_variate_enters_the_policy_loss(continuous):
    batch, c = random_batch(10, continuous), 0.7
    agent = make(continuous, control_variate=c)
    expected = reference(batch, agent)
    error = batch.log_prob(batch.new) + batch.kl(batch.new) + batch.entropy(batch.old)
    loss, _, _, _ = run(batch, agent)
    assert loss.metrics["m_step/policy_loss"].item() == pytest.approx(
        expected.policy + c * error[batch.valid].mean(), abs=1e-9
    )
    assert loss.total.item() == pytest.approx(expected.total + c * error[batch.valid].mean(), abs=1e-6)


@BOTH
def test_with_the_control_variate_advantages_without_a_difference_move_the_policy_nowhere(continuous):
    """At theta_old, where KL has no gradient. Without it the likelihood raises whichever actions were drawn."""
    batch = random_batch(11, continuous)
    nothing = np.zeros_like(batch.reward)
    batch = batch._replace(reward=nothing, value=nothing - MEAN / STD, new=np.concatenate([batch.old, batch.old[-1:]]))
    _, plain, _, _ = run(batch, make(continuous, top_k=1.0))
    _, controlled, _, _ = run(batch, make(continuous, top_k=1.0, control_variate=1.0))
    assert np.abs(plain).max() > 1e-3
    np.testing.assert_allclose(controlled, 0, atol=1e-9)


@BOTH
@pytest.mark.parametrize("seed", range(2))
def test_policy_gradient(continuous, seed):
    """To theta: weights and multipliers are constants, so d(L_pi + sum alpha KL) by finite differences."""
    batch, agent = random_batch(seed, continuous, steps=4, batch=3), make(continuous)
    _, alphas, _ = multipliers(agent, continuous)

    def objective(new: np.ndarray) -> float:
        loss = reference(batch, agent, new)
        return loss.policy + sum(a * kl for a, kl in zip(alphas, loss.mean_kls, strict=True))

    _, to_policy, _, _ = run(batch, agent)
    np.testing.assert_allclose(to_policy, central_difference(objective, batch.new), atol=1e-7)
    assert np.all(to_policy[:-1][~batch.valid] == 0) and np.all(to_policy[-1] == 0)


@BOTH
def test_the_kl_acts_on_samples_that_top_k_drops(continuous):
    batch, agent = random_batch(2, continuous), make(continuous)
    dropped = batch.valid & (reference(batch, agent).weights == 0)
    assert dropped.any()
    _, to_policy, _, _ = run(batch, agent)
    assert np.all(np.abs(to_policy[:-1][dropped]).sum(-1) > 0)


@BOTH
def test_value_gradient(continuous):
    """Only L_V moves the value: advantages are constants, and so are the targets, the bootstrap included."""
    batch, agent = random_batch(3, continuous), make(continuous)
    target = forward_view(batch.reward, batch.ends, batch.value * STD + MEAN, GAMMA, LAMBDA)
    error = batch.value[:-1] - (target - MEAN) / STD
    expected = np.zeros_like(batch.value)
    expected[:-1][batch.valid] = error[batch.valid] / batch.valid.sum()
    _, _, to_value, _ = run(batch, agent)
    np.testing.assert_allclose(to_value, expected, atol=1e-10)


@BOTH
def test_multiplier_gradients(continuous):
    """d/d eta = epsilon - KL(psi || uniform); d/d alpha = epsilon - KL(old || new)."""
    batch, agent = random_batch(4, continuous), make(continuous)
    expected, (eta, _, epsilons) = reference(batch, agent), multipliers(agent, continuous)
    value = batch.value * STD + MEAN
    advantages = (forward_view(batch.reward, batch.ends, value, GAMMA, LAMBDA) - value[:-1])[batch.valid]
    slopes = [temperature_gradient(advantages, expected.weights[batch.valid] > 0, eta, EPSILON_ETA)]
    slopes += [epsilon - kl for epsilon, kl in zip(epsilons, expected.mean_kls, strict=True)]
    scalars = [agent.temperature, *agent.trust_region.alpha.values()]
    chain = [torch.autograd.grad(s(), list(s.parameters()))[0].item() for s in scalars]
    _, _, _, to_dual = run(batch, agent)
    np.testing.assert_allclose(to_dual, np.multiply(slopes, chain), atol=1e-9)


@BOTH
def test_a_step_from_theta_old(continuous):
    """At theta_old the KL and its gradient vanish: what is left is the weighted likelihood's gradient."""
    batch, agent = random_batch(5, continuous), make(continuous)
    batch = batch._replace(new=np.concatenate([batch.old, batch.old[-1:]]))
    loss, to_policy, _, _ = run(batch, agent)
    assert all(v.item() == 0 for k, v in loss.metrics.items() if k.startswith("m_step/kl"))
    expected = central_difference(lambda new: reference(batch, agent, new).policy, batch.new)
    np.testing.assert_allclose(to_policy, expected, atol=1e-7)


def test_weights_ignore_a_frozen_value_scale():
    """PopArt's statistics are units: with the raw values the same, only L_V changes, by the square of the scale."""
    batch, agent = random_batch(6, False), make(False)
    raw = batch.value * STD + MEAN
    output, unroll, _, _ = to_torch(batch, mean=MEAN, std=STD)
    one = learned(agent, output, unroll, popart(MEAN, STD))
    output, unroll, _, _ = to_torch(batch._replace(value=raw))
    other = learned(agent, output, unroll, popart())
    for key in ("m_step/policy_loss", "m_step/kl", "e_step/kl", "e_step/log_z"):
        torch.testing.assert_close(one.metrics[key], other.metrics[key])
    torch.testing.assert_close(one.metrics["value/loss"] * STD**2, other.metrics["value/loss"])


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_batch_does_not_matter(continuous, seed):
    batch, agent = random_batch(seed, continuous), make(continuous)
    order = np.random.default_rng(seed).permutation(batch.value.shape[1])
    loss, to_policy, to_value, to_dual = run(batch, agent)
    shuffled, policy_shuffled, value_shuffled, dual_shuffled = run(permute(batch, order), agent)
    torch.testing.assert_close(shuffled.total, loss.total, atol=1e-12, rtol=1e-12)
    np.testing.assert_allclose(policy_shuffled, to_policy[:, order], atol=1e-12)
    np.testing.assert_allclose(value_shuffled, to_value[:, order], atol=1e-12)
    np.testing.assert_allclose(dual_shuffled, to_dual, atol=1e-12)


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_what_happens_at_a_reset_does_not_matter(continuous, seed):
    batch, agent = random_batch(seed, continuous), make(continuous)
    assert not batch.valid.all()
    loss, to_policy, to_value, to_dual = run(batch, agent)
    other, policy_other, value_other, dual_other = run(garbage(batch, seed), agent)
    torch.testing.assert_close(other.total, loss.total, atol=1e-12, rtol=1e-12)
    np.testing.assert_allclose(policy_other, to_policy, atol=1e-12)
    np.testing.assert_allclose(value_other, to_value, atol=1e-12)
    np.testing.assert_allclose(dual_other, to_dual, atol=1e-12)


def test_an_unroll_of_one_dead_step_leaves_no_nan():
    batch, agent = random_batch(0, False, steps=1, batch=1), make(False)
    ends = batch.ends
    batch = batch._replace(ends=ends._replace(terminated=np.array([[True], [False]]), truncated=ends.truncated & False))
    loss, to_policy, to_value, to_dual = run(batch, agent)
    assert loss.total.isfinite() and np.isfinite([*to_policy.flat, *to_value.flat, *to_dual]).all()


def test_columns_picks_environments():
    batch = random_batch(7, True)
    _, unroll, _, _ = to_torch(batch)
    unroll = unroll._replace(state=(torch.arange(4.0)[:, None], torch.arange(4)), task=torch.arange(4))
    index = torch.tensor([2, 0])
    some = unroll.columns(index)
    for name in BY_TIME:
        assert torch.equal(getattr(some, name), getattr(unroll, name)[:, index])
    assert some.task.tolist() == [2, 0]
    assert some.state[0].tolist() == [[2.0], [0.0]] and some.state[1].tolist() == [2, 0]
    assert torch.equal(unroll.action, unroll.previous_action[1:])
    np.testing.assert_array_equal(unroll.valid.numpy(), batch.valid)


@BOTH
def test_learning_moves_towards_better_actions(continuous):
    """A bandit of one state: gradient steps on the whole loss raise the likelihood of the actions that paid."""
    rng = np.random.default_rng(8)
    batch, agent = random_batch(8, continuous, steps=8, batch=16, actions=2), make(continuous, discount=0.0)
    shape = batch.value.shape
    none = np.zeros(shape, bool)
    batch = batch._replace(ends=type(batch.ends)(none, none, none), value=np.zeros(shape))
    old = np.zeros_like(batch.old)
    if continuous:
        old[..., 2:] = 1.0
        action = rng.normal(size=batch.action.shape)
        paid = -((action - 0.5) ** 2).sum(-1)
    else:
        action = rng.integers(2, size=batch.action.shape)
        paid = action.astype(float)
    reward = np.concatenate([np.zeros((1, shape[1])), paid])
    batch = batch._replace(action=action, old=old, reward=reward)
    free = torch.tensor(old[0, 0], requires_grad=True)
    optimiser = torch.optim.Adam([free, *agent.parameters()], lr=0.02)
    output, unroll, _, _ = to_torch(batch)
    for _ in range(30):
        optimiser.zero_grad()
        policy = output.policy.like(free.expand(*shape, len(free)))
        learned(agent, output._replace(policy=policy), unroll, popart()).total.backward()
        optimiser.step()
    now = free.detach()
    assert (now[:2] > 0.02).all() if continuous else now[1] - now[0] > 0.05
