"""What is taken off a completion's reward, against sums by hand and exact expectations."""

import itertools
import math

import numpy as np
import pytest
import torch

from agents.returns import standardise
from agents.sequences.baselines import MovingAverage, batch_mean, group_mean, leave_one_out
from agents.sequences.value import ValueHead, token_returns


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
    head = ValueHead(3)
    assert torch.all(head(features) == 0) and head(features).shape == (5,)
    loss = head.loss(features, rewards)
    assert loss.item() == pytest.approx(0.5 * np.sum(rewards.numpy() ** 2))
    loss.backward()
    assert features.grad is None
    expected = -(rewards.unsqueeze(1) * features.detach()).sum(0)
    torch.testing.assert_close(head.linear.weight.grad[0], expected)


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_the_advantages_of_tokens_are_those_of_gae(lambda_):
    """A_t = sum_l lambda^l delta_(t+l) by a loop, delta_t = V_(t+1) - V_t, and r - V_t at a completion's last token."""
    rng = np.random.default_rng(1)
    lengths, rewards, values = [4, 1, 6, 0, 3], rng.normal(size=5), rng.normal(size=(5, 6))
    mask = np.arange(6) < np.array(lengths)[:, None]
    found = token_returns(*map(torch.tensor, (values, rewards, mask)), lambda_) - torch.tensor(values)
    for i, length in enumerate(lengths):
        advantage = 0.0
        for t in reversed(range(length)):
            after = values[i, t + 1] if t + 1 < length else rewards[i]
            advantage = after - values[i, t] + (lambda_ * advantage if t + 1 < length else 0)
            assert found[i, t].item() == pytest.approx(advantage, abs=1e-12)
    assert torch.equal(~found.isnan(), torch.tensor(mask))


def test_the_value_head_of_tokens_fits_their_returns_alone():
    features = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    returns = torch.tensor([[1.0, 2.0, math.nan], [3.0, math.nan, math.nan]])
    head = ValueHead(4)
    loss = head.loss(features, returns)
    assert head(features).shape == (2, 3) and loss.item() == pytest.approx(0.5 * (1 + 4 + 9))
    loss.backward()
    expected = -(features[0, 0] + 2 * features[0, 1] + 3 * features[1, 0])
    torch.testing.assert_close(head.linear.weight.grad[0], expected)


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
