"""Gradient steps on another device than the actors', without owning one.

Tensors of torch's meta device hold no numbers: what mixes it with the CPU raises, and so does what reads a number back,
which on a GPU would make the processor wait.
"""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from agents.factory import make_agent
from runners.acting.samplers import LocalSampler
from runners.build import actions_of
from runners.config import RunConfig
from runners.learning.learner import Learner
from runners.learning.steps import FiniteSteps
from support.runs import make_sampler, small

ELSEWHERE = torch.device("meta")
SHORT = {"passes": 1, "minibatches": 2}


@pytest.fixture
def without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the meta device does not offer, and the one check a batch that reads a number back."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.optim, "Adam", PlainAdam)
    monkeypatch.setattr(FiniteSteps, "check", lambda *_: None)


class PlainAdam(torch.optim.Adam):
    """Adam without the fused kernel, which alone reads `found_inf`."""

    found_inf = property(lambda self: None, lambda self, value: None)

    def __init__(self, groups: list[dict], fused: bool, **options: float) -> None:
        super().__init__(groups, **options)


def train_elsewhere(config: RunConfig) -> Learner:
    """A learner that has been through one batch of an actor on the CPU."""
    sampler, network = make_sampler(LocalSampler, config)
    agent = make_agent(config.agent, actions_of(sampler.actors[0].env.spec))
    learner = Learner(config, network.to(ELSEWHERE), agent.to(ELSEWHERE), ELSEWHERE)
    learner.train(sampler.next().unroll, 0.0)
    sampler.close()
    return learner


@pytest.mark.parametrize(
    ("agent", "env"),
    [(agent, "CartPole-v1") for agent in ("vmpo", "at-dar", "dar-tr", "ppo")]
    + [(agent, "Pendulum-v1") for agent in ("vmpo", "ppo")],
)
def test_a_batch_is_moved_and_learned_from_without_waiting(agent: str, env: str, without_numbers: None) -> None:
    learner = train_elsewhere(small("gtrxl", env, agent, **SHORT))
    assert learner.updates == 2
    parameters = [*learner.network.parameters(), *learner.agent.parameters()]
    assert {p.device.type for p in parameters} == {"meta"}
    assert all(p.grad.device == p.device for p in parameters if p.grad is not None)


@pytest.mark.parametrize("scheme", ["whole", "masked", "paired"])
def test_with_dropout(scheme: str, without_numbers: None) -> None:
    config = small("trxl-i", **SHORT)
    config = replace(config, network=replace(config.network, dropout=0.1))
    train_elsewhere(replace(config, agent=replace(config.agent, dropout_scheme=scheme)))


def test_with_a_target_that_is_truncated(without_numbers: None) -> None:
    config = small("feedforward", agent="gempi", **SHORT)
    train_elsewhere(replace(config, agent=replace(config.agent, divergence="chi-square", filter="top-k")))
