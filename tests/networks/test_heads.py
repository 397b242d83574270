"""PopArt: what the value head predicts survives a change of its statistics, and these match numpy. Policy heads."""

import numpy as np
import pytest
import torch
from torch import Tensor

from networks.distributions import Categorical, Choice, Gaussian, Reals
from networks.heads import PolicyHead, PopArtHead
from support import oracles
from support.oracles import array

SIZE, HIDDEN = 6, 9


def head(step_size: float = 1e-4, seed: int = 0) -> PopArtHead:
    torch.manual_seed(seed)
    return PopArtHead(SIZE, HIDDEN, step_size)


def started(step_size: float = 1e-4) -> PopArtHead:
    """A head that has seen returns that differ, and has learned something."""
    value = head(step_size)
    targets = torch.randn(50, generator=torch.Generator().manual_seed(7))
    value.update(targets, everywhere(targets))
    torch.nn.init.normal_(value.output.weight, generator=torch.Generator().manual_seed(8))
    torch.nn.init.constant_(value.output.bias, 0.3)
    return value


def everywhere(targets: Tensor) -> Tensor:
    return torch.ones_like(targets, dtype=torch.bool)


def batches(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Targets [T, B] whose place and spread change, and masks."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for k in range(count):
        targets = (5.0 * k - 10.0) + (1.0 + 2.0 * k) * torch.randn(7, 4, generator=generator)
        result.append((targets, torch.rand(7, 4, generator=generator) < 0.6))
    return result


@pytest.mark.parametrize("step_size", [1e-4, 1e-2, 0.5, 1.0])
def test_first_update_gives_the_batch_itself(step_size: float) -> None:
    value = head(step_size)
    targets, _ = batches(3)[2]
    value.update(targets, everywhere(targets))
    assert float(value.mean) == pytest.approx(array(targets).mean(), rel=1e-6)
    assert float(value.std) == pytest.approx(array(targets).std(), rel=1e-6)  # the biased one: it is a second moment


@pytest.mark.parametrize("step_size", [1e-4, 3e-2, 0.5])
def test_statistics_match_numpy(step_size: float) -> None:
    value = head(step_size)
    seen = []
    for targets, mask in batches(12):
        value.update(targets, mask)
        seen.append(array(targets)[mask.numpy()])
        mean, std = oracles.popart_statistics(seen, step_size)
        assert float(value.mean) == pytest.approx(mean, rel=1e-5, abs=1e-6)
        assert float(value.std) == pytest.approx(std, rel=1e-5)


def test_masked_targets_have_no_say() -> None:
    one, other = head(), head()
    targets, mask = batches(1)[0]
    one.update(targets, mask)
    other.update(torch.where(mask, targets, 1e6 * torch.ones_like(targets)), mask)
    assert torch.equal(one.mean, other.mean) and torch.equal(one.std, other.std)


def test_masked_targets_may_be_nonsense() -> None:
    value = head()
    targets, mask = batches(1)[0]
    value.update(torch.where(mask, targets, torch.full_like(targets, torch.nan)), mask)
    assert float(value.mean) == pytest.approx(array(targets)[mask.numpy()].mean(), rel=1e-6)
    assert torch.isfinite(value.std)
    assert all(parameter.isfinite().all() for parameter in value.parameters())


def test_nothing_valid_changes_nothing() -> None:
    for seen in ([], batches(2)):
        value = head()
        for targets, mask in seen:
            value.update(targets, mask)
        before = {name: part.clone() for name, part in value.state_dict().items()}
        value.update(torch.randn(7, 4), torch.zeros(7, 4, dtype=torch.bool))
        for name, part in value.state_dict().items():
            torch.testing.assert_close(part, before[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("step_size", [1e-4, 1e-2, 0.5])
def test_update_preserves_what_is_predicted(step_size: float) -> None:
    value = started(step_size)
    x = torch.randn(20, SIZE)
    before = value.denormalise(value(x)).detach()
    assert before.std() > 0.1
    for targets, mask in batches(12):
        value.update(targets, mask)
        torch.testing.assert_close(value.denormalise(value(x)).detach(), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale,shift", [(0.02, 0.0), (1.0, 100.0), (1e4, 0.0), (300.0, -2e3)])
def test_update_preserves_at_any_scale(scale: float, shift: float) -> None:
    """To float32 of the largest number in play, after a jump to another scale and back."""
    value = started(0.5)
    x = torch.randn(20, SIZE)
    before = value.denormalise(value(x)).detach()
    for targets in (shift + scale * torch.randn(50), torch.randn(50)):
        value.update(targets, everywhere(targets))
        after = value.denormalise(value(x)).detach()
        assert (after - before).abs().max() < 1e-5 * max(1.0, abs(shift), scale)


def test_update_changes_no_gradient_graph_and_only_the_last_layer() -> None:
    value = head()
    body = {name: part.clone() for name, part in value.body.state_dict().items()}
    targets, mask = batches(3)[2]
    value.update(targets.requires_grad_(), mask)
    assert all(torch.equal(part, body[name]) for name, part in value.body.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in value.parameters())
    assert not value.mean.requires_grad and not value.std.requires_grad


def test_spread_is_kept_when_the_mean_is_far_away() -> None:
    """Mean 3000, spread 1: the difference of the moments must not drown in rounding."""
    value = head()
    targets = 3000.0 + torch.randn(4000, generator=torch.Generator().manual_seed(0))
    value.update(targets, everywhere(targets))
    assert float(value.std) == pytest.approx(array(targets).std(), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1e-4, 1.0, 1e9])
def test_std_has_no_bounds(scale: float) -> None:
    value = head()
    targets = scale * torch.tensor([-1.0, 1.0, 2.0, -3.0])
    value.update(targets, everywhere(targets))
    assert float(value.std) == pytest.approx(array(targets).std(), rel=1e-6)
    assert value.normalise(targets).abs().max() < 2


# --- the start ------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [0.0, 3.0, 1000.0, 0.1, -1e-8])
def test_returns_that_do_not_differ_leave_the_deviation_alone(constant: float) -> None:
    """At first, when it is 1, and later, when it is what it was; the mean follows."""
    value = head(1.0)
    torch.nn.init.normal_(value.output.weight)
    x, same = torch.randn(20, SIZE), torch.full((7, 4), constant)
    output = {name: part.clone() for name, part in value.output.state_dict().items()}
    for _ in range(3):
        value.update(same, everywhere(same))
        assert float(value.std) == 1 and not value.started.any()
        assert float(value.mean) == pytest.approx(constant)
        for name, part in value.output.state_dict().items():
            assert torch.equal(part, output[name]), name
    differ, _ = batches(2)[1]
    value.update(differ, everywhere(differ))
    assert value.started.all() and float(value.std) == pytest.approx(array(differ).std(), rel=1e-6)
    before = value.denormalise(value(x)).detach()
    for _ in range(3):
        value.update(same, everywhere(same))
        assert float(value.std) == pytest.approx(array(differ).std(), rel=1e-6)
        torch.testing.assert_close(value.denormalise(value(x)).detach(), before, atol=1e-4, rtol=1e-5)


def test_nothing_is_predicted_at_the_start() -> None:
    assert torch.equal(head()(torch.randn(20, SIZE)), torch.zeros(20))


@pytest.mark.parametrize("step_size", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("scale,shift", [(1e-8, 0.0), (1.0, 0.0), (1e6, 0.0), (1.0, 1000.0)])
@pytest.mark.parametrize("rare", [False, True])
def test_the_first_targets_are_of_size_1(step_size: float, scale: float, shift: float, rare: bool) -> None:
    """However large they are; where one of N differs from the rest, it is sqrt(N) at most."""
    value, count = head(step_size), 128
    for _ in range(3):  # nothing happens
        same = torch.full((32, 4), shift)
        value.update(same, everywhere(same))
    targets = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    if rare:
        targets = torch.zeros(32, 4)
        targets[5, 1] = 1.0
    targets = shift + scale * targets
    value.update(targets, everywhere(targets))
    assert float(value.std) == pytest.approx(array(targets).std(), rel=1e-3)  # what came before has no part in it
    normalised = value.normalise(targets)
    assert normalised.abs().max() <= 1.02 * np.sqrt(count)
    loss = 0.5 * (value(torch.randn(32, 4, SIZE)) - normalised).square().mean()
    assert loss.item() == pytest.approx(0.5, rel=2e-3)


def test_the_first_returns_that_differ_are_not_preserved_against() -> None:
    """The output layer stays: preserving what it predicted would scale it by 1 / std, here by a million."""
    value = head()
    torch.nn.init.normal_(value.output.weight)
    output = {name: part.clone() for name, part in value.output.state_dict().items()}
    targets = 1e-6 * torch.randn(7, 4)
    value.update(targets, everywhere(targets))
    for name, part in value.output.state_dict().items():
        assert torch.equal(part, output[name]), name


def test_each_task_starts_by_itself() -> None:
    value = PopArtHead(SIZE, HIDDEN, 1e-2, tasks=2)
    torch.nn.init.normal_(value.output.weight)
    task, x = torch.tensor([0, 1]), torch.randn(9, 2, SIZE)
    differ = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    value.update(differ, everywhere(differ), task=task)
    assert value.started.tolist() == [True, False] and float(value.std[1]) == 1
    before, weight = value.denormalise(value(x, task), task).detach(), value.output.weight[1].clone()
    later = torch.tensor([[7.0, 1e5], [-2.0, 2e5], [3.0, 4e5]])
    value.update(later, everywhere(later), task=task)
    after = value.denormalise(value(x, task), task).detach()
    assert value.started.tolist() == [True, True] and torch.equal(value.output.weight[1], weight)
    torch.testing.assert_close(after[:, 0], before[:, 0], atol=1e-5, rtol=1e-5)
    assert float(value.std[1]) > 1e4


def make_heads(tasks: int) -> tuple[PopArtHead, list[PopArtHead]]:
    """A head of several tasks, and one of each task alone with its part of the weights."""
    torch.manual_seed(0)
    joint = PopArtHead(6, 5, 0.1, tasks)
    torch.nn.init.normal_(joint.output.weight)
    alone = [PopArtHead(6, 5, 0.1) for _ in range(tasks)]
    for i, head in enumerate(alone):
        head.body.load_state_dict(joint.body.state_dict())
        with torch.no_grad():
            head.output.weight.copy_(joint.output.weight[i : i + 1])
            head.output.bias.copy_(joint.output.bias[i : i + 1])
    return joint, alone


def test_popart_of_several_tasks_is_one_of_each():
    joint, alone = make_heads(3)
    task = torch.tensor([0, 2, 1, 2])
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(7, 4, 6, generator=rng)
    for _ in range(5):
        targets = torch.randn(7, 4, generator=rng) * torch.tensor([1.0, 100.0, 0.1, 100.0]) + 3
        mask = torch.rand(7, 4, generator=rng) < 0.7
        joint.update(targets, mask, task=task)
        for i, head in enumerate(alone):
            head.update(targets[:, task == i], mask[:, task == i])
    value = joint(x, task)
    assert value.shape == (7, 4)
    for i, head in enumerate(alone):
        mine = task == i
        torch.testing.assert_close(joint.mean[i : i + 1], head.mean)
        torch.testing.assert_close(joint.std[i : i + 1], head.std)
        torch.testing.assert_close(value[:, mine], head(x[:, mine]))
        torch.testing.assert_close(joint.denormalise(value, task)[:, mine], head.denormalise(value[:, mine]))
        torch.testing.assert_close(joint.normalise(targets, task)[:, mine], head.normalise(targets[:, mine]))


def test_a_task_without_samples_keeps_its_statistics():
    joint, _ = make_heads(2)
    joint.update(torch.ones(3, 2), torch.ones(3, 2, dtype=torch.bool), task=torch.tensor([1, 1]))
    assert joint.std[0] == 1 and joint.mean[0] == 0 and joint.mean[1] == 1


# --- statistics are units -------------------------------------------------------------------------


def test_starts_as_the_identity() -> None:
    value = head()
    v = torch.randn(5)
    assert float(value.mean) == 0.0 and float(value.std) == 1.0
    torch.testing.assert_close(value.normalise(v), v)
    torch.testing.assert_close(value.denormalise(v), v)


def test_normalise_and_denormalise() -> None:
    value = head()
    targets = 5.0 + 3.0 * torch.randn(100)
    value.update(targets, everywhere(targets))
    v = torch.randn(4, 3)
    assert value.normalise(v).dtype == value.denormalise(v).dtype == torch.float32
    np.testing.assert_allclose(array(value.denormalise(v)), array(v) * float(value.std) + float(value.mean), rtol=1e-5)
    torch.testing.assert_close(value.normalise(value.denormalise(v)), v)
    normalised = array(value.normalise(targets))
    assert normalised.mean() == pytest.approx(0.0, abs=1e-5) and normalised.std() == pytest.approx(1.0, rel=1e-5)


def test_statistics_are_saved() -> None:
    one, other = head(1e-2), head(1e-2, seed=1)
    parts = batches(6)
    for targets, mask in parts[:3]:
        one.update(targets, mask)
    other.load_state_dict(one.state_dict())
    for targets, mask in parts[3:]:
        one.update(targets, mask)
        other.update(targets, mask)
    for name, part in one.state_dict().items():
        assert torch.equal(part, other.state_dict()[name]), name


def test_value_has_the_leading_dimensions_of_its_input() -> None:
    assert head()(torch.randn(4, 3, SIZE)).shape == (4, 3)
    assert head()(torch.randn(SIZE)).shape == ()


# --- policy ---------------------------------------------------------------------------------------


def test_discrete_policy_head() -> None:
    torch.manual_seed(0)
    policy = PolicyHead(SIZE, HIDDEN, Choice(4))(torch.randn(3, 2, SIZE))
    assert isinstance(policy, Categorical)
    assert policy.logits.shape == (3, 2, 4) and policy.entropy().shape == (3, 2)
    # A policy not yet trained explores.
    assert policy.entropy().min() > 0.95 * np.log(4.0)


def test_gaussian_policy_head() -> None:
    torch.manual_seed(0)
    module = PolicyHead(SIZE, HIDDEN, Reals(4), initial_std=0.6)
    policy = module(torch.randn(3, 2, SIZE))
    assert isinstance(policy, Gaussian)
    assert policy.mean.shape == policy.std.shape == (3, 2, 4)
    assert (policy.std - 0.6).abs().max() < 0.1
    extreme = module(1e4 * torch.randn(50, SIZE))
    assert (extreme.std > 0).all() and extreme.std.isfinite().all() and extreme.mean.isfinite().all()


def test_policy_head_gradients_reach_every_weight() -> None:
    for space in (Choice(3), Reals(3)):
        module = PolicyHead(SIZE, HIDDEN, space)
        policy = module(torch.randn(10, SIZE))
        (policy.log_prob(policy.sample()).sum() + policy.entropy().sum()).backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())
