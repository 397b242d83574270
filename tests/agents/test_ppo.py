"""The PPO loss: both sides of the clip by hand, every term against the numpy reference, what may not matter."""

import numpy as np
import pytest
import torch

from agents.config import AgentConfig
from agents.factory import make_agent
from support.agent_oracles import (
    Batch,
    Ends,
    PPOLoss,
    central_difference,
    forward_view,
    gae,
    garbage,
    learned,
    normalise,
    permute,
    popart,
    ppo_loss,
    random_batch,
    space,
    to_torch,
)

GAMMA, LAMBDA, CLIP, C_VALUE, C_ENTROPY = 0.95, 0.9, 0.2, 0.5, 0.01
MEAN, STD = 0.7, 2.5  # PopArt's
BOTH = pytest.mark.parametrize("continuous", [False, True], ids=["categorical", "gaussian"])


def make(continuous: bool, **changes):
    options = dict(discount=GAMMA, gae_lambda=LAMBDA, clip_epsilon=CLIP, standardise_advantages=True)
    options |= dict(value_coefficient=C_VALUE, entropy_coefficient=C_ENTROPY)
    return make_agent(AgentConfig(agent="ppo", **(options | changes)), space(continuous))


def reference(batch: Batch, new: np.ndarray | None = None, standardise: bool = True) -> tuple[float, PPOLoss]:
    new = batch.new if new is None else new
    raw, valid = batch.value * STD + MEAN, batch.valid
    advantages = np.where(valid, gae(batch.reward, batch.ends, raw, GAMMA, LAMBDA), 0)
    target = (forward_view(batch.reward, batch.ends, raw, GAMMA, LAMBDA) - MEAN) / STD
    loss = ppo_loss(
        batch.log_prob(new),
        batch.log_prob(batch.old),
        normalise(advantages, valid) if standardise else advantages,
        batch.value[:-1],
        target,
        batch.entropy(new),
        valid,
        CLIP,
    )
    return loss.policy + C_VALUE * loss.value - C_ENTROPY * loss.entropy, loss


def run(batch: Batch, agent):
    """The loss and its gradients to policy parameters and to values."""
    output, unroll, parameters, value = to_torch(batch, mean=MEAN, std=STD)
    loss = learned(agent, output, unroll, popart(MEAN, STD))
    to_policy, to_value = torch.autograd.grad(loss.total, [parameters, value])
    return loss, to_policy.numpy(), to_value.numpy()


def bandit(ratios: list[float], rewards: list[float]) -> Batch:
    """One action a step with given probability ratios; with discount 0 and V = 0 the reward is the advantage."""
    new = np.array([*ratios, 1.0])[:, None] * 0.4  # the old probability of action 0 is 0.4
    none = np.zeros((len(ratios) + 1, 1), bool)
    return Batch(
        Ends(none, none, none),
        np.array([0.0, *rewards])[:, None],
        np.zeros((len(ratios), 1), int),
        np.log(np.tile([0.4, 0.6], (len(ratios), 1, 1))),
        np.log(np.stack([new, 1 - new], -1)),
        np.zeros((len(ratios) + 1, 1)),
    )


@pytest.mark.parametrize(
    "ratio, advantage, surrogate, moves",
    [
        (1.0, 2.0, 2.0, True),
        (1.1, 2.0, 2.2, True),
        (1.5, 2.0, 2.4, False),  # capped at 1 + epsilon
        (0.5, 2.0, 1.0, True),  # a good action that became rarer: nothing holds it back
        (1.0, -2.0, -2.0, True),
        (0.9, -2.0, -1.8, True),
        (0.5, -2.0, -1.6, False),  # capped at 1 - epsilon
        (1.5, -2.0, -3.0, True),  # a bad action that became likelier: the full loss
    ],
)
def test_the_clip_on_both_sides(ratio, advantage, surrogate, moves):
    agent = make(False, discount=0.0, standardise_advantages=False, value_coefficient=0.0, entropy_coefficient=0.0)
    output, unroll, parameters, _ = to_torch(bandit([ratio], [advantage]))
    loss = learned(agent, output, unroll, popart())
    assert loss.total.item() == pytest.approx(-surrogate, abs=1e-9)
    (gradient,) = torch.autograd.grad(loss.total, parameters)
    assert (gradient[0].abs().sum() > 1e-3).item() == moves
    if moves:  # -A ratio (1 - p) to the logit of the action taken
        assert gradient[0, 0, 0].item() == pytest.approx(-advantage * ratio * (1 - 0.4 * ratio), abs=1e-9)


def test_the_share_of_clipped_steps():
    agent = make(False, discount=0.0)
    output, unroll, _, _ = to_torch(bandit([1.0, 1.1, 1.5, 0.5, 0.9], [1.0, -1.0, 2.0, 0.5, 0.0]))
    assert learned(agent, output, unroll, popart()).metrics["m_step/clipped"].item() == pytest.approx(0.4)


@BOTH
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_term(continuous, seed, standardise):
    batch = random_batch(seed, continuous)
    total, expected = reference(batch, standardise=standardise)
    loss, _, _ = run(batch, make(continuous, standardise_advantages=standardise))
    assert loss.total.item() == pytest.approx(total, abs=1e-7)
    assert loss.metrics["value/loss"].item() == pytest.approx(expected.value, abs=1e-9)
    assert loss.metrics["m_step/policy_loss"].item() == pytest.approx(expected.policy, abs=1e-7)
    assert loss.metrics["m_step/entropy"].item() == pytest.approx(expected.entropy, abs=1e-9)
    assert loss.metrics["m_step/clipped"].item() == pytest.approx(expected.clip_fraction, abs=1e-6)
    kl = batch.kl(batch.new)[batch.valid].mean()
    assert loss.metrics["m_step/kl"].item() == pytest.approx(kl, abs=1e-9)


@BOTH
@pytest.mark.parametrize("seed", range(2))
def test_gradients(continuous, seed):
    batch = random_batch(seed, continuous, steps=4, batch=3)
    _, to_policy, to_value = run(batch, make(continuous))
    expected = central_difference(lambda new: reference(batch, new)[0], batch.new)
    np.testing.assert_allclose(to_policy, expected, atol=1e-6)
    raw, valid = batch.value * STD + MEAN, batch.valid
    error = batch.value[:-1] - (forward_view(batch.reward, batch.ends, raw, GAMMA, LAMBDA) - MEAN) / STD
    slope = np.zeros_like(batch.value)
    slope[:-1][valid] = C_VALUE * error[valid] / valid.sum()
    np.testing.assert_allclose(to_value, slope, atol=1e-10)


@BOTH
def test_the_ratio_is_one_at_the_start(continuous):
    """At theta_old: no step is clipped, the KL is 0, the surrogate is the mean advantage, its gradient the policy's."""
    batch = random_batch(5, continuous)
    batch = batch._replace(new=np.concatenate([batch.old, batch.old[-1:]]))
    agent = make(continuous, standardise_advantages=False, entropy_coefficient=0.0)
    loss, to_policy, _ = run(batch, agent)
    advantages = np.where(batch.valid, gae(batch.reward, batch.ends, batch.value * STD + MEAN, GAMMA, LAMBDA), 0)
    assert loss.metrics["m_step/policy_loss"].item() == pytest.approx(-advantages.sum() / batch.valid.sum(), abs=1e-9)
    assert loss.metrics["m_step/clipped"].item() == 0 and loss.metrics["m_step/kl"].item() == 0

    def vanilla(new: np.ndarray) -> float:
        return -(advantages * batch.log_prob(new)).sum() / batch.valid.sum()

    np.testing.assert_allclose(to_policy, central_difference(vanilla, batch.new), atol=1e-6)


def test_standardised_advantages_sum_to_nothing_at_the_start():
    batch = random_batch(6, False)
    batch = batch._replace(new=np.concatenate([batch.old, batch.old[-1:]]))
    loss, _, _ = run(batch, make(False))
    assert loss.metrics["m_step/policy_loss"].item() == pytest.approx(0, abs=1e-9)


def test_standardising_removes_the_scale_of_the_reward():
    batch = random_batch(7, False)
    agent = make(False, value_coefficient=0.0)
    scaled = batch._replace(reward=batch.reward * 100, value=(batch.value * STD + MEAN) * 100 / STD - MEAN / STD)
    one, to_policy, _ = run(batch, agent)
    other, to_policy_scaled, _ = run(scaled, agent)
    torch.testing.assert_close(one.metrics["m_step/policy_loss"], other.metrics["m_step/policy_loss"])
    np.testing.assert_allclose(to_policy, to_policy_scaled, atol=1e-8)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_batch_does_not_matter(continuous, seed):
    batch, agent = random_batch(seed, continuous), make(continuous)
    order = np.random.default_rng(seed).permutation(batch.value.shape[1])
    loss, to_policy, to_value = run(batch, agent)
    shuffled, policy_shuffled, value_shuffled = run(permute(batch, order), agent)
    torch.testing.assert_close(shuffled.total, loss.total, atol=1e-12, rtol=1e-12)
    np.testing.assert_allclose(policy_shuffled, to_policy[:, order], atol=1e-12)
    np.testing.assert_allclose(value_shuffled, to_value[:, order], atol=1e-12)


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_what_happens_at_a_reset_does_not_matter(continuous, seed):
    batch, agent = random_batch(seed, continuous), make(continuous)
    assert not batch.valid.all()
    loss, to_policy, to_value = run(batch, agent)
    other, policy_other, value_other = run(garbage(batch, seed), agent)
    torch.testing.assert_close(other.total, loss.total, atol=1e-12, rtol=1e-12)
    np.testing.assert_allclose(policy_other, to_policy, atol=1e-12)
    np.testing.assert_allclose(value_other, to_value, atol=1e-12)
    assert np.all(to_policy[:-1][~batch.valid] == 0) and np.all(to_policy[-1] == 0)


def test_a_ratio_without_bound_at_a_reset_leaves_no_nan():
    """Nothing trains the policy at an episode's last observation, so there its ratio may overflow: 0 * inf is NaN."""
    batch = bandit([1.0, 1.0, 1.0], [1.0, -1.0, 0.5])
    terminated = np.array([[False], [True], [False], [False]])
    batch = batch._replace(ends=Ends(np.roll(terminated, 1), terminated, terminated & False))
    batch.old[1] = [-1000.0, 0.0]  # e^1000 below the new probability
    _, to_policy, to_value = run(batch, make(False))
    assert np.isfinite(to_policy).all() and np.isfinite(to_value).all()


def test_float32_agrees():
    batch = random_batch(8, False)
    output, unroll, _, _ = to_torch(batch, torch.float32, MEAN, STD)
    loss = learned(make(False), output, unroll, popart(MEAN, STD))
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(reference(batch)[0], abs=1e-5)
