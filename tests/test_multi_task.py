"""Several games, one agent: environments, value statistics and scores are those of each game alone."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from agent_oracles import random_batch, to_torch

from agents.evaluation import describe_values, evaluate_policy, scaled_advantages, value_loss
from envs import factory
from envs.atari57 import RANDOM_AND_HUMAN, human_normalised
from envs.config import EnvConfig
from envs.factory import make_env
from envs.interface import EnvError
from envs.multi_task import share_out
from networks.heads import PopArtHead
from runners.cli import parse
from runners.config import AtariEnv, RunConfig
from runners.errors import UsageError
from runners.launch import main
from runners.records.tracker import EpisodeTracker, TaskTracker
from runners.training import Training

GAMES = "Pong,Breakout,Freeway"


@pytest.mark.parametrize(
    ("games", "envs", "threads", "each"),
    [("Pong", 2, 16, [2]), (GAMES, 12, 12, [4, 4, 4]), (GAMES, 3, 16, [1, 1, 1]), (GAMES, 12, 1, [1, 1, 1])],
)
def test_the_simulators_share_the_threads(games, envs, threads, each, monkeypatch) -> None:
    made = []
    make = lambda config, suite, envs, seed, threads, render: made.append(threads) or Mock()  # noqa: E731
    monkeypatch.setattr(factory, "backend_class", lambda suite, backend: make)
    monkeypatch.setattr(factory, "MultiTask", lambda parts, name: parts)
    make_env(EnvConfig(suite="atari", name=games), envs, seed=0, threads=threads)
    assert made == each


def make_heads(tasks: int) -> tuple[PopArtHead, list[PopArtHead]]:
    """A head of several tasks, and one of each task alone with its part of the weights."""
    torch.manual_seed(0)
    joint = PopArtHead(6, 5, 0.1, tasks)
    torch.nn.init.normal_(joint.output.weight)
    alone = [PopArtHead(6, 5, 0.1) for _ in range(tasks)]
    for i, head in enumerate(alone):
        head.body.load_state_dict(joint.body.state_dict())
        with torch.no_grad():
            head.output.weight.copy_(joint.output.weight[i : i + 1])
            head.output.bias.copy_(joint.output.bias[i : i + 1])
    return joint, alone


# Environments


@pytest.mark.parametrize("backend", ["envpool", "ale"])
def test_environments_are_those_of_each_game(backend):
    """Alone, with all 18 actions and the seed that its part is given, a game shows and pays the same."""
    config = EnvConfig(GAMES, backend=backend, max_episode_frames=400)
    together = make_env(config, 5, seed=3, tasks=[0, 0, 1, 2, 2])
    assert together.spec.action.n == 18 and together.spec.name == GAMES and together.num_envs == 5
    actions = np.random.default_rng(0).integers(18, size=(230, 5))
    steps = [together.reset(), *(together.step(a) for a in actions)]
    together.close()
    for task, columns in enumerate((slice(0, 2), slice(2, 3), slice(3, 5))):
        seed = int(np.random.SeedSequence((3, task)).generate_state(1)[0] >> 1)
        one = replace(config, name=config.tasks[task], full_actions=True)
        env = make_env(one, columns.stop - columns.start, seed)
        expected = [env.reset(), *(env.step(a[columns]) for a in actions)]
        env.close()
        for there, here in zip(steps, expected, strict=True):
            for a, b in zip(there, here, strict=True):
                np.testing.assert_array_equal(a[columns], b)
    assert any((~np.isnan(step.episode_return)).any() for step in steps)


def test_tasks_are_shared_out_in_blocks():
    assert share_out(1, 4).tolist() == [0, 0, 0, 0]
    assert share_out(3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert np.bincount(share_out(57, 114)).tolist() == [2] * 57
    assert EnvConfig("atari57").tasks == tuple(RANDOM_AND_HUMAN) and len(RANDOM_AND_HUMAN) == 57


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("Pong,Pnog", "did you mean Pong"), ("Pong,Pong", "named twice"), ("Pong,AirRaid", "one of the 57")],
)
def test_lists_that_cannot_be_played_are_named(name, complaint):
    with pytest.raises(EnvError, match=complaint):
        EnvConfig(name)
    with pytest.raises(EnvError, match="for Atari"):
        EnvConfig("CartPole-v1,Acrobot-v1", "control")


def test_environments_must_divide_among_games():
    with pytest.raises(UsageError, match="--envs 32 cannot be shared evenly by 57 games: take 57"):
        parse("atari", ["--game", "atari57"])
    assert len(parse("atari", ["--game", "atari57", "--envs", "57", "--minibatches", "3"])[0].tasks) == 57


def test_human_normalised_scores():
    assert human_normalised("Pong", RANDOM_AND_HUMAN["Pong"][0]) == 0
    assert human_normalised("Pong", RANDOM_AND_HUMAN["Pong"][1]) == 100
    assert human_normalised("Breakout", 1.7 + 2 * (30.5 - 1.7)) == pytest.approx(200)


# PopArt


def test_popart_of_several_tasks_is_one_of_each():
    joint, alone = make_heads(3)
    task = torch.tensor([0, 2, 1, 2])
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(7, 4, 6, generator=rng)
    for _ in range(5):
        targets = torch.randn(7, 4, generator=rng) * torch.tensor([1.0, 100.0, 0.1, 100.0]) + 3
        mask = torch.rand(7, 4, generator=rng) < 0.7
        joint.update(targets, mask, task=task)
        for i, head in enumerate(alone):
            head.update(targets[:, task == i], mask[:, task == i])
    value = joint(x, task)
    assert value.shape == (7, 4)
    for i, head in enumerate(alone):
        mine = task == i
        torch.testing.assert_close(joint.mean[i : i + 1], head.mean)
        torch.testing.assert_close(joint.std[i : i + 1], head.std)
        torch.testing.assert_close(value[:, mine], head(x[:, mine]))
        torch.testing.assert_close(joint.denormalise(value, task)[:, mine], head.denormalise(value[:, mine]))
        torch.testing.assert_close(joint.normalise(targets, task)[:, mine], head.normalise(targets[:, mine]))


def test_a_task_without_samples_keeps_its_statistics():
    joint, _ = make_heads(2)
    joint.update(torch.ones(3, 2), torch.ones(3, 2, dtype=torch.bool), task=torch.tensor([1, 1]))
    assert joint.std[0] == 1 and joint.mean[0] == 0 and joint.mean[1] == 1


def test_games_of_different_scale_weigh_the_same():
    """Two copies of one batch, as two tasks, one with rewards and values a hundredfold: the same advantages."""
    batch = random_batch(3, continuous=False)
    output, unroll, _, _ = to_torch(batch, mean=0.5, std=2.0)
    double = lambda x: torch.cat([x, x], 1)  # noqa: E731
    count = batch.value.shape[1]
    task = torch.arange(2).repeat_interleave(count)
    scale = 1 + 99.0 * task
    policy = type(output.policy)(*(double(p) for p in output.policy))
    both = output._replace(policy=policy, value=double(output.value))
    fields = {name: double(getattr(unroll, name)) for name in ("first", "terminated", "truncated", "previous_action")}
    fields |= {"reward": double(unroll.reward) * scale, "value": double(unroll.value) * scale}
    fields |= {"policy": double(unroll.policy), "task": task}
    head = PopArtHead(1, 1, tasks=2)
    head.mean.copy_(torch.tensor([0.5, 50.0]))
    head.std.copy_(torch.tensor([2.0, 200.0]))
    both_unroll = unroll._replace(observation=double(unroll.observation), **fields)
    result = evaluate_policy(both_unroll, 0.99, 0.9)
    plain, large = scaled_advantages(result, both_unroll, head, standardised=False).chunk(2, 1)
    torch.testing.assert_close(plain, large)
    torch.testing.assert_close(result.returns[:, count:], 100 * result.returns[:, :count])

    one = PopArtHead(1, 1)
    one.mean.fill_(0.5)
    one.std.fill_(2.0)
    alone = evaluate_policy(unroll, 0.99, 0.9)
    torch.testing.assert_close(scaled_advantages(alone, unroll, one, standardised=False), alone.advantages)
    scaled = scaled_advantages(alone, unroll, one, standardised=False, in_deviations=True)
    torch.testing.assert_close(scaled, alone.advantages / one.std.item(), msg="--scale-rewards")
    torch.testing.assert_close(plain, alone.advantages / 2)
    losses, explained = [], []
    for said, evaluation, seen, its in ((both, result, both_unroll, head), (output, alone, unroll, one)):
        losses.append(value_loss(said.value[:-1], evaluation.returns, seen.valid, seen.task, its))
        explained.append(describe_values(evaluation, seen, its)["value/explained_variance"])
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*explained, rtol=1e-6, atol=1e-6)


# Runs


def test_the_tracker_keeps_tasks_apart():
    tracker = TaskTracker(["Pong", "Breakout"])
    returns = np.array([[np.nan, 2.0, 30.5], [21.0, np.nan, np.nan]])
    lengths = np.array([[0, 5, 7], [9, 0, 0]])
    tracker.add(returns, lengths, np.array([0, 1, 1]))
    metrics = tracker.metrics()
    assert metrics["return/Pong"] == 21 and metrics["return/Breakout"] == 16.25 and tracker.count == 3
    expected = (human_normalised("Pong", 21) + human_normalised("Breakout", 16.25)) / 2
    assert metrics["return/train"] == pytest.approx(expected) and not tracker.full
    other = TaskTracker(["Pong", "Breakout"])
    assert np.isnan(other.mean_return)
    other.set_state(tracker.get_state())
    assert other.metrics() == metrics
    single, plain = TaskTracker(["recall-5"]), EpisodeTracker()
    single.add(returns, lengths, np.zeros(3, np.int64))
    plain.add(returns, lengths)
    assert single.mean_return == plain.mean_return and "return/recall-5" not in single.metrics()


def tiny(games: str, **training) -> RunConfig:
    config, _ = parse("atari", ["--core", "feedforward", "--torso-hidden", "16", "--embedding", "16"])
    sizes = {"envs": 6, "unroll": 8, "minibatches": 2, "value_warmup": 0, "log_seconds": 0.0, **training}
    return replace(config, env=AtariEnv(name=games), training=replace(config.training, **sizes))


@pytest.mark.parametrize("actors", [0, 2])
def test_every_column_of_a_batch_is_of_its_game(actors):
    """The same batch from one process and from actors whose shares cut through a game."""
    training = Training(tiny(GAMES, actors=actors))
    assert training.network.value_head.output.out_features == 3
    loop = training.run()
    next(loop)
    unroll = training.sampler.next().unroll
    assert unroll.task.tolist() == [0, 0, 1, 1, 2, 2]
    column_means = unroll.observation.float().mean((0, 2, 3, 4))
    loop.close()
    for task, game in enumerate(GAMES.split(",")):
        env = make_env(EnvConfig(game), 1, seed=0)
        brightness = env.reset().observation.mean()
        env.close()
        nearest = (column_means - float(brightness)).abs().argsort()[:2]
        assert sorted(nearest.tolist()) == [2 * task, 2 * task + 1]


@pytest.mark.parametrize("actors", [0, 2])
def test_the_value_that_comes_with_a_game_is_its_own(actors):
    """In units of that game's return, by that game's output and statistics."""
    training = Training(tiny(GAMES, actors=actors, learner_envs=0))
    head = training.network.value_head
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    head.mean.copy_(torch.tensor([10.0, 20.0, 30.0]))
    head.std.copy_(torch.tensor([2.0, 3.0, 4.0]))
    sampler = training._make_sampler()
    value = sampler.next().unroll.value.clone()
    sampler.close()
    torch.testing.assert_close(value, torch.tensor([12.0, 26.0, 42.0]).repeat_interleave(2).expand_as(value))
    online = training.learner._values(training._make_sampler().next().unroll) if not actors else value
    torch.testing.assert_close(online, value)


def test_a_run_of_two_games(tmp_path: Path, capsys):
    sizes = "--envs 4 --unroll 8 --minibatches 2 --steps 64 --actors 0 --torso-hidden 16 --embedding 16".split()
    limits = ["--max-episode-frames", "400", "--eval-episodes", "2", "--no-video", "--log-seconds", "0"]
    folder = tmp_path / "run"
    assert main("atari", ["--game", "Pong,Breakout", "--core", "lstm", *sizes, *limits, "--run-dir", str(folder)]) == 0
    result = json.loads((folder / "summary.json").read_text())["eval"]
    assert set(result["games"]) == {"Pong", "Breakout"} and result["episodes"] == 4
    scores = [human_normalised(game, played["mean"]) for game, played in result["games"].items()]
    assert result["returns"] == scores and result["mean"] == pytest.approx(np.mean(scores))
    assert all(len(played["returns"]) == 2 for played in result["games"].values())
    assert main("atari", ["--resume", str(folder), "--steps", "128"]) == 0
