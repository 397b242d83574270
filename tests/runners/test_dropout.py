"""Dropout: on where a gradient step fits, off in all that acts and values, and what each scheme compares."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agents.types import Loss, Unroll, rows
from networks.actor_critic import Output
from networks.cores import CORES
from runners.config import RunConfig
from runners.learning.passes import under_mask
from runners.training import AgentTraining
from support.agent_oracles import plan_of
from support.runs import small

SCHEMES = ["whole", "masked", "paired"]


def with_dropout(scheme: str = "whole", core: str = "gtrxl", dropout: float = 0.3, **options) -> RunConfig:
    config = small(core, **{"minibatches": 1, "passes": 2, **options})
    network = replace(config.network, dropout=dropout)
    return replace(config, network=network, agent=replace(config.agent, dropout_scheme=scheme))


def after_a_batch(config: RunConfig) -> AgentTraining:
    """Its next batch is in `sampler.buffer`, collected with the learner's own weights."""
    training = AgentTraining(config)
    loop = training.run()
    next(loop)
    with torch.no_grad():  # policy and values that differ from step to step
        for head in (training.network.policy_head, training.network.value_head):
            head.output.weight.normal_(generator=torch.Generator().manual_seed(0))
    training.sampler.publish(training.network)
    training.sampler.next()
    training.loop = loop
    return training


def without_mask(training: AgentTraining, unroll: Unroll) -> Output:
    """The whole network's pass."""
    inputs = unroll.observation, unroll.previous_action, unroll.reward, unroll.first, unroll.state
    with torch.no_grad():
        return training.network(*inputs)


def loss_of(training: AgentTraining, unroll: Unroll) -> Loss:
    """Return the loss of a first gradient step on the whole batch."""
    learner, head = training.learner, training.network.value_head
    return learner.agent.loss(learner.passes(unroll), unroll, plan_of(learner.agent, unroll, head), head)


def parameters_of(policy) -> Tensor:
    return policy.parameters().detach()


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_before_any_step_only_a_masked_policy_has_moved(scheme: str, core: str) -> None:
    training = after_a_batch(with_dropout(scheme, core))
    learner, unroll = training.learner, training.sampler.buffer.unroll
    learner.passes.begin_batch()
    passes = learner.passes(unroll)
    kl = passes.old.kl(passes.new)[unroll.valid].mean().item()
    assert kl > 1e-3 if scheme == "masked" else abs(kl) < 1e-6
    fitted = unroll.valid & (parameters_of(rows(passes.fitted.policy)) - unroll.policy).abs().amax(-1).gt(1e-4)
    assert fitted.float().mean() > 0.8  # what is fitted is masked in every scheme
    whole = without_mask(training, unroll)
    torch.testing.assert_close(parameters_of(rows(whole.policy)), unroll.policy, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_ratios_of_ppo_are_one_before_any_step_unless_masked(scheme: str) -> None:
    training = after_a_batch(with_dropout(scheme, agent="ppo"))
    learner, unroll = training.learner, training.sampler.buffer.unroll
    learner.passes.begin_batch()
    metrics = loss_of(training, unroll).metrics
    still = metrics["m_step/ratio_variance"] < 1e-8 and metrics["m_step/clipped"] == 0
    assert still if scheme != "masked" else metrics["m_step/ratio_variance"] > 1e-3 and metrics["m_step/clipped"] > 0


def test_the_seed_alone_makes_the_mask() -> None:
    training = after_a_batch(with_dropout("paired"))
    unroll = training.sampler.buffer.unroll
    inputs = unroll.observation, unroll.previous_action, unroll.reward, unroll.first, unroll.state
    outputs = []
    for seed in (1, 1, 2):
        torch.rand(7)  # wherever the generator stands
        before = torch.get_rng_state()
        with torch.no_grad():
            outputs.append(under_mask(seed, training.network, training.network, inputs).policy.parameters())
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_paired_passes_share_a_mask_and_the_next_step_has_another() -> None:
    training = after_a_batch(with_dropout("paired"))
    learner, unroll = training.learner, training.sampler.buffer.unroll
    learner.passes.begin_batch()
    one, other = learner.passes(unroll), learner.passes(unroll)
    torch.testing.assert_close(parameters_of(one.old), parameters_of(one.new), atol=0, rtol=0)
    assert (parameters_of(one.new) - parameters_of(other.new)).abs().max() > 1e-2
    with torch.no_grad():
        learner.network.policy_head.output.bias += torch.tensor([0.5, -0.5])
    moved = learner.passes(unroll)
    shift = rows(moved.fitted.policy).parameters() - moved.old.parameters()
    torch.testing.assert_close(shift, torch.tensor([0.5, -0.5]).expand_as(shift), atol=1e-5, rtol=0)
    learner.passes.begin_batch()
    again = learner.passes(unroll)
    assert again.old.kl(again.new).abs().max() < 1e-6


@pytest.mark.parametrize("agent", ["vmpo", "ppo"])
def test_value_targets_and_advantages_know_no_mask(agent: str) -> None:
    """They are made of the values in the unroll, which the acting network says and the online one repeats."""
    masked, plain = (after_a_batch(with_dropout(dropout=p, agent=agent)) for p in (0.3, 0.0))
    plain.network.load_state_dict(masked.network.state_dict())
    unroll = masked.sampler.buffer.unroll
    plans = []
    for training in (masked, plain):
        head = training.network.value_head
        value = head.denormalise(without_mask(plain, unroll).value)
        torch.testing.assert_close(unroll.value, value, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(training.learner._values(unroll), value, atol=1e-5, rtol=1e-5)
        own = unroll._replace(value=training.learner._values(unroll))
        plans.append(plan_of(training.learner.agent, own, head))
    for name in ("returns", "advantages", "weights"):
        torch.testing.assert_close(*(getattr(plan, name) for plan in plans), atol=1e-5, rtol=1e-5)
    assert (loss_of(masked, unroll).value - loss_of(plain, unroll).value).abs() > 1e-4


def test_the_whole_scheme_compares_by_a_gradient_without_mask() -> None:
    """At pi_old a KL is at its minimum: its gradient is 0 there, and the mask's would not be."""
    training = after_a_batch(with_dropout("whole"))
    learner, unroll = training.learner, training.sampler.buffer.unroll
    passes = learner.passes(unroll)
    kl = passes.old.kl(passes.new)[unroll.valid].mean()
    grads = torch.autograd.grad(kl, list(learner.network.policy_head.parameters()))
    assert max(g.abs().max() for g in grads) < 1e-5
    passes.old.kl(rows(passes.fitted.policy))[unroll.valid].mean().backward()
    assert learner.network.policy_head.output.weight.grad.abs().max() > 1e-4


def test_what_acts_and_is_evaluated_never_drops() -> None:
    training = after_a_batch(with_dropout("paired"))
    next(training.loop)
    networks = [training.network, training.sampler.network, training.acting_network()]
    assert not any(module.training for network in networks for module in network.modules())


@pytest.mark.parametrize("core", CORES)
def test_a_core_drops_what_its_blocks_give(core: str) -> None:
    training = after_a_batch(with_dropout(core=core))
    network, unroll = training.network, training.sampler.buffer.unroll
    x = torch.randn(*unroll.first.shape, network.core.output_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, _ = network.core(x, unroll.first, unroll.state)
        network.core.train()
        dropped, _ = network.core(x, unroll.first, unroll.state)
        network.core.eval()
    assert torch.equal(whole, dropped) == (core == "feedforward")


@pytest.mark.parametrize(("dropout", "scheme", "count"), [(0.0, "whole", 1), (0.3, "whole", 2), (0.3, "masked", 1)])
def test_without_dropout_there_is_one_pass(dropout: float, scheme: str, count: int) -> None:
    training = after_a_batch(with_dropout(scheme, dropout=dropout))
    unroll, calls, forward = training.sampler.buffer.unroll, [], training.learner.passes.forward
    training.learner.passes.forward = lambda *inputs, **options: calls.append(1) or forward(*inputs, **options)
    passes = training.learner.passes(unroll)
    assert len(calls) == count
    same = torch.equal(parameters_of(passes.new), parameters_of(rows(passes.fitted.policy)))
    assert same == (count == 1)


def test_a_run_with_dropout_repeats_to_the_bit() -> None:
    weights = []
    for _ in range(2):
        training = AgentTraining(with_dropout("paired"))
        loop = training.run()
        for _ in range(3):
            next(loop)
        weights.append(torch.cat([p.detach().flatten() for p in training.network.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("dropout", "scheme", "compile_", "message"),
    [
        (1.0, "whole", False, r"--dropout must lie in \[0, 1\), not 1.0"),
        (0.0, "paired", False, "--dropout-scheme paired has no effect without --dropout"),
        (0.1, "paired", True, "leave out --compile"),
    ],
)
def test_impossible_choices(dropout: float, scheme: str, compile_: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_dropout(scheme, dropout=dropout, compile=compile_)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": 1}, "from which its one gradient step is no distance away: take whole"),
        ({"target_period": 8}, "pi_old is an older one at --target-period 8: take whole"),
    ],
)
def test_paired_is_refused_where_its_distance_is_none_or_another(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_dropout("paired", **options)
    with_dropout("whole", **options)
