"""Numbers that are not finite reach no weights; the edges of what can be configured stay finite."""

import math
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from runners.errors import RunError
from runners.learning.steps import FiniteSteps
from runners.training import AgentTraining
from support.runs import batches, small

ALL = ["vmpo", "ppo", "awr", "dar", "at-dar", "topk-dar", "gempi"]


def parts(training: AgentTraining) -> dict[str, torch.Tensor]:
    learner = training.learner
    return {
        f"{name}.{key}": value.clone()
        for name, part in (("network", learner.network), ("agent", learner.agent))
        for key, value in part.state_dict().items()
    }


def all_finite(training: AgentTraining) -> bool:
    return all(bool(value.isfinite().all()) for value in parts(training).values())


def poisoned(training: AgentTraining, reward: float) -> None:
    unroll = training.sampler.buffer.unroll
    training.learner.train(unroll._replace(reward=torch.full_like(unroll.reward, reward)), 0.0)


@pytest.mark.parametrize("agent", ["vmpo", "ppo", "at-dar"])
@pytest.mark.parametrize("reward", [math.inf, 3e38])
def test_a_gradient_that_is_not_finite_changes_no_weight_and_is_counted(agent: str, reward: float) -> None:
    """Observations, which are finite, are still counted; Adam moves eta by what it remembers of earlier batches."""
    training = batches(small("gtrxl", agent=agent, log_seconds=1e9), 1)
    before, updates = parts(training), training.learner.updates
    training.learner.drain_metrics()
    poisoned(training, reward)
    moved = [name for name, value in parts(training).items() if not torch.equal(value, before[name])]
    assert all("normaliser" in name or "temperature" in name for name in moved) and all_finite(training)
    skipped, metrics = training.learner.updates - updates, training.learner.drain_metrics()
    assert skipped > 0 and metrics["m_step/skipped"] == skipped and math.isnan(metrics["m_step/gradient_norm"])
    training.learner.train(training.sampler.buffer.unroll, 0.0)  # and it goes on
    assert any(not torch.equal(value, before[name]) for name, value in parts(training).items())
    metrics = training.learner.drain_metrics()
    assert all_finite(training) and metrics["m_step/skipped"] == skipped and metrics["m_step/gradient_norm"] > 0


def test_too_many_in_a_row_end_the_run_and_name_the_loss() -> None:
    training = batches(small("feedforward", log_seconds=1e9, patience_steps=48), 1)
    a_batch = training.learner.updates
    poisoned(training, math.nan)
    training.learner.train(training.sampler.buffer.unroll, 0.0)  # the row begins anew
    for _ in range(48 // a_batch - 1):
        poisoned(training, math.nan)
    with pytest.raises(RunError, match="--patience-steps 48.*not finite: value/loss, ") as error:
        poisoned(training, math.nan)
    assert "\n" not in str(error.value) and all_finite(training)


def test_fused_kernels_leave_a_step_out_as_plain_code_does() -> None:
    """A GPU is not waited for: the kernel itself reads whether to step."""

    def weights(on_device: bool) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.Adam([weight], fused=True)
        steps = FiniteSteps(optimizer)
        for gradient in (1.0, math.nan, 2.0, math.inf, 3.0):
            weight.grad = torch.full((3,), gradient)
            if on_device:
                optimizer.found_inf = (~weight.grad.sum().isfinite()).float()
                optimizer.step()
            else:
                steps.take(weight.grad.sum(), {})
        assert on_device or (steps.skipped, steps.in_a_row) == (2, 0)
        return weight.detach()

    assert torch.equal(weights(True), weights(False)) and weights(True).isfinite().all()


@pytest.mark.parametrize("agent", ALL)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e4, 1e18])
def test_advantages_of_any_size_and_all_alike(agent: str, scale: float) -> None:
    """Alike, they are of rewards that never differ and a value that has learned nothing."""
    training = batches(small("feedforward", agent=agent, log_seconds=1e9), 1)
    unroll = training.sampler.buffer.unroll
    reward = scale * torch.randn(unroll.reward.shape)
    for each in (reward, torch.full_like(reward, scale)):
        training.learner.train(unroll._replace(reward=each), 0.0)
    assert all_finite(training)
    assert all(math.isfinite(x) for name, x in training.learner.drain_metrics().items() if scale < 1e18)


class Endless(gymnasium.Env):
    """Ends after `length` steps, or never."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, length: float) -> None:
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see(), {}

    def step(self, action):
        self.t += 1
        return self._see(), float(action == 1), self.t >= self.length, False, {}

    def _see(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


gymnasium.register("OneStep-v0", Endless, kwargs={"length": 1}, max_episode_steps=None)
gymnasium.register("Endless-v0", Endless, kwargs={"length": math.inf}, max_episode_steps=None)


@pytest.mark.parametrize("agent", ["vmpo", "ppo"])
@pytest.mark.parametrize("core", ["gtrxl", "lstm"])
@pytest.mark.parametrize(
    ("env", "unroll", "envs", "memory", "top_k"),
    [
        ("OneStep-v0", 8, 4, 12, 0.5),
        ("Endless-v0", 8, 4, 12, 0.5),
        ("CartPole-v1", 2, 1, 1, 1e-9),  # k = 1
        ("OneStep-v0", 2, 1, 1, 1e-9),  # of two steps one is a reset
        ("Endless-v0", 2, 1, 1, 0.5),
    ],
)
def test_the_edges_of_a_run(agent: str, core: str, env: str, unroll: int, envs: int, memory: int, top_k: float) -> None:
    config = small(core, env, agent, unroll=unroll, envs=envs, minibatches=1)
    if agent == "vmpo":
        config = replace(config, agent=replace(config.agent, top_k=top_k))
    training = batches(replace(config, network=replace(config.network, memory=memory)), 6)
    assert all_finite(training) and int(training.learner.steps.skipped) == 0
    assert training.tracker.count == 0 or env != "Endless-v0"
