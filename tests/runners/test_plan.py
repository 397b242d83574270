"""How the learner plans a batch: one E-step, the values that it looks at, PopArt before the loss, and how long pi_old
stays."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.config import AgentConfig
from agents.factory import make_agent
from agents.types import Plan, Unroll
from networks.actor_critic import ActorCritic, frozen_copy
from runners.acting.weights import flatten_weights, load_weights
from runners.config import ControlEnv, RunConfig
from runners.evaluation import evaluate
from runners.learning.learner import Learner
from runners.presets import PRESETS
from runners.training import AgentTraining
from support.agent_oracles import (
    Ends,
    forward_view,
    plan_of,
    popart,
    random_batch,
    space,
    to_torch,
)
from support.runs import batches, small


def inputs(unroll: Unroll) -> tuple:
    return unroll.observation, unroll.previous_action, unroll.reward, unroll.first, unroll.state, unroll.task


@torch.no_grad()
def said(network: ActorCritic, unroll: Unroll) -> tuple[Tensor, Tensor]:
    """Policy parameters [T, B, P] and values [T+1, B], in units of the return, of a pass over the rows of `unroll`."""
    output = network(*inputs(unroll))
    return output.policy.parameters()[:-1], network.value_head.denormalise(output.value, unroll.task)


def watch(learner: Learner) -> tuple[list, list, list]:
    """Lists that fill up: arguments of the agent's plans (unroll, evaluation) and losses (unroll, plan), and PopArt's
    mean and deviation at each loss."""
    plans, losses, statistics = [], [], []
    plan, loss, head = learner.agent.plan, learner.agent.loss, learner.network.value_head

    def watched_plan(unroll, evaluation, popart, update_duals):
        plans.append((unroll, evaluation))
        return plan(unroll, evaluation, popart, update_duals)

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
    steps, made = [], learner.duals.updates
    learner.duals.updates = lambda count: steps.append(count) or made(count)
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

    agent = make_agent(AgentConfig(discount=0.95, gae_lambda=0.9, eta_init=0.6), space(False)).double()
    _, whole, _, _ = to_torch(random_batch(2, False, steps=8, batch=6))
    index = torch.tensor([0, 1, 2])
    own, of_all = plan_of(agent, whole.columns(index), popart()), plan_of(agent, whole, popart()).columns(index)
    torch.testing.assert_close(own.returns, of_all.returns)
    assert (own.weights - of_all.weights).abs().max() > 0.1


def test_value_only_steps_leave_eta_alone() -> None:
    training = AgentTraining(small("feedforward"))
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
        self.training = AgentTraining(config)
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
    one, other = (AgentTraining(small("gtrxl", seed=seed)).network for seed in (0, 1))
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
    training = AgentTraining(small("feedforward", envs=8, unroll=32, passes=1, **{"minibatches": 1, **options}))
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
    """What the network sees of the last reward is clipped to [-1, 1]."""
    config = PRESETS["control", "small"]("vmpo")
    config = replace(
        config,
        env=ControlEnv(reward_scale=scale),
        network=replace(config.network, core="feedforward"),
        training=replace(config.training, steps=100_000, seed=1, log_seconds=1e9),
    )
    training = AgentTraining(config)
    for _ in training.run():
        pass
    assert evaluate(config, training.acting_network(), 50)["mean"] > 250


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
