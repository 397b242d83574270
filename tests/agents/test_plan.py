"""The plan of a batch: one E-step for it all, whose weights its minibatches share."""

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.config import AgentConfig
from agents.factory import make_agent
from agents.types import Plan, one_pass
from networks.actor_critic import Output
from support.agent_oracles import (
    Ends,
    forward_view,
    gae,
    garbage,
    normalise,
    plan_of,
    popart,
    psi,
    random_batch,
    space,
    to_torch,
    top_k,
)

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
        unroll = unroll._replace(reference=unroll.policy)
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
