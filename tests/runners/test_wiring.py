"""What whole runs do with what their parts offer: masks, tasks, minibatches, clipping, annealing, evaluation, the best
checkpoint. Each of the parts has tests of its own."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from envs.interface import Discrete
from networks.actor_critic import ActorCritic
from runners import evaluation
from runners import training as training_module
from runners.build import build_env, build_network
from runners.config import RunConfig
from runners.launch import main as launch
from runners.machine.signals import NEVER
from runners.records.checkpoint import Checkpoints
from runners.training import AgentTraining, evaluations_due
from support.runs import batches, small, small_atari

ONCE = {"passes": 1, "minibatches": 1}


def network_of(config: RunConfig) -> ActorCritic:
    env = build_env(config, 1, stream=0)
    env.close()
    return build_network(config, env.spec)


# What the network sees


def test_the_previous_action_and_reward_enter_clipped_and_never_from_another_episode() -> None:
    network = network_of(small("feedforward"))
    observation = torch.randn(1, 4).expand(6, 4)
    action = torch.tensor([0, 1, 0, 0, 0, 0])
    reward = torch.tensor([0.0, 0.0, 0.5, 1.0, 7.0, -0.5])
    going_on, begun = (network.encode(observation, action, reward, torch.full((6,), first)) for first in (False, True))
    for i, j in ((0, 1), (0, 2), (2, 3), (0, 5)):
        assert not torch.allclose(going_on[i], going_on[j])
    torch.testing.assert_close(going_on[3], going_on[4])
    torch.testing.assert_close(begun, begun[:1].expand_as(begun))


@pytest.mark.parametrize("agent", ["vmpo", "ppo"])
def test_what_follows_an_episode_s_last_step_changes_nothing(agent: str) -> None:
    """Not the network, the duals nor PopArt's statistics: the reset's action and its reward are nobody's."""
    first, second = (batches(small("lstm", agent=agent, **ONCE), 4) for _ in range(2))
    unroll = first.sampler.buffer.unroll
    reward = unroll.reward.clone()
    reward[1:][~unroll.valid] = 1e4
    assert not torch.equal(reward, unroll.reward)
    for training, own in ((first, unroll.reward), (second, reward)):
        training.learner.train(unroll._replace(reward=own), 0.0)
    for part in ("network", "agent"):
        one, other = (getattr(training.learner, part).state_dict() for training in (first, second))
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


def test_a_game_has_its_own_value_and_statistics_in_the_learner() -> None:
    config = small_atari("Pong,Breakout", actors=0)
    config = replace(config, training=replace(config.training, **ONCE))
    learner = AgentTraining(config).learner
    unroll = batches(config, 1).sampler.buffer.unroll
    other = (unroll.task == 1).nonzero().squeeze(1)
    reward = unroll.reward.clone()
    reward[:, other] += 50
    head = learner.network.value_head
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.copy_(torch.tensor([3.0, 8.0]))
    value = learner.passes(unroll).fitted.value
    assert torch.equal(value, torch.tensor([3.0, 8.0])[unroll.task].expand_as(value))
    learner.train(unroll._replace(reward=reward), 0.0)
    pong, breakout = head.mean.tolist()
    assert abs(pong) < 20 < breakout


# The learner's gradient steps


def test_a_pass_takes_every_column_once_and_in_an_order_of_its_own() -> None:
    learner = AgentTraining(small("feedforward", envs=12, passes=3, minibatches=4)).learner
    parts = list(learner._minibatches())
    assert [len(part) for part in parts] == [3] * 12
    passes = [torch.cat(parts[4 * i : 4 * i + 4]).tolist() for i in range(3)]
    assert all(sorted(order) == list(range(12)) for order in passes)
    assert len(set(map(tuple, passes))) == 3


@pytest.mark.parametrize(("limit", "clipped"), [(1e-3, True), (1e6, False), (0.0, False)])
def test_gradients_are_clipped(limit: float, clipped: bool) -> None:
    training = batches(small("feedforward", max_gradient_norm=limit, **ONCE), 1)
    gradients = [p.grad for p in training.network.parameters() if p.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-2) if clipped else norm > 1e-2


def test_the_rate_falls_as_the_run_goes_on() -> None:
    training = AgentTraining(small("feedforward", anneal=True, anneal_from=0.5, learning_rate=1e-3, steps=4 * 64))
    rates = [training.learner.optimizer.param_groups[0]["lr"] for _ in training.run()]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 0.5e-3])


# Gates


def test_a_row_says_how_far_the_gates_open_and_to_look_changes_nothing() -> None:
    """At the start a GRU gate passes s(-2) of what comes in; cores without gates that open have no such metric."""
    row = next(AgentTraining(small("gtrxl", learning_rate=1e-9)).run())
    gates = {name: value for name, value in row.items() if name.startswith("memory/gate")}
    assert set(gates) == {f"memory/gate_{part}_{layer}" for part in ("attention", "mlp") for layer in (1, 2)}
    assert list(gates.values()) == pytest.approx([1 / (1 + np.e**2)] * 4, abs=0.02)
    for core in ("trxl-i", "lstm", "feedforward"):
        assert not [name for name in next(AgentTraining(small(core)).run()) if name.startswith("memory/gate")]
    seen, unseen = (batches(small("gtrxl", log_seconds=seconds), 3).network for seconds in (0.0, 1e9))
    assert all(torch.equal(a, b) for a, b in zip(seen.parameters(), unseen.parameters(), strict=True))


# Evaluation and the best checkpoint


class Clockwork:
    """Environments of which number i has episodes of i + 1 steps and of return i."""

    def __init__(self, envs: int) -> None:
        self.num_envs, self.clock = envs, 0
        self.spec = SimpleNamespace(action=Discrete(2))

    def reset(self) -> SimpleNamespace:
        return self.step(None)

    def step(self, action: np.ndarray | None) -> SimpleNamespace:
        ends = [self.clock and self.clock % (i + 1) == 0 for i in range(self.num_envs)]
        self.clock += 1
        returns = np.where(ends, np.arange(self.num_envs), np.nan)
        lengths = np.arange(self.num_envs) + 1
        nothing = np.zeros(self.num_envs)
        return SimpleNamespace(
            episode_return=returns, episode_length=lengths, reward=nothing, first=nothing.astype(bool)
        )

    def send(self, action: np.ndarray | None, playing: np.ndarray) -> None:
        pass

    def recv(self) -> SimpleNamespace:
        return self.step(None)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("policy", ["mode", "sample"])
def test_short_episodes_are_not_counted_more_often(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def player(env, network, sample: bool, seed: int) -> SimpleNamespace:
        asked.append(sample)
        return SimpleNamespace(act=lambda step, playing: None)

    monkeypatch.setattr(evaluation, "build_env", lambda config, envs, **_: Clockwork(envs))
    monkeypatch.setattr(evaluation, "Player", player)
    monkeypatch.setattr(evaluation, "MOST_ENVS", 4)
    config = small("feedforward", eval_policy=policy)
    found = evaluation.evaluate(config, network_of(config), 10)
    assert sorted(found["returns"]) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3] and found["mean"] == pytest.approx(1.3)
    assert asked == [policy == "sample"] and ("samples" in found["protocol"]) == (policy == "sample")


def test_evaluations_are_evenly_spaced_over_the_end_of_a_run() -> None:
    config = small("feedforward", steps=1000, evaluations=4, eval_from=0.6)
    due = [evaluations_due(config.training, steps) for steps in (0, 599, 699, 700, 899, 900, 1000, 1010)]
    assert due == [0, 0, 0, 1, 2, 3, 4, 4]
    assert evaluations_due(small("feedforward", steps=1000).training, 1000) == 0


def test_the_best_weights_are_those_of_the_best_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the worse of two policies; of two alike the later; training returns have no say."""
    training = batches(small("feedforward"), 1)
    best = []
    training.tracker.add(np.full((1, 200), 999.0), np.ones((1, 200), np.int64), np.zeros(200, np.int64))
    for step, mean, by_mode in ((10, 5.0, 4.0), (20, 9.0, 3.0), (30, 4.0, 4.0), (40, 3.9, 8.0), (50, 6.0, None)):
        training.steps = step
        result = {"mean": mean} | ({} if by_mode is None else {"by_mode": {"mean": by_mode}})
        monkeypatch.setattr(training_module, "evaluate_briefly", lambda *_, result=result: result)
        assert training._choose(NEVER) == {"return/evaluation": min(mean, mean if by_mode is None else by_mode)}
        best.append(training.best_at)
    assert best == [10, 10, 30, 30, 50]


def test_a_run_keeps_the_weights_of_its_best_evaluation(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint `best` is of its step, the newest of the last; the final evaluation plays the best."""
    scores, played = iter([1.0, 3.0, 2.0]), []

    def evaluate(config: RunConfig, network: ActorCritic, episodes: int) -> dict:
        played.append(network.state_dict())
        return {"mean": 0.0, "std": 0.0, "episodes": episodes}

    monkeypatch.setattr(training_module, "evaluate_briefly", lambda *_: {"mean": next(scores)})
    monkeypatch.setattr(training_module, "evaluate", evaluate)
    config = (
        f"--env CartPole-v1 --core feedforward --envs 4 --unroll 16 --steps 384 --evaluations 3 --run-dir {tmp_path}"
    )
    assert launch("control", [*config.split(), "--no-video"]) == 0
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    best, last = checkpoints.best(), checkpoints.latest()
    assert best.step == 256 and last.step == 384
    for name, value in best.state["learner"]["network"].items():
        assert torch.equal(value, played[0][name])
    rows = (tmp_path / "metrics.csv").read_text()
    assert "return/evaluation" in rows.splitlines()[0]
