"""The torso's precision: who decides, by what, and that the outcome is kept."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from envs.interface import Discrete, EnvSpec, Part
from networks.torsos import make_torso
from runners import evaluate
from runners.build import build_network, parts_of
from runners.cli import parse
from runners.config import to_dict
from runners.machine import precision
from runners.machine.precision import bf16_pays, pictures, settle_precision, torso_seconds
from runners.records.checkpoint import Checkpoints
from runners.training import AgentTraining
from support.runs import small

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CARTPOLE = EnvSpec("CartPole-v1", (Part("", "vector", (4,), unbounded=True),), Discrete(2), 1, 500)
PONG = EnvSpec("Pong", (Part("", "picture", (4, 84, 84)),), Discrete(6), 4, 27_000)


def config(*flags: str):
    return parse("atari", ["--envs", "8", "--minibatches", "4", *flags])[0]


def settled(config, device=CPU, **options) -> str:
    return settle_precision(config, PONG, device, **options).training.precision


@pytest.fixture
def with_instructions(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)


def test_what_is_asked_for_is_taken(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: pytest.fail("asked"))
    assert [settled(config("--precision", name)) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def test_a_gpu_that_would_emulate_bfloat16_does_not_have_it(monkeypatch):
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.update(how))
    precision.has_bf16(CUDA)
    assert asked == {"including_emulation": False}


def test_without_instructions_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(precision, "bf16_pays", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(precision, "has_bf16", lambda device: device.type == "cuda")
    assert settled(config()) == "float32"
    monkeypatch.setattr(precision, "has_bf16", lambda device: device.type == "cpu")
    assert settled(config(), CUDA) == "float32"
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    one = parse("control", ["--env", "CartPole-v1"])[0]
    assert settle_precision(one, CARTPOLE, CPU).training.precision == "float32", "an MLP"


def test_a_gpu_that_also_acts_decides_alone(monkeypatch):
    monkeypatch.setattr(precision, "bf16_pays", lambda *_: pytest.fail("measured on the processor"))
    monkeypatch.setattr(precision, "has_bf16", lambda device: device.type == "cuda")
    assert settled(config("--actors", "0"), CUDA) == "bfloat16"
    monkeypatch.setattr(precision, "has_bf16", lambda device: device.type == "cpu")
    assert settled(config("--actors", "0"), CUDA) == "float32"


def test_ranks_agree(with_instructions, monkeypatch):
    monkeypatch.setattr(precision, "bf16_pays", lambda *_: True)
    assert settled(config()) == "bfloat16"
    assert settled(config(), ranks=SimpleNamespace(any=lambda flag: True)) == "float32"  # it does not pay on another


@pytest.mark.parametrize(
    ("device", "acting", "learning", "pays"),
    [
        (CPU, 2.0, 0.5, True),  # 2 + 5 < 1 + 10
        (CPU, 0.5, 2.0, False),
        (CPU, 20.0, 0.5, False),
        (CUDA, 2.0, 0.5, False),  # the learner costs the processor nothing
        (CUDA, 0.5, 2.0, True),
    ],
)
def test_both_batches_count(device, acting, learning, pays, monkeypatch):
    """A step takes 1 s in an actor's batch of 8, 10 s in the learner's of 2 x 33; in bfloat16, so many times that."""
    sizes = set()

    def seconds(torso, observation, bf16, learn):
        sizes.add((len(observation), learn))
        return len(observation) * ((10 * learning if learn else acting) if bf16 else (10 if learn else 1))

    monkeypatch.setattr(precision, "torso_seconds", seconds)
    assert bf16_pays(config("--unroll", "32", "--passes", "1"), PONG, device) == pays
    assert sizes == ({(8, False), (66, True)} if device == CPU else {(8, False)})


def test_the_measurement_is_real_and_leaves_no_trace():
    one = config("--unroll", "2")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert isinstance(bf16_pays(one, PONG, CPU), bool)
    assert torch.equal(before, torch.get_rng_state())
    torso = make_torso(one.network, parts_of(one, PONG))
    few, many = (torso_seconds(torso, pictures(n, (4, 84, 84)), bf16=False, learn=True) for n in (1, 32))
    assert 0 < few < many


def test_an_evaluation_is_settled_where_it_runs(tmp_path, monkeypatch):
    training = AgentTraining(small("feedforward"))
    next(training.run())
    Checkpoints(tmp_path / "checkpoints").save_last(training.steps, training.get_state())
    (tmp_path / "config.json").write_text(json.dumps(to_dict(small("feedforward"))))
    asked = []
    monkeypatch.setattr(evaluate, "settle_precision", lambda config, spec, device: asked.append(device) or config)
    assert evaluate.main([str(tmp_path), "--episodes", "1"]) == 0 and asked == [CPU]


def test_the_network_computes_as_settled():
    one = config()
    for name, bf16 in (("auto", False), ("float32", False), ("bfloat16", True)):
        named = replace(one, training=replace(one.training, precision=name))
        assert build_network(named, PONG).bf16_torso == bf16
