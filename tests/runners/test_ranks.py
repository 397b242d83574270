"""Two ranks equal one with the joined batch: losses, gradients, and what whole runs make of them."""

import json
import signal
import socket
import time

import pytest
import torch
import torch.multiprocessing as multiprocessing
from peft import AutoPeftModelForCausalLM

from runners.acting.weights import flatten_weights
from runners.errors import UsageError
from runners.lm.base import kept_base_model
from runners.lm.config import DataConfig, LMConfig
from runners.lm.evaluation import evaluate
from runners.lm.model import character_tokenizer, load_model
from runners.lm.problem import Problem
from runners.lm.sources import TaskSource
from runners.machine.ranks import ONE_RANK, OneRank, join
from runners.training import AgentTraining
from support import PYTHONPATH, rank_work
from support.lm_task import TASK
from support.runs import small
from support.torchrun import torchrun


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[dict]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(rank_work.work, (2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_ranks_begin_with_one_network_and_draw_masks_of_their_own() -> None:
    class Rank(OneRank):
        def __init__(self, rank: int) -> None:
            self.rank = rank

    first = AgentTraining(small())
    loop = first.run()
    next(loop)
    state = first.get_state()
    loop.close()
    networks, drawn = [], []
    for rank in range(3):
        training = AgentTraining(small(), Rank(rank))
        networks.append(flatten_weights(training.network))
        drawn.append(int(torch.randint(2**62, ())))
        training.set_state(state)
        drawn.append(int(torch.randint(2**62, ())))
    assert torch.equal(networks[0], networks[1]) and torch.equal(networks[0], networks[2])
    assert len(set(drawn)) == 6


def test_more_ranks_than_gpus_is_a_usage_error(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="--nproc-per-node 1 at most"), join(torch.device("cuda")):
        pass


@pytest.mark.parametrize("case", rank_work.CASES, ids=str)
def test_losses_and_gradients_are_those_of_the_joined_batch(two_ranks, case) -> None:
    alone = rank_work.loss_and_gradients(*case, ONE_RANK)
    for found in two_ranks:
        assert found[str(case)].keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                found[str(case)][name], value, atol=1e-9, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert alone["policy"].abs().max() > 1e-3 and alone["value"].abs().max() > 1e-3


@pytest.mark.parametrize("agent", ["vmpo", "ppo"])
def test_learning_is_that_of_the_joined_batch(two_ranks, agent) -> None:
    """Network, multipliers, moments of the observations and of PopArt after three gradient steps, in float32."""
    unroll = rank_work.batch(rank_work.config(agent)).unroll
    assert (unroll.terminated | unroll.truncated).any()
    alone = rank_work.trained(rank_work.config(agent), ONE_RANK)
    assert [value for name, value in alone.items() if name.endswith(".count")] == [unroll.valid.sum()]
    for found in two_ranks:
        for name, value in alone.items():
            torch.testing.assert_close(
                found[agent][name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("sharded", ["", "sharded "], ids=["copies", "sharded"])
@pytest.mark.parametrize("method", rank_work.LM_METHODS)
def test_a_language_model_learns_what_it_would_from_the_joined_batch(two_ranks, method, sharded) -> None:
    """Weights, multipliers and what is logged after two gradient steps."""
    alone = rank_work.lm_steps(method, ONE_RANK)
    for found in two_ranks:
        assert found[f"{sharded}lm {method}"].keys() == alone.keys()
        for name, value in alone.items():
            there = found[f"{sharded}lm {method}"][name]
            torch.testing.assert_close(there, value, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_statistics_per_rank_are_another_method_that_keeps_the_ranks_equal(two_ranks) -> None:
    one, two = (found["per rank"] for found in two_ranks)
    for name, value in one.items():
        assert torch.equal(two[name], value), name
    assert any((value - two_ranks[0]["vmpo"][name]).abs().max() > 1e-4 for name, value in one.items())


def test_every_rank_gets_the_first_ones_parameters_and_buffers(two_ranks) -> None:
    (first, after_first), (second, after_second) = (found["copied"] for found in two_ranks)
    assert all(not torch.equal(first[i], second[i]) for i in (0, 1, 2, 4))  # all but the bias of the norm
    for want, *got in zip(first, after_first, after_second, strict=True):
        assert all(torch.equal(x, want) for x in got)


def test_any_rank_may_ask(two_ranks) -> None:
    assert [found["votes"] for found in two_ranks] == [[False, True]] * 2


def test_no_rank_leaves_before_the_first_is_done(tmp_path) -> None:
    """torchrun would end the first, evaluation and all, if another failed in ending."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(rank_work.leave, (2, str(tmp_path), port), nprocs=2)
    assert [(tmp_path / f"left {rank}").read_text() for rank in range(2)] == ["True", "True"]


@pytest.mark.slow
def test_torchrun_trains_stops_and_resumes(tmp_path) -> None:
    flags = "--core lstm --embedding 16 --envs 4 --unroll 16 --eval-episodes 2 --no-video --log-seconds 0".split()
    run = torchrun(
        "runners.control", *flags, "--actors", "1", "--steps", "100000000", "--run-dir", str(tmp_path / "run")
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("run/checkpoints/step_*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(2)
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=60)
    assert "stopped at step" in said, said

    config = tmp_path / "run/config.json"
    config.write_text(config.read_text().replace('"steps": 100000000', '"steps": 1024'))
    said, _ = torchrun("runners.control", "--resume", str(tmp_path / "run")).communicate(timeout=120)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["ranks"] == 2 and summary["steps"] >= 2 * 4 * 16 and summary["steps"] % (2 * 4 * 16) == 0, said


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["", "--shard --method dar --dropout 0.1", "--shard --lora 2 --baseline value"])
def test_torchrun_fine_tunes_a_language_model(tmp_path, flags) -> None:
    """The model that is saved is the one that was evaluated, and what was saved on the way goes on."""
    flags = f"--task support.lm_task:TASK --rollouts 3 --eval-prompts 64 --log-rollouts 1 {flags}".split()
    flags += ["--learning-rate", "1e-2"]
    problem = Problem(TaskSource(TASK), character_tokenizer(TASK.alphabet), torch.device("cpu"))
    if "--lora" in flags:
        kept_base_model(problem, 0, 0.0, tmp_path / "base")
        flags += ["--model", str(tmp_path / "base")]
    run = torchrun("runners.lm", *flags, "--run-dir", str(tmp_path / "run"), PYTHONPATH=PYTHONPATH)
    said, _ = run.communicate(timeout=240)
    assert run.returncode == 0, said
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["ranks"] == 2 and summary["updates"] == 12 and said.count("reward, sampled") == 1, said

    load = AutoPeftModelForCausalLM.from_pretrained if "--lora" in flags else load_model
    saved = load(str(tmp_path / "run/model"))
    again = evaluate(LMConfig(data=DataConfig(task="support.lm_task:TASK", eval_prompts=64)), problem, saved)
    assert (
        again["samples"] == summary["eval"]["samples"]
        and again["mean"] == summary["eval"]["mean"] != summary["base"]["mean"]
    )

    if "--shard" in flags:
        resume = ["runners.lm", "--resume", str(tmp_path / "run"), "--rollouts", "4"]
        run = torchrun(*resume, PYTHONPATH=PYTHONPATH)
        said, _ = run.communicate(timeout=240)
        assert run.returncode == 0 and "4 rollouts, 16 updates" in said, said
