"""Actors in processes: one that dies is started again, one that hangs is named, and no unroll is of two networks."""

import multiprocessing
import os
import signal
import time
import zlib
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from runners.acting import processes
from runners.acting.processes import ActorProcess
from runners.acting.samplers import ProcessSampler
from runners.acting.weights import SLOTS, SharedWeights, flatten_weights, load_weights
from runners.build import build_network, spec_of
from runners.errors import RunError
from runners.training import AgentTraining
from support.runs import batches, small


class Writer:
    """Stands for an actor: fills a tensor with a number, half of it before what `trouble` does at that number."""

    def __init__(self, trouble: dict[int, str], starts: int) -> None:
        self.trouble, self.number = trouble if not starts or "always" in trouble.values() else {}, 100 * starts

    def load(self, weights: torch.Tensor) -> None:
        self.weights = weights.clone()

    def collect(self, view: torch.Tensor) -> None:
        self.number += 1
        view[: len(view) // 2] = self.number
        match self.trouble.get(self.number % 100):
            case "dies" | "always":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hangs":
                sleep_for_ever()
        view[len(view) // 2 :] = self.number


def sleep_for_ever() -> None:
    time.sleep(1000)


def started(trouble: dict[int, str], patience: float = 60.0) -> tuple[ActorProcess, list[torch.Tensor]]:
    views = [torch.zeros(1000).share_memory_() for _ in range(2)]
    actor = ActorProcess("actor 7", partial(Writer, trouble), views, SharedWeights(torch.zeros(3)), patience)
    actor.give(0)
    actor.give(1)
    return actor, views


def test_an_actor_that_dies_is_started_again_and_its_unroll_dropped_whole(capsys: pytest.CaptureFixture) -> None:
    actor, views = started({2: "dies"})
    seen = []
    for i in range(4):
        assert actor.receive() == 1
        assert len(views[i % 2].unique()) == 1
        seen.append(int(views[i % 2][0]))
        actor.give(i % 2)
    assert seen == [1, 101, 102, 103] and actor.restarts == 1
    assert capsys.readouterr().out == (
        "actor 7 died (exit code -9): its unroll is dropped, and it is started again (1 of 5)\n"
    )
    assert actor.cpu_seconds() > 0
    actor.kill()


def test_an_actor_that_always_dies_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "RESTARTS", 1)
    actor, _ = started({1: "always"})
    with pytest.raises(RunError, match=r"^actor 7 died \(exit code -9\), the 2th time within 10 minutes; [^\n]*$"):
        actor.receive()


def test_an_actor_that_hangs_is_named_with_its_stack(capfd: pytest.CaptureFixture) -> None:
    actor, _ = started({2: "hangs"}, patience=15.0)
    actor.receive()
    actor.patience = 1.0
    with pytest.raises(RunError, match=r"^actor 7 gave nothing for 1 s \(--patience\); its stack is above$"):
        actor.receive()
    assert "in sleep_for_ever" in capfd.readouterr().err
    assert not actor.process.is_alive()


def test_each_unroll_is_of_one_network_and_learned_from_once_and_versions_never_go_back_whoever_dies() -> None:
    """Recomputed under the weights that it names, an unroll's policies are those that acted."""
    config = small("gtrxl", actors=2)
    torch.manual_seed(0)
    spec = spec_of(config)
    network, copy = (build_network(config, spec) for _ in range(2))
    sampler = ProcessSampler(config, spec, network, 0)
    published, last, unrolls = {1: flatten_weights(network)}, [0, 0], set()
    for batch in range(8):
        unroll = sampler.next().unroll
        assert all(before <= now for before, now in zip(last, sampler.versions, strict=True))
        last = sampler.versions
        for i, version in enumerate(sampler.versions):
            part = unroll.columns(slice(2 * i, 2 * i + 2))
            unrolls.add(checksum(part.observation.contiguous()))
            load_weights(copy, published[version])
            with torch.no_grad():
                output = copy(part.observation, part.previous_action, part.reward, part.first, part.state)
            torch.testing.assert_close(output.policy.parameters()[:-1], part.policy, atol=1e-5, rtol=1e-5)
        sampler.release()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
        sampler.publish(network)
        published[sampler.weights.version] = flatten_weights(network)
        if batch in (2, 4):
            sampler.actors[batch // 4].process.kill()
    assert sampler.restarts == 2 and max(last) > 4 and len(unrolls) == 16
    sampler.close()


@pytest.mark.parametrize("period", [2, 3])
def test_between_two_publications_all_samples_are_of_one_pi_old(period: int) -> None:
    """Of the newest when they are learned from, also in a run that is resumed within a period."""
    config = small("feedforward", actors=2, learner_envs=2, target_period=period)
    training, found = AgentTraining(config), []
    for _ in range(2):
        learn = training.learner.train

        def train(*arguments, training=training, learn=learn) -> None:
            sampler = training.sampler
            found.append((sampler.versions, sampler.weights.version, training.batches // period))
            learn(*arguments)

        training.learner.train = train
        batches(config, 4, training)
        state, training = training.get_state(), AgentTraining(config, fresh=False)
        training.set_state(state)
    assert [versions for versions, *_ in found] == [[newest] * 2 for _, newest, _ in found]
    starts = [0] * 4 + [4 // period] * 4
    assert [newest for _, newest, _ in found] == [1 + x - y for (*_, x), y in zip(found, starts, strict=True)]


READERS, SECONDS, SIZE = 8, 4.0, 20_000


def numbered(version: int) -> torch.Tensor:
    return torch.full((SIZE,), float(version)).add_(torch.arange(SIZE) % 7)


def checksum(x: torch.Tensor) -> int:
    return zlib.crc32(x.numpy())


def read(weights: SharedWeights, report: multiprocessing.Queue) -> None:
    """Fetch as fast as it goes; report how many versions came, and how many were torn or older than the one before."""
    mine, version, fetched, wrong = torch.zeros(SIZE), 0, 0, 0
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        newest = weights.fetch(mine.copy_, version)
        if newest != version:
            fetched += 1
            wrong += newest < version or checksum(mine) != checksum(numbered(newest))
        version = newest
    report.put((fetched, wrong))


def stressed(weights: SharedWeights) -> tuple[int, int, int]:
    """Publish at full speed to 8 readers; returns versions published and fetched, and those that were wrong."""
    context = multiprocessing.get_context("fork")
    report = context.Queue()
    readers = [context.Process(target=read, args=(weights, report)) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        weights.publish(SimpleNamespace(vector=numbered(weights.version + 1)))
    fetched, wrong = map(sum, zip(*(report.get(timeout=60) for _ in readers), strict=True))
    for reader in readers:
        reader.join()
    return weights.version, fetched, wrong


def test_eight_readers_of_a_writer_at_full_speed_see_whole_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.acting.weights.flatten_weights", lambda module: module.vector)
    published, fetched, wrong = stressed(SharedWeights(numbered(1)))
    assert published > 100 and fetched > 100 and wrong == 0


def test_the_stress_sees_torn_weights_where_nobody_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: SharedWeights, load, version: int) -> int:
        newest = self.version
        if newest != version:
            load(self._slots[(newest + 1) % SLOTS])  # where the next one may be written meanwhile
        return newest

    monkeypatch.setattr("runners.acting.weights.flatten_weights", lambda module: module.vector)
    monkeypatch.setattr(SharedWeights, "fetch", careless)
    assert stressed(SharedWeights(numbered(1)))[2] > 0
