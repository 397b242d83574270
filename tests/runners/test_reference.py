"""pi_ref in a run: what it is at first, how it follows, that its memory is its own, and that it is saved."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runners.acting.samplers import LocalSampler
from runners.learning.reference import Reference
from runners.records.checkpoint import CheckpointError, Checkpoints
from runners.training import AgentTraining
from support.runs import make_sampler, small


def with_reference(**options):
    """DAR on CartPole with a small GTrXL."""
    config = small(agent="dar")
    return replace(config, agent=replace(config.agent, **options))


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


@pytest.mark.parametrize("core", ["feedforward", "lstm", "gtrxl"])
def test_its_memory_goes_on_from_batch_to_batch(core):
    """Two batches in turn give what one pass over both together does."""
    training = AgentTraining(small(core=core))
    loop = training.run()
    next(loop)
    reference = Reference(training.network, "start", 1.0)
    whole = Reference(training.network, "start", 1.0)
    unrolls = []
    for _ in range(3):
        unroll = training.sampler.next().unroll
        unrolls.append(unroll._replace(**{name: getattr(unroll, name).clone() for name in ("observation", "first")}))
        unrolls[-1] = unrolls[-1]._replace(
            previous_action=unroll.previous_action.clone(), reward=unroll.reward.clone(), policy=unroll.policy.clone()
        )
    in_turn = torch.cat([reference.evaluate(unroll) for unroll in unrolls])

    def joined(name: str) -> torch.Tensor:
        rows = [getattr(unroll, name) for unroll in unrolls]
        return torch.cat([*(x[: len(unrolls[0].policy)] for x in rows), rows[-1][-1:]])

    names = ("observation", "previous_action", "reward", "first")
    long = unrolls[0]._replace(**{name: joined(name) for name in names}, policy=in_turn)
    torch.testing.assert_close(whole.evaluate(long), in_turn, atol=1e-5, rtol=1e-5)
    assert joined("first").any()
    loop.close()


def test_a_frozen_reference_stays_and_an_average_follows():
    frozen, moving = (
        AgentTraining(with_reference()),
        AgentTraining(with_reference(reference="average", reference_decay=0.9)),
    )
    for training in (frozen, moving):
        start = flat(training.network)
        loop = training.run()
        expected = start.clone()
        for _ in range(3):
            next(loop)
            expected.lerp_(flat(training.network), 0.1)
        reference = flat(training.learner.reference.network)
        assert not torch.equal(flat(training.network), start)
        if training is moving:  # its averaged weights read observations by the moments of the network
            for own, new in zip(training.learner.reference.network.buffers(), training.network.buffers(), strict=True):
                assert torch.equal(own, new)
        torch.testing.assert_close(reference, start if training is frozen else expected, atol=1e-6, rtol=1e-5)
        loop.close()


def test_at_first_it_is_the_behaviour():
    """On a batch of several episodes, to what acting and learning agree on."""
    sampler, network = make_sampler(LocalSampler, with_reference())
    sampler.next()
    unroll = sampler.next().unroll
    reference = Reference(network, "start", 1.0)
    reference.state = unroll.state
    torch.testing.assert_close(reference.evaluate(unroll), unroll.policy, atol=1e-5, rtol=1e-5)


def test_it_is_saved_and_restored():
    one = AgentTraining(with_reference(reference="average"))
    loop = one.run()
    next(loop), next(loop)
    other = AgentTraining(with_reference(reference="average"))
    other.set_state(one.get_state())
    assert torch.equal(flat(other.learner.reference.network), flat(one.learner.reference.network))
    assert not torch.equal(flat(other.learner.reference.network), flat(other.network))
    loop.close()


def test_it_can_come_from_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = AgentTraining(small())
    loop = one.run()
    next(loop)
    (tmp_path / "run").mkdir()
    Checkpoints(tmp_path / "run" / "checkpoints").save_last(64, one.get_state())
    loop.close()
    for source in (tmp_path / "run", tmp_path / "run/checkpoints/step_000000000064.safetensors"):
        training = AgentTraining(with_reference(reference=str(source)))
        assert torch.equal(flat(training.learner.reference.network), flat(one.network))
    (tmp_path / "run").rename(tmp_path / "elsewhere")  # resumed, the run has it in its own checkpoint
    resumed = AgentTraining(with_reference(reference=str(tmp_path / "run")), fresh=False)
    resumed.learner.set_state(training.learner.get_state())
    assert torch.equal(flat(resumed.learner.reference.network), flat(one.network))
    monkeypatch.setattr("runners.machine.balance.cores", lambda: 2)
    with_actors = small(agent="dar", actors=1, envs=16)
    gone = replace(with_actors, agent=replace(with_actors.agent, reference=str(tmp_path / "run")))
    assert (
        AgentTraining(gone, fresh=False).settled.learner_envs >= 0
    )  # what is measured at the start asks for it no more
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        AgentTraining(with_reference(reference=str(tmp_path / "nothing")))
    (tmp_path / "lstm").mkdir()
    Checkpoints(tmp_path / "lstm" / "checkpoints").save_last(1, AgentTraining(small(core="lstm")).learner.get_state())
    with pytest.raises(CheckpointError, match=f"--reference {tmp_path}/lstm must be a run with the same network"):
        AgentTraining(with_reference(reference=str(tmp_path / "lstm")))
