"""The cost model of data parallelism against cases done by hand, and its count of messages against the learner's."""

from dataclasses import replace

import pytest
import torch

from agents.factory import make_agent
from agents.ranks import Alone
from results.speed.cost_model import (
    BATCH_MESSAGES,
    FLOPS_A_SECOND,
    SMALL_MESSAGES,
    STEP_MESSAGES,
    STEPS,
    communication,
    language_model_work,
    link,
    predicted,
)
from results.speed.tables import language_model_on_paper, measured_ranks, ranks_on_paper, share_lost
from runners.build import build_env, build_network
from runners.learning.learner import Learner
from runners.presets import PRESETS
from support.agent_oracles import space
from support.rank_work import batch, config

FIGURES = {
    "command": ["python", "-m", "results.speed.scaling"],
    "machine": {"processor": "A processor", "cores": 2},
    "measured": {"1": 1000.0, "2": 1900.0, "4": 1800.0},
    "parameters": 1_000_000,
    "steps_a_gradient_step": 100.0,
    "links": {"2": {"4": 0.0, "4000000": 0.01}, "4": {"4": 0.001, "4000000": 0.01}},
}


def test_communication_by_hand():
    assert communication(1, 10**6, 1e9, 1.0) == 0
    assert communication(2, 10**6, 1e9, 0.0) == pytest.approx(0.004)  # half sent twice: the message once
    assert communication(8, 10**6, 1e9, 0.001) == pytest.approx(2 * 7 / 8 * 0.004 + SMALL_MESSAGES * 0.001)


def test_a_link_explains_what_it_was_measured_by():
    bandwidth, latency = link({"4": 0.001, "4000000": 0.009}, ranks=4)
    assert latency == 0.001 and 2 * 3 / 4 * 4e6 / bandwidth == pytest.approx(0.008)


def test_prediction_by_hand():
    assert predicted(FIGURES, 1) == pytest.approx(1000)
    assert predicted(FIGURES, 2) == pytest.approx(200 / (0.1 + 0.01))
    small = 0.001 * SMALL_MESSAGES
    assert predicted(FIGURES, 4) == pytest.approx(400 / (0.2 + 0.009 + small), rel=1e-6)


class Counting(Alone):
    """One rank that counts what it would send."""

    size, messages, gradients = 1, 0, 0

    def total(self, x: torch.Tensor) -> torch.Tensor:
        self.messages += 1
        return x

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        self.messages += 1
        return x

    def sum_gradients(self, parameters) -> None:
        self.gradients += 1


def test_small_messages_are_counted():
    """Those of a batch of V-MPO as the `small` preset of Atari has it; the shares of log rows and episodes aside."""
    one = config("vmpo", passes=1)
    one = replace(one, training=replace(one.training, envs=8, minibatches=STEPS))
    one = replace(one, network=replace(one.network, normalise="off"))  # pictures have no running moments
    env = build_env(one, 1, stream=0)
    env.close()
    ranks = Counting()
    agent = make_agent(one.agent, space(False), ranks=ranks)
    learner = Learner(one, build_network(one, env.spec), agent, torch.device("cpu"), ranks)
    learner.train(batch(one).unroll, 0.0)
    assert (ranks.messages, ranks.gradients) == (BATCH_MESSAGES + STEPS * STEP_MESSAGES, STEPS)
    assert PRESETS["atari", "small"]("vmpo").training.minibatches == STEPS


def test_a_language_model_by_hand():
    """1e9 parameters, 8,192 tokens: 6 * 8.192e12 operations; 7/4 of 4 GB at 300 GB/s, and the small messages."""
    assert language_model_work(10**9, 8192) == pytest.approx(49.152e12 / FLOPS_A_SECOND)
    work, messages = 49.152e12 / (0.4 * 989e12), 7e9 / 300e9 + SMALL_MESSAGES * 20e-6
    row = f"| 8,192 | 49 TFLOP | {1e3 * work:.0f} ms | {1e3 * messages:.0f} ms | {messages / (work + messages):.1%} |"
    assert row in language_model_on_paper()


def test_tables():
    assert share_lost(FIGURES) == "5% measured, 9% by the model"
    assert "| 2 | 1,900 | 1,818 | 95% | 91% |" in measured_ranks(FIGURES)
    assert "| 64 GPUs, 400 Gbit/s a machine of 8 | 50 GB/s | 60 us |" in ranks_on_paper(FIGURES)
