"""The throughput benchmark: its arithmetic, that it measures what it names, and its command line."""

import json
import os
import statistics
from dataclasses import replace

import pytest
import torch

from results.speed import benchmark, tables
from results.speed.benchmark import ROUNDS, Part, bound, measure, rate, take_turns
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
    work = iter([12] * 6)
    assert rate(work, seconds=0.5, settling=2) == 36 / 0.8
    assert len(list(work)) == 1


def test_parts_take_turns() -> None:
    turns, cores, threads = [], os.sched_getaffinity(0), torch.get_num_threads()

    def work(name):
        while True:
            turns.append(name)
            yield 1

    rounds = take_turns({name: Part(work(name), [min(cores)]) for name in ("a", "b")}, seconds=0.0)
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
    assert "core" not in figures, "nothing is cached without a transformer"


def test_a_core_is_measured_with_its_cache_and_without() -> None:
    config = small()
    config = replace(config, network=replace(config.network, core="gtrxl", memory=8, layers=1))
    figures = measure(config, seconds=0.01, pipeline=False)
    assert figures["core"] > 0 and figures["core_uncached"] > 0 and "pipeline" not in figures


def test_the_work_of_training_is_counted() -> None:
    """An MLP's training step takes six operations a weight and sample, less what the input's gradient would take."""
    config = small(passes=1, minibatches=1)
    training = benchmark.AgentTraining(replace(config, training=replace(config.training, actors=0)))
    loop = training.run()
    next(loop)
    flops = benchmark.operations(training)
    loop.close()
    weights = sum(p.numel() for p in training.network.parameters() if p.dim() == 2)
    rows = 17 / 16  # the bootstrap row is computed, too
    assert 5 * weights * rows < flops <= 6 * weights * rows


def test_the_command_line(tmp_path, capsys) -> None:
    flags = "--env CartPole-v1 --core feedforward --envs 8 --unroll 16 --seconds 0.02".split()
    assert main([*flags, "--json", str(tmp_path / "speed.json")]) == 0
    printed = capsys.readouterr().out
    assert "| CartPole-v1 |" in printed and "Of the bound" in printed
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


def test_kept_figures_become_a_table() -> None:
    parts = {"environment": 3000.0, "acting": 6000.0, "training": 2000.0, "bound": 2000.0, "pipeline": 1800.0}
    figures = {"name": "small", "parameters": 2_500_000, "ratio": 0.9, **parts}
    figures |= {"training_gflops": 50.0, "peak_gflops": {"float32": 100.0, "bfloat16": 200.0}}
    row = tables.overview([figures]).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    rest = ["2,000", "50 of 200 GFLOP/s (25%)", "2,000", "1,800", "90%"]
    assert cells == ["small", "2.5M", "3,000", "6,000", "–", "–", *rest]
    with_core = figures | {"core": 9000.0, "core_uncached": 1500.0}
    assert "| 6,000 | 9,000 | 1,500 | 2,000 |" in tables.overview([with_core])
