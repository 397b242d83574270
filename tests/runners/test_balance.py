"""The learner's share of the environments: the arithmetic by hand, the measurement on a real task, and its batches."""

from dataclasses import replace

import pytest
import torch

from runners.acting.samplers import ProcessSampler
from runners.build import spec_of
from runners.cli import parse
from runners.errors import UsageError
from runners.machine import balance
from runners.machine.balance import acting_groups, faster_groups, learner_envs, measure, share
from runners.training import AgentTraining
from support.runs import make_sampler, small


@pytest.mark.parametrize(
    ("envs", "actors", "fixed", "acting", "learning", "expected"),
    [
        (32, 1, 0.0, 3.0, 3.0, 0),  # balanced as it is
        (32, 1, 0.0, 1.0, 4.0, 0),  # the learner is the slower
        (32, 1, 0.0, 4.0, 2.0, 8),  # 8 x 4 + 32 x 2 = 24 x 4
        (32, 1, 64.0, 4.0, 2.0, 8),  # both pay for a forward pass: 64 + 8 x 4 + 32 x 2 = 64 + 24 x 4
        (32, 1, 64.0, 4.0, 3.9, 0),  # one environment would cost the learner more than it saves the actor
        (32, 2, 0.0, 4.0, 1.0, 4),  # 5.3 would balance, and leaves no equal shares; 4: max(56, 48), 6: max(52, 56)
    ],
)
def test_share_by_hand(envs, actors, fixed, acting, learning, expected):
    own = share(envs, actors, fixed, acting, learning)
    assert own == expected and (envs - own) % actors == 0


def test_the_measurement_leaves_no_trace():
    config = small("feedforward", envs=16, minibatches=4)
    spec, generator = spec_of(config), torch.get_rng_state()
    fixed, acting, learning = measure(config, spec)
    assert fixed >= 0 and acting >= 0 and learning > 0
    assert torch.equal(torch.get_rng_state(), generator)


def test_who_measures(monkeypatch):
    monkeypatch.setattr(balance, "measure", lambda *_: (0.0, 4.0, 2.0))
    monkeypatch.setattr(balance, "cores", lambda: 2)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    config = small("feedforward", envs=32, actors=1)

    def own(config, device=cpu, local_ranks=1):
        return learner_envs(config, None, device, local_ranks)

    assert own(config) == 8
    assert own(replace(config, training=replace(config.training, learner_envs=3))) == 3
    assert (
        own(config, cuda)
        == own(config, local_ranks=2)
        == own(small("feedforward", envs=32, actors=0))
        == own(small("feedforward", envs=8, actors=1))
        == 0
    )


def test_who_acts_in_groups(monkeypatch):
    monkeypatch.setattr(balance, "faster_groups", lambda *_: 2)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def groups(device, **training):
        return acting_groups(small("feedforward", **training), None, device, 1)

    assert groups(cuda, envs=4) == 2
    assert groups(cpu, envs=4) == groups(cuda, envs=4, actors=1) == groups(cuda, envs=1, minibatches=1) == 1


@pytest.mark.parametrize(("one", "two", "faster"), [(2.0, 1.0, 2), (1.0, 2.0, 1)])
def test_the_faster_groups_are_taken(one, two, faster, monkeypatch):
    config = small("feedforward", envs=4)
    spec = spec_of(config)
    seconds, acted, generator = iter([one, two]), [], torch.get_rng_state()

    def measured(work):
        acted.append(work().unroll.first.shape)
        return next(seconds)

    monkeypatch.setattr(balance, "least_seconds", measured)
    assert faster_groups(config, spec, torch.device("cpu"), threads=1) == faster
    assert acted == [(17, 4)] * 2 and torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(("actors", "own"), [(1, 1), (2, 2)])
def test_a_batch_is_whole_wherever_its_columns_come_from(actors, own):
    """Every column is acted by the published weights, episodes go on from batch to batch, no two columns are alike."""
    training = AgentTraining(small("feedforward", actors=actors, learner_envs=own, envs=4))
    loop = training.run()
    next(loop)
    sampler = training.sampler
    one = sampler.next().unroll
    last = one.observation[-1].clone()
    assert len(one.observation[0].unique(dim=0)) == 4
    sampler.release()
    two = sampler.next().unroll
    assert torch.equal(two.observation[0], last)
    assert (one.policy != 0).any(-1).all()
    loop.close()


def test_the_learner_acts_with_what_was_published():
    sampler, network = make_sampler(ProcessSampler, small("feedforward", actors=1), own=2)
    with torch.no_grad():
        network.policy_head.output.bias.copy_(torch.tensor([50.0, 0.0]))
    sampler.publish(network)
    unroll = sampler.next().unroll
    assert (unroll.action[:, -2:] == 0).all()
    sampler.close()


def test_shares_that_cannot_be_are_refused():
    for flags, complaint in (
        ("--actors 0 --learner-envs 2", "needs --actors"),
        ("--learner-envs 32", "lie in 0..31"),
        ("--actors 2 --learner-envs 3", "less --learner-envs 3 cannot be shared evenly"),
    ):
        with pytest.raises(UsageError, match=complaint):
            parse("atari", flags.split())
