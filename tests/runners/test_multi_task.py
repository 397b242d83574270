"""Runs of several games: batches, values and scores are those of each game alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.atari57 import human_normalised
from envs.config import EnvConfig
from envs.factory import make_env
from runners.cli import parse
from runners.errors import UsageError
from runners.launch import main
from runners.records.tracker import EpisodeTracker, TaskTracker
from runners.training import AgentTraining
from support.runs import small_atari

GAMES = "Pong,Breakout,Freeway"


def test_environments_must_divide_among_games():
    with pytest.raises(UsageError, match="--envs 32 cannot be shared evenly by 57 games: take 57"):
        parse("atari", ["--game", "atari57"])
    assert len(parse("atari", ["--game", "atari57", "--envs", "57", "--minibatches", "3"])[0].tasks) == 57


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


@pytest.mark.parametrize("actors", [0, 2])
def test_every_column_of_a_batch_is_of_its_game(actors):
    """The same batch from one process and from actors whose shares cut through a game."""
    training = AgentTraining(small_atari(GAMES, actors=actors))
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
    training = AgentTraining(small_atari(GAMES, actors=actors, learner_envs=0))
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
