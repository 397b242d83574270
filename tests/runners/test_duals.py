"""Steps on eta, which come before the gradient steps of a batch."""

import copy
import math
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from agents.config import AgentConfig
from agents.factory import make_agent
from agents.gempi.em import once
from agents.sequences.config import SequenceConfig
from agents.sequences.factory import make_sequence_agent
from agents.sequences.types import Samples
from runners.learning.duals import DualSteps
from runners.training import AgentTraining
from support.agent_oracles import (
    best_eta,
    gae,
    plan_of,
    popart,
    psi,
    random_batch,
    space,
    temperature_gradient,
    to_torch,
    top_k,
)
from support.runs import small

AGENTS = {
    "vmpo": dict(eta_init=0.6),
    "vmpo, solved": dict(temperature="solved", epsilon_eta=0.1),
    "awr": dict(lambda_behaviour=0.6),
    "ppo": {},
}


def make(name: str, **changes):
    options = dict(discount=0.95, gae_lambda=0.9) | AGENTS[name] | changes
    return make_agent(AgentConfig(agent=name.split(",")[0], **options), space(False)).double()


def eta_of(agent) -> float:
    return agent.temperature().item()


def fixed_batch(**changes) -> tuple:
    """An agent, the plan of a fixed batch, and that batch's advantages and their support."""
    agent = make("vmpo", **changes)
    batch = random_batch(3, False, steps=12, batch=6)
    _, unroll, _, _ = to_torch(batch)
    advantages = gae(batch.reward, batch.ends, batch.value, 0.95, 0.9)[batch.valid]
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
        found = plan(duals.updates(1))
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
        found = plan(duals.updates(50))
        distances.append(abs(math.log(eta_of(agent) / best)))
    assert distances[1] < 0.9 * distances[0] and distances[-1] < 0.02
    torch.testing.assert_close(found.weights, its_plan().weights, atol=0.05, rtol=0.05)


def test_no_steps_leave_eta_and_many_are_as_many_of_one() -> None:
    (one, plan, _, _), (other, its_plan, _, _) = fixed_batch(), fixed_batch()
    duals, its_duals = DualSteps(one, 0.03), DualSteps(other, 0.03)
    before = eta_of(one)
    assert torch.equal(plan(duals.updates(0)).weights, plan().weights) and eta_of(one) == before
    plan(duals.updates(5))
    for _ in range(5):
        its_plan(its_duals.updates(1))
    assert eta_of(one) == eta_of(other) != before


def test_the_state_of_the_steps_is_kept() -> None:
    (one, plan, _, _), (other, its_plan, _, _) = fixed_batch(), fixed_batch()
    duals, its_duals = DualSteps(one, 0.03), DualSteps(other, 0.03)
    plan(duals.updates(3))
    other.load_state_dict(one.state_dict())
    its_duals.set_state(copy.deepcopy(duals.get_state()))  # as a file would
    for steps, mine in ((duals, plan), (its_duals, its_plan)):
        mine(steps.updates(4))
    assert eta_of(one) == eta_of(other)
    fresh, fresh_plan, _, _ = fixed_batch()
    fresh.load_state_dict(one.state_dict())
    fresh_plan(DualSteps(fresh, 0.03).updates(1))
    plan(duals.updates(1))
    assert eta_of(fresh) != eta_of(one), "Adam's moments count"


@pytest.mark.parametrize("name", ["ppo", "awr", "vmpo, solved"])
def test_what_has_no_dual_takes_no_step(name: str) -> None:
    agent = make(name)
    _, unroll, _, _ = to_torch(random_batch(3, False))
    duals = DualSteps(agent, 0.1)
    step = Mock(return_value="an E-step")
    assert duals.updates(7)(step) == "an E-step" and step.call_count == 1
    assert torch.equal(
        plan_of(agent, unroll, popart(), duals.updates(7)).weights, plan_of(agent, unroll, popart()).weights
    )
    assert duals.get_state() is None
    duals.set_state(None)


def test_eta_has_no_part_in_the_gradient_steps() -> None:
    """Nor alpha in the E-step's; the network's optimiser never sees eta."""
    training = AgentTraining(small("feedforward", envs=8, unroll=32, passes=1, minibatches=1))
    learner, unroll = training.learner, training._make_sampler().next().unroll
    (eta,) = learner.agent.temperature.parameters()
    assert not any(eta is p for group in learner.optimizer.param_groups for p in group["params"])
    learner.duals.updates = lambda steps: once
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
    plan = agent.plan(samples, DualSteps(agent, 0.03).updates(1))
    assert raw.item() - before == pytest.approx(-0.03 * np.sign(slope), rel=1e-4)
    expected = psi(advantages.numpy(), support, agent.temperature().item())
    np.testing.assert_allclose(plan.weights.numpy(), expected, atol=1e-6)
