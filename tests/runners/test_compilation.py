"""Compiled networks learn and act as plain ones do."""

from dataclasses import replace
from functools import partial

import jaxtyping
import pytest
import torch

from agents.factory import make_agent
from networks.actor_critic import ActorCritic
from runners.acting.actor import Actor
from runners.acting.samplers import LocalSampler
from runners.build import actions_of, build_env
from runners.config import RunConfig
from runners.learning.learner import Learner
from runners.presets import PRESETS
from support.runs import ONE_TASK, make_sampler, small

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call")


@pytest.fixture(autouse=True)
def without_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What checks shapes in the tests cannot be part of a graph."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def as_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs that torch.compile traces, forward and backward, run as they are: without a compiler, sooner."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()


def network_after(config: RunConfig) -> ActorCritic:
    """The network after two batches of two gradient steps, the first of the value loss alone."""
    sampler, network = make_sampler(LocalSampler, config)
    torch.nn.init.normal_(network.value_head.output.weight)  # at 0 what comes before it has no gradient but rounding
    sampler.publish(network)
    agent = make_agent(config.agent, actions_of(sampler.actors[0].env.spec))
    learner = Learner(config, network, agent, CPU)
    assert (learner.forward is network) is not config.training.compile
    for value_only in (True, False):
        learner.train(sampler.next().unroll, 0.0, value_only)
        sampler.publish(network)
    sampler.close()
    assert learner.updates == 4
    return network


def assert_learns_alike(config: RunConfig) -> None:
    plain, compiled = (
        network_after(replace(config, training=replace(config.training, compile=c))) for c in (False, True)
    )
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for (name, one), other in zip(plain.named_buffers(), compiled.buffers(), strict=True):  # in units of the return
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("core", ["feedforward", "mingru", "gtrxl", "trxl"])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_one_graph_learns_alike(core: str, env: str, as_traced: None) -> None:
    assert_learns_alike(small(core, env, passes=1, minibatches=2))


@pytest.mark.parametrize("scheme", ["whole", "masked"])
def test_one_graph_with_dropout(scheme: str, as_traced: None) -> None:
    config = small("gtrxl", passes=1, minibatches=2)
    config = replace(config, network=replace(config.network, dropout=0.1))
    assert_learns_alike(replace(config, agent=replace(config.agent, dropout_scheme=scheme)))


@pytest.mark.parametrize("torso", ["nature", "resnet"])
def test_one_graph_with_pictures_and_a_torso_in_bfloat16(torso: str, as_traced: None) -> None:
    config = PRESETS["atari", "small"]("vmpo")
    sizes = {"envs": 2, "unroll": 3, "actors": 0, "passes": 1, "minibatches": 2, "precision": "bfloat16"}
    network = replace(config.network, torso=torso, resnet_channels=(4, 8, 8), core="feedforward")
    assert_learns_alike(replace(config, network=network, training=replace(config.training, **sizes)))


def test_compiled_code_learns_alike() -> None:
    assert_learns_alike(small("feedforward", passes=1, minibatches=2))


def test_a_compiled_encoder_acts_alike(as_traced: None) -> None:
    config = small("gtrxl")
    seen = []
    for compile_encoder in (False, True):
        sampler, network = make_sampler(LocalSampler, config)
        sampler.close()
        actor = Actor(build_env(config, 4, stream=0), network, seed=1, tasks=ONE_TASK, compile_encoder=compile_encoder)
        assert (actor.encode == network.encode) is not compile_encoder
        sampler.actors = [actor]
        seen.append(sampler.next().unroll)
        sampler.close()
    torch.testing.assert_close(seen[1].policy, seen[0].policy)
    torch.testing.assert_close(seen[1].value, seen[0].value)
    assert torch.equal(seen[1].previous_action, seen[0].previous_action)
