"""Returns and advantages against plain loops, hand-computed cases, and what a return may depend on."""

import numpy as np
import pytest
import torch

from agents.evaluation import evaluate_policy, value_loss
from agents.returns import lambda_returns, masked_mean, standardise
from support.agent_oracles import Ends, forward_view, gae, popart, random_batch, random_ends, to_torch, valid_steps

LAMBDAS = [0.0, 0.5, 0.95, 1.0]


def returns(reward, ends: Ends, value, gamma: float, lambda_: float, dtype=torch.float64) -> np.ndarray:
    """`lambda_returns` of [T + 1, B] arrays, with discount and cut as an unroll gives them."""
    discount = gamma * ~ends.terminated[1:]
    cut = torch.tensor((ends.terminated | ends.truncated)[1:])
    args = (torch.tensor(np.asarray(x), dtype=dtype) for x in (reward[1:], discount, value))
    return lambda_returns(*args, cut, lambda_).numpy()


def one(rewards: list[float], values: list[float], terminated: int | None = None, truncated: int | None = None):
    """One environment: `rewards[t]` answers action t, `values[t]` is V(s_t); an episode may end at a row."""
    column = lambda row: np.arange(len(values))[:, None] == (-1 if row is None else row)  # noqa: E731
    first = np.roll(column(terminated) | column(truncated), 1)
    reward = np.array([0.0, *rewards])[:, None]
    return reward, Ends(first, column(terminated), column(truncated)), np.array(values)[:, None]


@pytest.mark.parametrize("lambda_", LAMBDAS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 21])
def test_equals_the_forward_view(steps, lambda_):
    rng = np.random.default_rng(steps)
    ends, reward = random_ends(rng, steps, 6), rng.normal(size=(steps + 1, 6))
    value, valid = rng.normal(size=reward.shape), valid_steps(ends)
    expected = forward_view(reward, ends, value, 0.9, lambda_)
    np.testing.assert_allclose(returns(reward, ends, value, 0.9, lambda_)[valid], expected[valid], atol=1e-12)


@pytest.mark.parametrize("lambda_", LAMBDAS)
def test_minus_the_value_is_gae(lambda_):
    rng = np.random.default_rng(3)
    ends, reward = random_ends(rng, 20, 5), rng.normal(size=(21, 5))
    value, valid = rng.normal(size=reward.shape), valid_steps(ends)
    advantages = returns(reward, ends, value, 0.97, lambda_) - value[:-1]
    np.testing.assert_allclose(advantages[valid], gae(reward, ends, value, 0.97, lambda_)[valid], atol=1e-12)


def test_n_steps_to_the_end_of_the_unroll():
    reward, ends, value = one([1.0, 2.0, 4.0], [100.0, 200.0, 300.0, 8.0])
    # G_2 = 4 + 8/2, G_1 = 2 + 8/2, G_0 = 1 + 6/2: no value but the last enters.
    assert returns(reward, ends, value, 0.5, 1.0)[:, 0].tolist() == [4.0, 6.0, 8.0]


def test_td_0():
    reward, ends, value = one([1.0, 2.0, 4.0], [100.0, 20.0, 30.0, 8.0])
    assert returns(reward, ends, value, 0.5, 0.0)[:, 0].tolist() == [11.0, 17.0, 8.0]


def test_lambda_one_half():
    reward, ends, value = one([1.0, 2.0], [100.0, 20.0, 8.0])
    # G_1 = 2 + 4 = 6; G_0 = 1 + 0.5 (0.5 * 20 + 0.5 * 6) = 7.5.
    assert returns(reward, ends, value, 0.5, 0.5)[:, 0].tolist() == [7.5, 6.0]


@pytest.mark.parametrize("lambda_, expected", [(1.0, [2.0, 2.0]), (0.0, [11.0, 2.0])])
def test_a_death_is_worth_nothing_more(lambda_, expected):
    reward, ends, value = one([1.0, 2.0, 0.0, 50.0], [1.0, 20.0, 999.0, 999.0, 999.0], terminated=2)
    got = returns(reward, ends, value, 0.5, lambda_)[:, 0]
    assert got[:2].tolist() == expected
    assert got[3] == 50 + 0.5 * 999  # the next episode starts at row 3 and stands on its own


@pytest.mark.parametrize("lambda_, expected", [(1.0, [4.0, 6.0]), (0.0, [11.0, 6.0])])
def test_a_time_limit_bootstraps_from_the_true_last_observation(lambda_, expected):
    reward, ends, value = one([1.0, 2.0, 0.0, 50.0], [1.0, 20.0, 8.0, 999.0, 999.0], truncated=2)
    assert returns(reward, ends, value, 0.5, lambda_)[:2, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["terminated", "truncated"])
def test_an_end_at_the_last_row(kind):
    reward, ends, value = one([1.0, 2.0], [7.0, 7.0, 8.0], **{kind: 2})
    tail = 0.0 if kind == "terminated" else 8.0
    assert returns(reward, ends, value, 0.5, 1.0)[:, 0].tolist() == [1 + 0.5 * (2 + 0.5 * tail), 2 + 0.5 * tail]


@pytest.mark.parametrize("lambda_", LAMBDAS)
def test_nothing_crosses_an_end(lambda_):
    rng = np.random.default_rng(5)
    steps, row = 9, 4
    for kind in ("terminated", "truncated"):
        reward, ends, value = one(list(rng.normal(size=steps)), list(rng.normal(size=steps + 1)), **{kind: row})
        before = returns(reward, ends, value, 0.9, lambda_)
        reward[row + 1 :] += 1e3  # from the reset on
        value[row + 1 :] += 1e3
        after = returns(reward, ends, value, 0.9, lambda_)
        np.testing.assert_array_equal(after[:row], before[:row])
        assert np.all(after[row + 1 :] > before[row + 1 :] + 100)


def test_environments_do_not_mix():
    rng = np.random.default_rng(6)
    ends, reward, value = random_ends(rng, 8, 3), rng.normal(size=(9, 3)), rng.normal(size=(9, 3))
    together = returns(reward, ends, value, 0.9, 0.9)
    for b in range(3):
        alone = returns(reward[:, [b]], Ends(*(x[:, [b]] for x in ends)), value[:, [b]], 0.9, 0.9)
        np.testing.assert_allclose(together[:, [b]], alone, atol=1e-14)


def test_which_values_a_return_depends_on():
    """lambda = 1: only the bootstrap's; lambda = 0: only the next state's."""
    value = torch.randn(6, 1, dtype=torch.float64, requires_grad=True)
    reward, cut = torch.zeros(5, 1, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.bool)
    discount = torch.full_like(reward, 0.5)
    for lambda_, row, weight in ((1.0, 5, 0.5**4), (0.0, 2, 0.5)):
        (gradient,) = torch.autograd.grad(lambda_returns(reward, discount, value, cut, lambda_)[1, 0], value)
        assert torch.equal(gradient.nonzero()[:, 0], torch.tensor([row]))
        assert gradient[row].item() == weight


@pytest.mark.parametrize("lambda_", LAMBDAS)
def test_true_values_are_a_fixed_point(lambda_):
    """With V the value of a deterministic chain every lambda agrees: advantages are 0."""
    rng = np.random.default_rng(7)
    rewards, gamma = rng.normal(size=12), 0.95
    values = [0.0]
    for r in rewards[::-1]:
        values.append(r + gamma * values[-1])
    reward, ends, value = one(list(rewards), values[::-1], terminated=12)
    np.testing.assert_allclose(returns(reward, ends, value, gamma, lambda_), value[:-1], atol=1e-12)


def test_float32_over_a_long_unroll():
    rng = np.random.default_rng(8)
    ends = random_ends(rng, 300, 2, p_end=0.01)
    reward, value, valid = rng.normal(size=(301, 2)), rng.normal(size=(301, 2)), valid_steps(ends)
    got = returns(reward, ends, value, 0.997, 1.0, torch.float32)
    assert got.dtype == np.float32
    # A loop; the forward view would take 300^3 operations.
    expected = gae(reward, ends, value, 0.997, 1.0) + value[:-1]
    np.testing.assert_allclose(got[valid], expected[valid], atol=1e-4, rtol=1e-5)


def test_masked_mean_and_standardise():
    rng = np.random.default_rng(9)
    x, mask = rng.normal(3, 5, size=(6, 4)), rng.random((6, 4)) < 0.6
    x[~mask] = 1e6
    got = standardise(torch.tensor(x), torch.tensor(mask)).numpy()
    assert masked_mean(torch.tensor(x), torch.tensor(mask)).item() == pytest.approx(x[mask].mean(), abs=1e-12)
    np.testing.assert_allclose(got[mask], (x[mask] - x[mask].mean()) / x[mask].std(), atol=1e-6)
    assert np.all(got[~mask] == 0)


@pytest.mark.parametrize("mask", [[True, True, True], [True, False, False], [False, False, False]])
def test_standardise_without_spread(mask):
    got = standardise(torch.full((3,), 7.0), torch.tensor(mask))
    assert torch.equal(got, torch.zeros(3))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-8, 1.0, 1e8, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standardise_knows_no_units(dtype, scale):
    """Of a spread that is small beside the mean too, as long as it is more than rounding."""
    rng = np.random.default_rng(10)
    x, mask = rng.normal(0.5, 1.0, size=(6, 4)), torch.tensor(rng.random((6, 4)) < 0.6)
    plain = standardise(torch.tensor(x, dtype=dtype), mask)
    got = standardise(torch.tensor(scale * x, dtype=dtype), mask)
    torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-5)
    assert got.dtype == dtype and got[mask].std(correction=0).item() == pytest.approx(1, rel=1e-5)
    level = torch.full((6, 4), 0.1 * scale, dtype=dtype)
    assert not standardise(level, mask).any()
    rounding = 1 + torch.finfo(dtype).eps * (torch.arange(24).view(6, 4) % 2)
    assert not standardise(level * torch.where(mask, rounding, 9), mask).any()


@pytest.mark.parametrize("lambda_", [0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_evaluation_of_an_unroll(seed, lambda_):
    """Targets in units of the return from the denormalised values, the loss in normalised units, over valid steps."""
    batch, mean, std = random_batch(seed, continuous=False, steps=7), 0.7, 2.5
    output, unroll, _, value = to_torch(batch, mean=mean, std=std)
    evaluation = evaluate_policy(unroll, 0.95, lambda_)
    raw, valid = batch.value * std + mean, batch.valid
    expected = forward_view(batch.reward, batch.ends, raw, 0.95, lambda_)
    np.testing.assert_allclose(evaluation.returns.numpy()[valid], expected[valid], atol=1e-10)
    np.testing.assert_allclose(evaluation.advantages.numpy()[valid], (expected - raw[:-1])[valid], atol=1e-10)
    assert not evaluation.returns.requires_grad and not evaluation.advantages.requires_grad

    error = batch.value[:-1] - (expected - mean) / std
    loss = value_loss(output.value[:-1], evaluation.returns, unroll.valid, unroll.task, popart(mean, std))
    assert loss.item() == pytest.approx(0.5 * np.mean(error[valid] ** 2), abs=1e-10)
    (gradient,) = torch.autograd.grad(loss, value)
    slope = np.append(np.where(valid, error, 0) / valid.sum(), np.zeros((1, 4)), 0)  # targets are constants
    np.testing.assert_allclose(gradient.numpy(), slope, atol=1e-10)
