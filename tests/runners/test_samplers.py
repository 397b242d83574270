"""Acting: weights arrive whole, random numbers are never drawn twice, and no death of a process hangs another."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runners.acting.samplers import LocalSampler, ProcessSampler
from runners.acting.weights import flatten_weights
from runners.config import ControlEnv
from runners.errors import RunError
from runners.records.checkpoint import Checkpoints
from runners.training import AgentTraining
from support import PYTHONPATH, ROOT
from support.runs import make_sampler, small


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.mark.parametrize(("before", "after"), [(0, 2), (1, 0)])
def test_a_run_resumes_with_another_number_of_actors(before: int, after: int, tmp_path: Path) -> None:
    """And the acting weights, which under --target-period are not the network's, are those of the checkpoint."""
    one = AgentTraining(small("feedforward", actors=before, target_period=1000))
    loop = one.run()
    next(loop)
    state = one.get_state()
    Checkpoints(tmp_path).save_last(one.steps, state)
    loop.close()
    assert not torch.equal(state["sampler"]["weights"], flatten_weights(one.network))

    two = AgentTraining(small("feedforward", actors=after, target_period=1000))
    two.set_state(Checkpoints(tmp_path).latest().state)
    loop = two.run()
    next(loop)
    assert two.steps == 2 * two.config.steps_per_batch and two.starts == 2
    assert torch.equal(two.sampler.get_state()["weights"], state["sampler"]["weights"])
    loop.close()


@pytest.mark.parametrize(("kind", "actors"), [(LocalSampler, 0), (ProcessSampler, 2)])
def test_no_two_actors_of_any_rank_meet_the_same_episodes(kind: type, actors: int) -> None:
    samplers = [make_sampler(kind, small("feedforward", actors=actors), rank=rank)[0] for rank in range(2)]
    seen = torch.cat([sampler.next().unroll.observation[0] for sampler in samplers])
    assert len(seen.unique(dim=0)) == len(seen) == 8
    for sampler in samplers:
        sampler.close()


def test_a_resumed_run_meets_new_episodes() -> None:
    def acted(start: int) -> torch.Tensor:
        sampler, _ = make_sampler(LocalSampler, small("feedforward"), start)
        return sampler.next().unroll.observation

    assert torch.equal(acted(0), acted(0))
    assert not (acted(0)[0] == acted(1)[0]).any(), "first observations are drawn anew"


@pytest.mark.parametrize("groups", [1, 2])
def test_actor_processes_act_as_groups_of_the_local_one(groups: int) -> None:
    local, _ = make_sampler(LocalSampler, small("feedforward"), start=3, groups=groups)
    remote, _ = make_sampler(ProcessSampler, small("feedforward", actors=groups), start=3)
    for _ in range(2):
        for a, b in zip(local.next().unroll[:-2], remote.next().unroll[:-2], strict=True):
            assert torch.equal(a, b)
        remote.release()
    remote.close()


def test_one_group_steps_while_the_network_acts_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, _ = make_sampler(LocalSampler, small("feedforward", envs=5, unroll=2, minibatches=1), groups=2)
    calls: list[str] = []

    def logged(call: Callable, line: str) -> Callable:
        def with_a_line(*arguments):
            calls.append(line)
            return call(*arguments)

        return with_a_line

    for i, actor in enumerate(sampler.actors):
        assert actor.env.num_envs == 2 + i
        for name in ("send", "recv"):
            monkeypatch.setattr(actor.env, name, logged(getattr(actor.env, name), f"{name} {i}"))
    sampler.next()
    assert calls == ["send 0", "send 1", "recv 0", "send 0", "recv 1", "send 1", "recv 0", "recv 1"]


def test_an_episode_is_counted_once() -> None:
    """Over unrolls of 2 steps each end is often a last row, which is the next unroll's first."""
    sampler, _ = make_sampler(LocalSampler, small("feedforward", unroll=2))
    ended = counted = 0
    for _ in range(100):
        batch = sampler.next()
        ended += int((batch.unroll.terminated | batch.unroll.truncated)[1:].sum())
        counted += int((~batch.episode_return.isnan()).sum())
    assert counted == ended > 10


def test_an_actor_that_fails_says_why_in_one_line(capfd: pytest.CaptureFixture) -> None:
    config = small("feedforward", actors=1)
    sampler, _ = make_sampler(ProcessSampler, config, acts_in=replace(config, env=ControlEnv(name="CartPol-v1")))
    with pytest.raises(RunError, match="^actor 0: .*CartPole-v1") as failure:
        sampler.next()
    sampler.close()
    assert "EnvError" in str(failure.value.__cause__), "the actor's traceback, which --debug shows"
    assert capfd.readouterr().err == ""


def test_a_forgotten_sampler_ends_at_exit() -> None:
    """Its actors block the SIGTERM by which multiprocessing would end them."""
    program = (
        "from support.runs import make_sampler, small\n"
        "from runners.acting.samplers import ProcessSampler\n"
        "if __name__ == '__main__':\n"
        "    kept, _ = make_sampler(ProcessSampler, small('feedforward', actors=1))\n"
        "    kept.next()\n"
    )
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=60).returncode == 0


def start_run(run_dir: Path) -> subprocess.Popen:
    """A run with one actor, in a process group of its own, once it has learned from something."""
    arguments = "-m runners.control --core feedforward --actors 1 --envs 4 --minibatches 2 --unroll 16 --embedding 16"
    arguments += f" --no-video --log-seconds 0.2 --steps 100000000 --run-dir {run_dir}"
    process = subprocess.Popen(
        [sys.executable, *arguments.split()],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    table = run_dir / "metrics.csv"
    assert eventually(lambda: table.exists() and len(table.read_text().splitlines()) > 2)
    return process


def alive(group: int) -> list[int]:
    """Processes of a group that have not ended: field 3 of /proc/PID/stat is the state, field 5 the group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_stops_a_run_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    process = start_run(tmp_path)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "--resume" in output and errors == ""
    assert Checkpoints(tmp_path / "checkpoints").latest().step > 0
    assert eventually(lambda: not alive(process.pid), 10)


def test_a_killed_learner_leaves_no_actors(tmp_path: Path) -> None:
    process = start_run(tmp_path)
    assert len(alive(process.pid)) > 1
    process.kill()
    assert eventually(lambda: not alive(process.pid), 5)
    process.communicate(timeout=60)  # ends when no process holds its streams
