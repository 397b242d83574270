"""The plan of a batch and the gradient steps that follow it: one E-step, the values that it looks at, PopArt before the
loss, steps on eta, how long pi_old stays, and the average of the weights."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from agent_oracles import (
    Ends,
    best_eta,
    forward_view,
    gae,
    garbage,
    normalise,
    plan_of,
    popart,
    psi,
    random_batch,
    space,
    temperature_gradient,
    to_torch,
    top_k,
)
from test_runs import batches, small
from torch import Tensor, nn

from agents.config import AgentConfig
from agents.factory import make_agent
from agents.gempi.em import once
from agents.sequences.config import SequenceConfig
from agents.sequences.factory import make_sequence_agent
from agents.sequences.types import Samples
from agents.types import Plan, Unroll, one_pass
from networks.actor_critic import ActorCritic, Output, frozen_copy
from runners.acting.weights import evaluated, flatten_weights, load_weights
from runners.config import ControlEnv, RunConfig, to_dict
from runners.evaluate import main as evaluate_main
from runners.evaluation import evaluate
from runners.learning.duals import DualSteps
from runners.learning.learner import Learner
from runners.presets import PRESETS
from runners.records.checkpoint import Checkpoints
from runners.training import Training

GAMMA, LAMBDA = 0.95, 0.9
MEAN, STD = 0.7, 2.5  # PopArt's
BOTH = pytest.mark.parametrize("continuous", [False, True], ids=["categorical", "gaussian"])
AGENTS = {
    "vmpo": dict(eta_init=0.6),
    "vmpo, standardised": dict(eta_init=0.6, standardise_advantages=True, control_variate=0.5),
    "vmpo, solved": dict(temperature="solved", epsilon_eta=0.1),
    "awr": dict(lambda_behaviour=0.6),
    "dar": dict(lambda_behaviour=0.6, lambda_reference=0.4),
    "ppo": dict(standardise_advantages=True),
}


def make(name: str, continuous: bool, **changes):
    options = dict(discount=GAMMA, gae_lambda=LAMBDA) | AGENTS[name] | changes
    return make_agent(AgentConfig(agent=name.split(",")[0], **options), space(continuous)).double()


def of_columns(output: Output, index: Tensor) -> Output:
    policy = type(output.policy)(*(p[:, index] for p in output.policy))
    return output._replace(policy=policy, value=output.value[:, index])


def inputs(unroll: Unroll) -> tuple:
    return unroll.observation, unroll.previous_action, unroll.reward, unroll.first, unroll.state, unroll.task


@torch.no_grad()
def said(network: ActorCritic, unroll: Unroll) -> tuple[Tensor, Tensor]:
    """Policy parameters [T, B, P] and values [T+1, B], in units of the return, of a pass over the rows of `unroll`."""
    output = network(*inputs(unroll))
    return output.policy.parameters()[:-1], network.value_head.denormalise(output.value, unroll.task)


# A batch and its minibatches


@BOTH
@pytest.mark.parametrize("name", AGENTS)
def test_minibatches_add_up_to_the_batch(name: str, continuous: bool) -> None:
    """Losses and gradients of minibatches of any sizes, weighted by their valid steps, are those of the whole."""
    agent, head = make(name, continuous), popart(MEAN, STD)
    output, unroll, parameters, value = to_torch(random_batch(1, continuous, steps=6, batch=7), mean=MEAN, std=STD)
    if name == "dar":
        unroll = unroll._replace(reference=unroll.policy.flip(0))
    plan = plan_of(agent, unroll, head)
    assert agent.config.agent == "ppo" or plan.weights.std() > 0.1
    whole = agent.loss(one_pass(output, unroll), unroll, plan, head)
    sums: dict[str, Tensor] = {"policy_loss": 0, "total": 0, "value": 0}
    for index in torch.tensor([4, 0, 2, 1, 6, 3, 5]).split([1, 4, 2]):
        part = unroll.columns(index)
        share = part.valid.sum().double() / unroll.valid.sum()
        loss = agent.loss(one_pass(of_columns(output, index), part), part, plan.columns(index), head)
        sums["policy_loss"] += share * loss.metrics["m_step/policy_loss"]
        sums["total"] += share * loss.total
        sums["value"] += share * loss.value
    torch.testing.assert_close(sums["policy_loss"], whole.metrics["m_step/policy_loss"], atol=1e-7, rtol=0)
    torch.testing.assert_close(sums["total"], whole.total, atol=1e-7, rtol=0)
    torch.testing.assert_close(sums["value"], whole.value, atol=1e-7, rtol=0)
    one, other = (torch.autograd.grad(x, [parameters, value]) for x in (sums["total"], whole.total))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=0)
        assert b.abs().max() > 1e-3


@BOTH
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_n_psi(seed: int, standardise: bool, continuous: bool) -> None:
    """Of the valid steps of the whole batch, whatever stands at the others; PPO's are 1."""
    batch, agent = random_batch(seed, continuous), make("vmpo", continuous, standardise_advantages=standardise)
    raw, valid = batch.value * STD + MEAN, batch.valid
    returns = forward_view(batch.reward, batch.ends, raw, GAMMA, LAMBDA)
    advantages = np.where(valid, gae(batch.reward, batch.ends, raw, GAMMA, LAMBDA), 0)
    if standardise:
        advantages = normalise(advantages, valid)
    support = top_k(advantages.flatten(), valid.flatten(), 0.5)
    eta = agent.temperature().item()
    expected = valid.sum() * psi(advantages.flatten(), support, eta).reshape(valid.shape)
    for seen in (batch, garbage(batch, seed)):
        _, unroll, _, _ = to_torch(seen, mean=MEAN, std=STD)
        plan = plan_of(agent, unroll, popart(MEAN, STD))
        np.testing.assert_allclose(plan.weights.numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(plan.returns.numpy()[valid], returns[valid], atol=1e-9)
        np.testing.assert_allclose(plan.advantages.numpy()[valid], advantages[valid], atol=1e-7)
        assert plan.weights.sum().item() == pytest.approx(valid.sum(), abs=1e-9)
        assert not plan.weights[~torch.tensor(valid)].any()
        assert not any(x.requires_grad for x in plan[:3])
    ppo = plan_of(make("ppo", continuous), unroll, popart(MEAN, STD))
    assert torch.all(ppo.weights == 1) and ppo.dual_loss == 0


def test_a_batch_without_a_valid_step_has_weights_of_0() -> None:
    batch = random_batch(0, False, steps=1, batch=1)
    ends = Ends(batch.ends.first & False, np.array([[True], [False]]), batch.ends.truncated & False)
    for name in AGENTS:
        agent = make(name, False)
        output, unroll, _, _ = to_torch(batch._replace(ends=ends))
        plan = plan_of(agent, unroll, popart())
        loss = agent.loss(one_pass(output, unroll), unroll, plan, popart())
        assert loss.total.isfinite() and plan.dual_loss.isfinite(), name
        assert name == "ppo" or not plan.weights.any(), name


@pytest.mark.parametrize("where", ["columns", "index"])
def test_columns_of_a_plan(where: str) -> None:
    x = torch.arange(12.0).view(3, 4)
    plan = Plan(x, 10 * x, 100 * x, torch.tensor(7.0), {"m": torch.tensor(1.0)})
    index = torch.tensor([3, 1]) if where == "index" else slice(1, 3)
    part = plan.columns(index)
    for one, factor in zip(part[:3], (1, 10, 100), strict=True):
        assert torch.equal(one, factor * x[:, index])
    assert part.dual_loss is plan.dual_loss and part.metrics is plan.metrics


def watch(learner: Learner) -> tuple[list, list, list]:
    """Lists that fill up: arguments of the agent's plans (unroll, evaluation) and losses (unroll, plan), and PopArt's
    mean and deviation at each loss."""
    plans, losses, statistics = [], [], []
    plan, loss, head = learner.agent.plan, learner.agent.loss, learner.network.value_head

    def watched_plan(unroll, evaluation, popart, settle):
        plans.append((unroll, evaluation))
        return plan(unroll, evaluation, popart, settle)

    def watched_loss(passes, unroll, plan, popart, annealing=1.0):
        losses.append((unroll, plan))
        statistics.append((float(head.mean), float(head.std)))
        return loss(passes, unroll, plan, popart, annealing)

    learner.agent.plan, learner.agent.loss = watched_plan, watched_loss
    return plans, losses, statistics


def with_agent(config: RunConfig, **options) -> RunConfig:
    return replace(config, agent=replace(config.agent, **options))


@pytest.mark.parametrize("agent", ["vmpo", "ppo"])
def test_the_learner_plans_a_batch_once(agent: str) -> None:
    """All M-steps fit one E-step: as many steps on eta as gradient steps come first, and PopArt's update before."""
    training = batches(small("feedforward", agent=agent, passes=3, minibatches=2), 1)
    learner, unroll = training.learner, training.sampler.buffer.unroll
    unroll = unroll._replace(reward=2 * unroll.reward)
    plans, losses, statistics = watch(learner)
    updates, head = [], learner.network.value_head
    update = head.update
    head.update = lambda *arguments: updates.append(len(losses)) or update(*arguments)
    before = (float(head.mean), float(head.std))
    steps, settle = [], learner.duals.settle
    learner.duals.settle = lambda count: steps.append(count) or settle(count)
    learner.train(unroll, 0.0)
    assert len(plans) == 1 and steps == [3 * 2] and len(losses) == 6
    assert all(seen.reward.shape == unroll.reward.shape for seen, _ in plans)
    assert updates == [0] and len(set(statistics)) == 1 and statistics[0] != before
    for i in range(3):
        mine = losses[2 * i : 2 * i + 2]
        weights = sum(plan.weights.sum() for _, plan in mine)
        assert weights.item() == pytest.approx(unroll.valid.sum().item(), rel=1e-5)
        order = torch.cat([seen.observation[0] for seen, _ in mine])
        whole = {tuple(row.tolist()) for row in unroll.observation[0]}
        assert {tuple(row.tolist()) for row in order} == whole
    # In every pass the same weights stand beside the same steps.
    first, *later = (weights_beside(losses[2 * i : 2 * i + 2]) for i in range(3))
    for each in later:
        assert each.keys() == first.keys() and all(torch.equal(each[key], first[key]) for key in first)


def weights_beside(minibatches: list[tuple[Unroll, Plan]]) -> dict[tuple, Tensor]:
    """The weights [T] of each environment, by its first observation."""
    columns = [zip(unroll.observation[0].tolist(), plan.weights.T, strict=True) for unroll, plan in minibatches]
    return {tuple(observation): weights for pairs in columns for observation, weights in pairs}


def test_an_e_step_for_each_minibatch_is_another_method() -> None:
    config = small("feedforward", passes=2, minibatches=2)
    training = batches(with_agent(config, e_step="minibatch"), 1)
    learner, unroll = training.learner, training.sampler.buffer.unroll
    plans, losses, _ = watch(learner)
    learner.train(unroll, 0.0)
    assert len(plans) == 4 and all(seen.reward.shape[1] == 2 for seen, _ in plans)
    for seen, plan in losses:
        assert plan.weights.sum().item() == pytest.approx(seen.valid.sum().item(), rel=1e-5)

    agent = make("vmpo", False)
    _, whole, _, _ = to_torch(random_batch(2, False, steps=8, batch=6))
    index = torch.tensor([0, 1, 2])
    own, of_all = plan_of(agent, whole.columns(index), popart()), plan_of(agent, whole, popart()).columns(index)
    torch.testing.assert_close(own.returns, of_all.returns)
    assert (own.weights - of_all.weights).abs().max() > 0.1


def test_value_only_steps_leave_eta_alone() -> None:
    training = Training(small("feedforward"))
    learner, unroll = training.learner, training._make_sampler().next().unroll
    before = learner.agent.temperature().item()
    learner.train(unroll, 0.0, value_only=True)
    assert learner.agent.temperature().item() == before
    learner.train(unroll, 0.0)
    assert learner.agent.temperature().item() != before


# Values, of the network that acted


class Watched:
    """A training of which `versions` are the networks that acted, oldest first, and `check` sees every batch first."""

    def __init__(self, config: RunConfig, check: Callable[["Watched", Unroll], None]) -> None:
        self.training = Training(config)
        with torch.no_grad():  # policies and values that differ from step to step
            for head in (self.training.network.policy_head, self.training.network.value_head):
                head.output.weight.normal_(generator=torch.Generator().manual_seed(0))
        self.versions = [frozen_copy(self.training.network)]
        self.batches = 0
        make, train = self.training._make_sampler, self.training.learner.train

        def make_sampler():
            sampler = make()
            publish = sampler.publish
            sampler.publish = lambda network: publish(network) or self.versions.append(frozen_copy(network))
            return sampler

        def checked_train(unroll: Unroll, *arguments) -> None:
            check(self, unroll)
            self.batches += 1
            train(unroll, *arguments)

        self.training._make_sampler, self.training.learner.train = make_sampler, checked_train

    def run(self, count: int) -> None:
        loop = self.training.run()
        for _ in range(count):
            next(loop)
        loop.close()


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("actors", [0, 2])
@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("core", ["feedforward", "lstm", "gtrxl"])
def test_the_value_in_an_unroll_is_that_of_its_policy(core: str, period: int, actors: int) -> None:
    """At all T+1 rows, in units of the return, whatever the statistics were then; and pi_old stays for `period`."""
    found = []

    def check(watched: Watched, unroll: Unroll) -> None:
        count = 1 + watched.batches // period
        assert len(watched.versions) == count
        # Actor processes run ahead by a batch, each by itself; without them it is what was published last.
        candidates = range(max(0, count - 2) if actors else count - 1, count)
        for columns in torch.arange(4).chunk(max(1, actors)):
            part = unroll.columns(columns)
            matches = []
            for i in candidates:
                policy, value = said(watched.versions[i], part)
                if close(policy, part.policy):
                    assert close(value, part.value), (value - part.value).abs().max()
                    assert close(value[-1], part.value[-1])
                    matches.append(i)
            assert matches, "no published network has this policy"
            head = watched.versions[matches[-1]].value_head
            found.append(float(head.std))
        if not actors and period == 1:
            torch.testing.assert_close(watched.training.learner._values(unroll), unroll.value, atol=1e-5, rtol=1e-5)

    config = small(core, passes=1, learning_rate=1e-2, target_period=period, actors=actors, learner_envs=0)
    Watched(config, check).run(7)
    assert len(set(found)) >= 2 and max(found) > 2, "the statistics have moved, and the actors had them"


def test_the_values_reach_the_plan_as_they_are() -> None:
    """Returns are those of the forward view over the values in the unroll, though the network has moved on."""
    training = batches(small("lstm", target_period=1000, learning_rate=1e-2), 4)
    unroll = training.sampler.buffer.unroll
    plans, _, _ = watch(training.learner)
    training.learner.train(unroll, 0.0)
    (seen, evaluation), config = plans[0], training.config.agent
    assert torch.equal(seen.value, unroll.value)
    check_returns(evaluation, seen, config)


def check_returns(evaluation, unroll: Unroll, config: AgentConfig) -> None:
    ends = Ends(*(getattr(unroll, name).numpy() for name in ("first", "terminated", "truncated")))
    reward, value = (x.double().numpy() for x in (unroll.reward, unroll.value))
    expected = forward_view(reward, ends, value, config.discount, config.gae_lambda)
    valid = unroll.valid.numpy()
    np.testing.assert_allclose(evaluation.returns.numpy()[valid], expected[valid], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        evaluation.advantages.numpy()[valid], (expected - value[:-1])[valid], rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("core", ["feedforward", "lstm", "gtrxl"])
def test_online_values_are_those_of_the_learner(core: str) -> None:
    config = small(core, target_period=1000, learning_rate=1e-2)
    training = batches(with_agent(config, values="online"), 4)
    unroll = training.sampler.buffer.unroll
    _, online = said(training.network, unroll)
    plans, _, _ = watch(training.learner)
    training.learner.train(unroll, 0.0)
    seen, evaluation = plans[0]
    torch.testing.assert_close(seen.value, online, atol=1e-5, rtol=1e-5)
    assert (seen.value - unroll.value).abs().mean() > 0.1
    assert torch.equal(seen.policy, unroll.policy)
    check_returns(evaluation, seen, training.config.agent)


def test_online_values_are_the_acting_ones_where_every_batch_is_published() -> None:
    one, other = (batches(with_agent(small("lstm"), values=values), 3) for values in ("acting", "online"))
    for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_weights_travel_with_their_statistics() -> None:
    one, other = (Training(small("gtrxl", seed=seed)).network for seed in (0, 1))
    head = one.value_head
    targets = 3.0 + 2.0 * torch.randn(7, 4)
    head.update(targets, torch.ones(7, 4, dtype=torch.bool))
    vector = flatten_weights(one)
    assert len(vector) == sum(x.numel() for x in one.state_dict().values()) > sum(p.numel() for p in one.parameters())
    load_weights(other, vector)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert a.dtype == b.dtype, name
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    assert other.value_head.started.all() and float(other.value_head.std) == pytest.approx(2, rel=0.3)


# The start, and units of the reward


def first_unroll(**options) -> tuple[Learner, Unroll]:
    training = Training(small("feedforward", envs=8, unroll=32, passes=1, **{"minibatches": 1, **options}))
    return training.learner, training._make_sampler().next().unroll


def value_loss_of(learner: Learner, unroll: Unroll) -> float:
    learner.train(unroll, 0.0)
    return learner.drain_metrics()["value/loss"]


def test_before_the_first_reward_nothing_is_learned_of_it() -> None:
    learner, unroll = first_unroll()
    head, nothing = learner.network.value_head, unroll._replace(reward=0 * unroll.reward)
    assert torch.equal(unroll.value, 0 * unroll.value)  # the output layer starts at 0
    for _ in range(3):
        assert value_loss_of(learner, nothing) == 0
        assert float(head.std) == 1 and float(head.mean) == 0 and not head.started.any()
        assert not said(learner.network, unroll)[1].any()


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e6])
def test_the_first_reward_of_many_steps_makes_no_target_beyond_the_root_of_their_number(size: float) -> None:
    learner, unroll = first_unroll()
    head = learner.network.value_head
    value_loss_of(learner, unroll._replace(reward=0 * unroll.reward))
    reward = 0 * unroll.reward
    t, b = unroll.valid.nonzero()[0].tolist()
    reward[t + 1, b] = size
    loss = value_loss_of(learner, unroll._replace(reward=reward))
    assert 0.1 < loss < 2 and head.started.all()
    assert head.normalise(torch.tensor(size)).item() <= 1.1 * math.sqrt(2 * unroll.valid.sum())
    assert all(p.isfinite().all() for p in learner.network.parameters())


@pytest.mark.parametrize("kind", ["huge", "tiny", "minute", "constant", "plain"])
@pytest.mark.parametrize("agent", ["vmpo", "ppo"])
def test_rewards_of_any_size_are_learned_from(agent: str, kind: str) -> None:
    """The first loss is of size 1, and of that batch's returns more and more is explained."""
    learner, unroll = first_unroll(agent=agent, learning_rate=3e-3)
    noise = torch.where(unroll.observation[..., 2] > 0, 1.0, -0.5)  # what can be seen
    reward = {
        "huge": 1e6 * noise,
        "tiny": 1e-8 * noise,
        "minute": 1e-20 * noise,
        "constant": torch.full_like(noise, 1000.0),
        "plain": noise,
    }[kind]
    unroll = unroll._replace(reward=torch.where(unroll.first, 0, reward))
    first = value_loss_of(learner, unroll)
    assert 0.05 < first < 2
    for _ in range(60):
        last = value_loss_of(learner, unroll)
    assert last < 0.7 * first
    assert all(p.isfinite().all() for p in learner.network.parameters())


@pytest.mark.parametrize("agent", ["vmpo", "ppo"])
def test_units_of_the_reward_change_nothing(agent: str) -> None:
    """Standardised, a power of two times the rewards moves the policy by the same bits, more or less."""
    moved = []
    for scale in (1.0, 2.0**-30, 2.0**20):
        learner, unroll = first_unroll(agent=agent)
        assert learner.config.agent.standardise_advantages
        # The network sees rewards clipped to [-1, 1]: what it sees is left as it is.
        see = learner.network.encode
        learner.network.encode = lambda o, a, r, f, see=see: see(o, a, 0 * r, f)
        for _ in range(3):
            learner.train(unroll._replace(reward=scale * unroll.reward), 0.0)
        moved.append(torch.cat([p.detach().flatten() for p in learner.network.policy_head.parameters()]))
    torch.testing.assert_close(moved[0], moved[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moved[0], moved[2], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-8, 1e6])
def test_cartpole_is_learned_whatever_its_reward_is_worth(scale: float) -> None:
    """As well as in its own units; what the network sees of the last reward is clipped to [-1, 1]."""
    results = []
    for each in (1.0, scale):
        config = PRESETS["control", "small"]("vmpo")
        config = replace(
            config,
            env=ControlEnv(reward_scale=each),
            network=replace(config.network, core="feedforward"),
            training=replace(config.training, steps=100_000, seed=1, log_seconds=1e9),
        )
        training = Training(config)
        for _ in training.run():
            pass
        results.append(evaluate(config, training.acting_network(), 50)["mean"])
    assert results[0] > 250 and results[1] > 0.75 * results[0], results


# Steps on eta


def eta_of(agent) -> float:
    return agent.temperature().item()


def fixed_batch(**changes) -> tuple:
    """An agent, the plan of a fixed batch, and that batch's advantages and their support."""
    agent = make("vmpo", False, **changes)
    batch = random_batch(3, False, steps=12, batch=6)
    _, unroll, _, _ = to_torch(batch)
    advantages = gae(batch.reward, batch.ends, batch.value, GAMMA, LAMBDA)[batch.valid]
    return agent, partial(plan_of, agent, unroll, popart()), advantages, top_k(advantages, advantages < np.inf, 0.5)


def test_one_step_is_adams_on_the_published_dual() -> None:
    """The gradient in closed form; Adam's first step is its learning rate against the gradient's sign."""
    agent, plan, advantages, support = fixed_batch(epsilon_eta=0.1)
    (raw,) = agent.temperature.parameters()
    twin = nn.Parameter(raw.detach().clone())
    oracle = torch.optim.Adam([twin], lr=0.03)
    duals = DualSteps(agent, 0.03)
    for _ in range(4):
        slope = temperature_gradient(advantages, support, eta_of(agent), 0.1)
        chain = torch.autograd.grad(agent.temperature(), raw)[0]
        twin.grad = (slope * chain).reshape(twin.shape).to(twin.dtype)
        oracle.step()
        found = plan(duals.settle(1))
        torch.testing.assert_close(raw.detach(), twin.detach(), atol=1e-7, rtol=0)
        expected = psi(advantages, support, eta_of(agent))  # of the plan that counts, which comes after the step
        weights = found.weights[found.weights > 0].numpy()
        np.testing.assert_allclose(weights, len(advantages) * expected[support], atol=1e-5)


@pytest.mark.parametrize("start", [0.05, 5.0])
def test_steps_on_one_batch_lead_to_the_solved_temperature(start: float) -> None:
    agent, plan, advantages, support = fixed_batch(epsilon_eta=0.2, eta_init=start)
    best = best_eta(advantages, support, 0.2)
    solved, its_plan, _, _ = fixed_batch(temperature="solved", epsilon_eta=0.2, eta_init=AgentConfig().eta_init)
    assert its_plan().metrics["e_step/eta"].item() == pytest.approx(best, rel=1e-3)
    assert not list(solved.temperature.parameters())
    distances = [abs(math.log(eta_of(agent) / best))]
    duals = DualSteps(agent, 0.05)
    for _ in range(6):
        found = plan(duals.settle(50))
        distances.append(abs(math.log(eta_of(agent) / best)))
    assert distances[1] < 0.9 * distances[0] and distances[-1] < 0.02
    torch.testing.assert_close(found.weights, its_plan().weights, atol=0.05, rtol=0.05)


def test_no_steps_leave_eta_and_many_are_as_many_of_one() -> None:
    (one, plan, _, _), (other, its_plan, _, _) = fixed_batch(), fixed_batch()
    duals, its_duals = DualSteps(one, 0.03), DualSteps(other, 0.03)
    before = eta_of(one)
    assert torch.equal(plan(duals.settle(0)).weights, plan().weights) and eta_of(one) == before
    plan(duals.settle(5))
    for _ in range(5):
        its_plan(its_duals.settle(1))
    assert eta_of(one) == eta_of(other) != before


def test_the_state_of_the_steps_is_kept() -> None:
    (one, plan, _, _), (other, its_plan, _, _) = fixed_batch(), fixed_batch()
    duals, its_duals = DualSteps(one, 0.03), DualSteps(other, 0.03)
    plan(duals.settle(3))
    other.load_state_dict(one.state_dict())
    its_duals.set_state(copy.deepcopy(duals.get_state()))  # as a file would
    for steps, mine in ((duals, plan), (its_duals, its_plan)):
        mine(steps.settle(4))
    assert eta_of(one) == eta_of(other)
    fresh, fresh_plan, _, _ = fixed_batch()
    fresh.load_state_dict(one.state_dict())
    fresh_plan(DualSteps(fresh, 0.03).settle(1))
    plan(duals.settle(1))
    assert eta_of(fresh) != eta_of(one), "Adam's moments count"


@pytest.mark.parametrize("name", ["ppo", "awr", "vmpo, solved"])
def test_what_has_no_dual_takes_no_step(name: str) -> None:
    agent = make(name, False)
    _, unroll, _, _ = to_torch(random_batch(3, False))
    duals = DualSteps(agent, 0.1)
    step = Mock(return_value="an E-step")
    assert duals.settle(7)(step) == "an E-step" and step.call_count == 1
    assert torch.equal(
        plan_of(agent, unroll, popart(), duals.settle(7)).weights, plan_of(agent, unroll, popart()).weights
    )
    assert duals.get_state() is None
    duals.set_state(None)


def test_eta_has_no_part_in_the_gradient_steps() -> None:
    """Nor alpha in the E-step's; the network's optimiser never sees eta."""
    learner, unroll = first_unroll()
    (eta,) = learner.agent.temperature.parameters()
    assert not any(eta is p for group in learner.optimizer.param_groups for p in group["params"])
    learner.duals.settle = lambda steps: once
    before, alphas = eta.item(), [p.detach().clone() for p in learner.agent.trust_region.parameters()]
    learner.train(unroll, 0.0)
    learner.train(unroll, 0.0)
    assert eta.item() == before
    assert all(not torch.equal(a, b) for a, b in zip(alphas, learner.agent.trust_region.parameters(), strict=True))


def test_steps_on_the_eta_of_a_language_model() -> None:
    """The same law, where samples are completions."""
    agent = make_sequence_agent(SequenceConfig(method="vmpo", epsilon_eta=0.1, eta_init=0.7)).double()
    generator = torch.Generator().manual_seed(0)
    log_prob = -torch.rand(12, 3, generator=generator, dtype=torch.float64)
    advantages = torch.randn(12, generator=generator, dtype=torch.float64)
    samples = Samples(torch.ones(12, 3, dtype=torch.bool), log_prob, log_prob, advantages)
    (raw,) = agent.temperature.parameters()
    before, eta = raw.item(), agent.temperature().item()
    support = top_k(advantages.numpy(), np.ones(12, bool), 0.5)
    slope = temperature_gradient(advantages.numpy(), support, eta, 0.1)
    plan = agent.plan(samples, DualSteps(agent, 0.03).settle(1))
    assert raw.item() - before == pytest.approx(-0.03 * np.sign(slope), rel=1e-4)
    expected = psi(advantages.numpy(), support, agent.temperature().item())
    np.testing.assert_allclose(plan.weights.numpy(), expected, atol=1e-6)


# How long pi_old stays


@pytest.mark.parametrize("period", [1, 2, 3])
def test_weights_are_published_every_so_many_batches(period: int) -> None:
    """Counted over the run, so that a resumed one keeps the beat."""
    published = []
    config = small("feedforward", target_period=period)

    def check(watched: Watched, unroll: Unroll) -> None:
        policy, _ = said(watched.versions[-1], unroll)
        torch.testing.assert_close(policy, unroll.policy, atol=1e-5, rtol=1e-5)
        published.append(len(watched.versions) - 1)

    watched = Watched(config, check)
    watched.run(7)
    assert published == [batch // period for batch in range(7)]
    assert watched.training.batches == 7

    again = Watched(config, lambda *_: None)
    again.training.set_state(watched.training.get_state())
    assert again.training.batches == 7
    versions = []
    train = again.training.learner.train
    again.training.learner.train = lambda *arguments: versions.append(len(again.versions)) or train(*arguments)
    again.run(4)
    assert [v - 1 for v in versions] == [(7 + batch) // period - 7 // period for batch in range(4)]


def test_a_period_of_no_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="--target-period must be at least 1"):
        small(target_period=0)


# The average of the weights


def flat(state: dict[str, Tensor], network: ActorCritic) -> Tensor:
    return torch.cat([state[name].detach().flatten() for name, _ in network.named_parameters()])


def test_what_is_evaluated_is_the_moving_average_of_every_gradient_step() -> None:
    training = Training(small("gtrxl", weight_average=0.8, passes=2, minibatches=2))
    learner, seen = training.learner, []
    step = learner.optimizer.step
    learner.optimizer.step = lambda: (step(), seen.append(flat(training.network.state_dict(), training.network)))
    batches(training.config, 3, training)
    assert len(seen) == 12
    expected = seen[0]
    for weights in seen[1:]:
        expected = 0.8 * expected + 0.2 * weights
    assert (seen[-1] - expected).abs().max() > 1e-3
    for state in (training.acting_network().state_dict(), evaluated(learner.get_state())):
        torch.testing.assert_close(flat(state, training.network), expected, atol=1e-6, rtol=1e-5)
        assert state.keys() == training.network.state_dict().keys()
        for name, statistic in training.network.value_head.named_buffers():
            assert torch.equal(state[f"value_head.{name}"], statistic), name


def test_it_changes_nothing_of_what_is_learned() -> None:
    one, other = (batches(small("lstm", weight_average=decay), 3) for decay in (0.0, 0.9))
    for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(a, b)
    acting = dict(other.sampler.network.named_parameters())
    assert all(torch.equal(acting[name], p) for name, p in other.network.named_parameters())
    assert one.learner.get_state()["average"] is None
    torch.testing.assert_close(dict(one.acting_network().state_dict()), dict(one.network.state_dict()), atol=0, rtol=0)
    assert evaluated(one.learner.get_state()).keys() == one.network.state_dict().keys()


def test_the_average_is_saved_and_resumes_to_the_bit(tmp_path: Path) -> None:
    config = small("gtrxl", weight_average=0.9)
    before = batches(config, 3)
    Checkpoints(tmp_path).save_last(before.steps, before.get_state())
    after = Training(config)
    after.set_state(Checkpoints(tmp_path).latest().state)
    unroll = before.sampler.buffer.unroll
    for _ in range(2):
        for (name, a), b in zip(
            before.acting_network().state_dict().items(), after.acting_network().state_dict().values(), strict=True
        ):
            assert torch.equal(a, b), name
        for training in (before, after):
            training.learner.train(unroll, 0.0)
    assert int(after.learner.average.n_averaged) == after.learner.updates


def test_an_evaluation_plays_by_the_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("feedforward", weight_average=0.9)
    training = batches(config, 3)
    Checkpoints(tmp_path / "checkpoints").save_last(training.steps, training.get_state())
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    played = []

    def play(config, network, episodes, *_, **__):
        played.append(frozen_copy(network))
        return {"mean": 1.0, "std": 0.0, "median": 1.0, "least": 1.0, "returns": [1.0], "episodes": 1, "protocol": "p"}

    monkeypatch.setattr("runners.evaluate.evaluate", play)
    assert evaluate_main([str(tmp_path), "--episodes", "1"]) == 0
    (network,) = played
    average = training.learner.average.module.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, average[name]), name
    assert any(not torch.equal(p, q) for p, q in zip(network.parameters(), training.network.parameters(), strict=True))
    torch.testing.assert_close(dict(training.acting_network().state_dict()), dict(network.state_dict()), atol=0, rtol=0)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_average_of_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"--weight-average must lie in \[0, 1\)"):
        small(weight_average=decay)
