"""Agents learn: short real trainings that assert the return reached."""

from dataclasses import replace

import numpy as np
import pytest

from runners.config import ControlEnv
from runners.evaluation import evaluate
from runners.presets import PRESETS
from runners.training import AgentTraining


def train(env: str, agent: str, core: str, steps: int, enough: float, **network) -> float:
    """The mean evaluation return over 50 episodes after `steps` of the small preset, or once training has `enough`."""
    config = PRESETS["control", "small"](agent)
    config = replace(
        config,
        env=ControlEnv(name=env),
        network=replace(config.network, core=core, **network),
        training=replace(config.training, steps=steps, seed=1, log_seconds=0.5),
    )
    training = AgentTraining(config)
    for row in training.run():
        if row.get("return/train", 0) >= enough:
            break
    return evaluate(config, training.acting_network(), 50)["mean"]


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "core"), [("vmpo", "feedforward"), ("ppo", "feedforward"), ("vmpo", "lstm")])
def test_cartpole_is_learned(agent: str, core: str) -> None:
    assert train("CartPole-v1", agent, core, 300_000, enough=430) > 400


@pytest.mark.slow
@pytest.mark.parametrize("core", ["gtrxl", "mingru"])
def test_a_memory_recalls(core: str) -> None:
    assert train("recall-10", "vmpo", core, 150_000, enough=0.98, memory=16) > 0.9


@pytest.mark.slow
def test_feedforward_cannot_recall() -> None:
    """Chance is 0.25."""
    assert train("recall-10", "vmpo", "feedforward", 20_000, enough=0.98) < 0.5


def test_evaluation_counts_equal_episodes_an_environment() -> None:
    config = PRESETS["control", "small"]("vmpo")
    config = replace(config, network=replace(config.network, core="feedforward"))
    training = AgentTraining(config)
    result = evaluate(config, training.network, 40)
    assert len(result["returns"]) == result["episodes"] == 40
    assert result["mean"] == pytest.approx(np.mean(result["returns"]))
    assert "32 environments" in result["protocol"]
