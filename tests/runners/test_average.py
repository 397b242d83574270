"""The average of the weights: what is evaluated and saved, and nothing of what is learned."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from networks.actor_critic import ActorCritic, frozen_copy
from runners.acting.weights import evaluated
from runners.config import to_dict
from runners.evaluate import main as evaluate_main
from runners.records.checkpoint import Checkpoints
from runners.training import AgentTraining
from support.runs import batches, small


def flat(state: dict[str, Tensor], network: ActorCritic) -> Tensor:
    return torch.cat([state[name].detach().flatten() for name, _ in network.named_parameters()])


def test_what_is_evaluated_is_the_moving_average_of_every_gradient_step() -> None:
    training = AgentTraining(small("gtrxl", weight_average=0.8, passes=2, minibatches=2))
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
    after = AgentTraining(config)
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
        summary = {"mean": 1.0, "std": 0.0, "median": 1.0, "least": 1.0, "episodes": 1, "protocol": "p"}
        return summary | {"policy": "mode", "returns": [1.0], "lengths": [1], "environments": [0], "cut": 0}

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
