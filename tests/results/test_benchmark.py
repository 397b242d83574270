"""The throughput benchmark: its arithmetic, that it measures what it names, and its command line."""

import json
import os
import statistics
from dataclasses import replace

import pytest
import torch

from results.speed import benchmark, tables
from results.speed.benchmark import ROUNDS, Part, bound, measure, profile, rate, stopwatch, take_turns
from results.speed.throughput import main
from runners.config import RunConfig
from runners.errors import UsageError
from runners.presets import PRESETS


def small(**training) -> RunConfig:
    config = PRESETS["control", "small"]("vmpo")
    network = replace(config.network, core="feedforward")
    return replace(config, network=network, training=replace(config.training, envs=8, unroll=16, **training))


def test_a_rate_is_of_the_time_that_passed(monkeypatch) -> None:
    """Three calls within 0.5 seconds or across its end; what settles before is not counted."""
    clock = iter([0, 0, 0.2, 0.4, 0.8])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    calls = []
    assert rate(lambda: calls.append(1) or 12, seconds=0.5, settling=2) == 36 / 0.8
    assert len(calls) == 5


def test_parts_take_turns() -> None:
    turns, cores, threads = [], os.sched_getaffinity(0), torch.get_num_threads()
    parts = {name: Part(lambda name=name: turns.append(name) or 1, [min(cores)]) for name in ("a", "b")}
    rounds = take_turns(parts, seconds=0.0)
    assert turns == ["a", "b"] * ROUNDS and {len(rates) for rates in rounds.values()} == {ROUNDS}
    assert os.sched_getaffinity(0) == cores and torch.get_num_threads() == threads


def test_the_bound_follows_from_the_parts() -> None:
    rates = {"environment": 600.0, "acting": 300.0, "training": 200.0}
    assert bound(rates, cores=2) == pytest.approx(200.0)
    assert bound(rates, cores=2, on_gpu=["training"]) == pytest.approx(200.0)
    assert bound(rates | {"training": 1000.0}, cores=2, on_gpu=["training"]) == pytest.approx(400.0)
    assert bound(rates | {"acting": 1000.0}, cores=2, on_gpu=["acting", "training"]) == pytest.approx(1000 / 6)
    assert bound(rates | {"acting": 1e4, "training": 1e4}, 2, ["acting", "training"]) == pytest.approx(1200.0)


def test_figures_are_medians_of_the_rounds() -> None:
    figures = measure(small(), seconds=0.02)
    assert min(figures["peak_gflops"].values()) > 0
    for name, rates in figures["rounds"].items():
        assert len(rates) == ROUNDS and min(rates) > 0 and figures[name] == statistics.median(rates)
    parts = zip(*(figures["rounds"][name] for name in ("environment", "acting", "training")), strict=True)
    expected = [figures["cores"] / sum(1 / rate for rate in rates) for rates in parts]
    assert figures["rounds"]["bound"] == pytest.approx(expected)
    assert figures["batch_ms"] == pytest.approx(1000 * 8 * 16 / figures["training"])
    assert "core" not in figures, "nothing is cached without a transformer"


def test_a_core_is_measured_with_its_cache_and_without() -> None:
    config = small()
    config = replace(config, network=replace(config.network, core="gtrxl", memory=8, layers=1))
    figures = measure(config, seconds=0.01, pipeline=False)
    assert figures["core"] > 0 and figures["core_uncached"] > 0 and "pipeline" not in figures


def test_the_work_of_training_is_counted() -> None:
    """An MLP's training step takes six operations a weight and sample, less what the input's gradient would take."""
    config = small(passes=1, minibatches=1)
    training = benchmark.Training(replace(config, training=replace(config.training, actors=0)))
    loop = training.run()
    next(loop)
    flops = benchmark.operations(training)
    loop.close()
    weights = sum(p.numel() for p in training.network.parameters() if p.dim() == 2)
    rows = 17 / 16  # the bootstrap row is computed, too
    assert 5 * weights * rows < flops <= 6 * weights * rows


def test_a_profile_accounts_for_all_the_time() -> None:
    tables = profile(small(), batches=2)
    assert set(tables) == {"actor", "learner"}
    for stages in tables.values():
        assert min(stages.values()) >= 0 and len(stages) >= 5
    assert tables["learner"]["backward"] > 0 and tables["actor"]["torso"] > 0


def test_a_stopwatch_leaves_nothing_behind() -> None:
    layer = torch.nn.Linear(2, 2)
    before, backward = dict(vars(layer)), torch.Tensor.backward
    with stopwatch(
        [(layer, "forward", "forward"), (torch.Tensor, "backward", "backward")], torch.device("cpu")
    ) as spent:
        layer(torch.ones(1, 2)).sum().backward()
    assert spent["forward"] > 0 and spent["backward"] > 0
    assert vars(layer).keys() == before.keys() and torch.Tensor.backward is backward


def test_the_command_line(tmp_path, capsys) -> None:
    flags = "--env CartPole-v1 --core feedforward --envs 8 --unroll 16 --seconds 0.02".split()
    assert main([*flags, "--json", str(tmp_path / "speed.json")]) == 0
    printed = capsys.readouterr().out
    assert "CartPole-v1, random actions" in printed and "of the bound" in printed
    written = json.loads((tmp_path / "speed.json").read_text())
    assert written["pipeline"] > 0 and written["versions"]["torch"] and written["machine"]["cores"] >= 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [(["--seconds", "0"], "greater than 0"), (["--agent", "vmpoo"], "vmpo"), (["--jsn", "x"], "--jsn")],
)
def test_a_wrong_flag_is_one_line(flags, says) -> None:
    with pytest.raises(UsageError, match=says) as error:
        main(flags)
    assert "\n" not in str(error.value)


def test_kept_figures_become_a_table(tmp_path) -> None:
    assert tables.overview(tmp_path) == ""
    parts = {"environment": 3000.0, "acting": 6000.0, "training": 2000.0, "bound": 2000.0, "pipeline": 1800.0}
    about = {
        "machine": {"processor": "a chip", "cores": 2},
        "versions": {"torch": "2.9"},
        "command": ["python", "-m", "its.old.name", "--core", "lstm"],
    }
    figures = {
        "env": "Pong",
        "rounds": {"environment": [3000.0]},
        "parameters": 2_500_000,
        "cores": 2,
        "batch_ms": 512.0,
        "ratio": 0.9,
    }
    figures |= {"training_gflops": 50.0, "peak_gflops": {"float32": 100.0, "bfloat16": 200.0}, **parts, **about}
    (tmp_path / "throughput").mkdir()
    (tmp_path / "throughput/small.json").write_text(json.dumps(figures))
    page = tables.overview(tmp_path)
    row = next(line for line in page.splitlines() if line.startswith("| small"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    rest = ["2,000", "50 of 200 GFLOP/s (25%)", "2,000", "1,800", "90%"]
    assert cells == ["small", "2.5M", "3,000", "6,000", "–", "–", *rest]
    figures |= {"core": 9000.0, "core_uncached": 1500.0}
    (tmp_path / "throughput/small.json").write_text(json.dumps(figures))
    assert "| 6,000 | 9,000 | 1,500 | 2,000 |" in tables.overview(tmp_path)
    assert "6.0 times as fast" in tables.table(figures)
    assert "- small: `python -m results.speed.throughput --core lstm`" in page and "a chip, 2 cores, torch 2.9" in page
    assert "1,800" in tables.table(figures) and "90% of the bound" in tables.table(figures)
