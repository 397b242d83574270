"""results/: planning, resuming, collecting, reporting and the statistics, on fake runs that take no time."""

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from results import DATA, ROOT, tables
from results import report as report_module
from results.experiment import ROLLOUTS, Experiment, Run, all_experiments, load
from results.jobs import available_cores
from results.peers.drivers.protocol import session_members
from results.plots import learning_curves, spread_out
from results.report import pages, report, stale
from results.run import arguments, choose, execute, main, state
from results.store import collect, command_file, read_curves, read_summaries
from results.tables import count, duration, iqm, iqm_interval, number, results_table, time_to_bar
from runners.cli import parse
from runners.lm.cli import parse as lm_parse

FAKE_RUNNER = """
import json, os, signal, sys, time
from pathlib import Path

began = time.time()
time.sleep(0.3)
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
resumed = "--resume" in options
folder = Path(options.get("--resume") or options["--run-dir"])
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
if options.get("--mode") == "fails":
    print("loading")
    sys.exit("error: no game called 'Pnog'")
(folder / "checkpoints/step_000000000064.safetensors").touch()
if options.get("--mode") == "waits":
    signal.signal(signal.SIGINT, lambda *_: sys.exit((folder / "saved").touch()))
    (folder / "waiting").touch()
    while time.time() < began + 60:
        time.sleep(0.1)
if options.get("--mode") == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda *_: (folder / "interrupted").touch())
    (folder / "waiting").write_text(str(os.getpid()))
    while time.time() < began + 60:
        time.sleep(0.1)
until = began + 60
while options.get("--mode") == "meets" and len([*folder.parent.glob("*/checkpoints")]) < 2 and time.time() < until:
    time.sleep(0.01)
(folder / "summary.json").write_text(json.dumps({"eval": {"mean": 1.5}, "resumed": resumed,
    "cores": sorted(os.sched_getaffinity(0)), "began": began, "ended": time.time()}))
"""


@pytest.fixture
def fake_runner(tmp_path, monkeypatch):
    """`python -m fake_runner` works: it leaves a run folder, fails, waits for another or for Ctrl-C, by `--mode`."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/fake_runner.py").write_text(FAKE_RUNNER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))


@pytest.fixture
def lines(monkeypatch) -> list[str]:
    """What `results.run` says."""
    said = []
    monkeypatch.setattr("results.run.say", said.append)
    return said


def make_experiment(seeds=(0, 1), labels=("vmpo-gtrxl", "ppo-lstm"), command="runners.atari --game Pong", **options):
    runs = tuple(Run(label, seed, f"{command} --label {label}") for seed in seeds for label in labels)
    return Experiment("toy", "A toy", "Does it?", runs, **options)


def fake_folder(runs: Path, run: Run, score: float = 20.0, points: int = 1000, command: str | None = None) -> Path:
    """What a finished run of Pong leaves, with a straight training curve from -21 to `score`."""
    folder = runs / "toy" / run.name
    folder.mkdir(parents=True)
    command_file(folder).write_text(f"{command or run.line}\n")
    summary = {
        "agent": "vmpo", "core": "gtrxl", "gate": "gru", "env": "Pong", "preset": "small", "seed": run.seed,
        "steps": 4_000_000, "frames": 16_000_000, "wall_seconds": 1500.123456, "cpu_seconds": 2900.5,
        "steps_per_second": 2666.4, "train_return": score - 1, "parameters": 1_234_567,
        "versions": {"torch": "2.13.0", "envpool": "1.2.5"}, "machine": {"cpu": "A CPU", "cores": 2},
        "git_commit": "abcdef0123456789abcdef0123456789abcdef01-dirty",
        "eval": {"episodes": 30, "mean": score, "std": 0.5, "median": score, "returns": [score] * 30,
                 "protocol": "mode"},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "steps", "frames", "wall_seconds", "cpu_seconds", "return/train"])
        writer.writerow([10, 10, 40, 0.1, 0.2, ""])  # before the first episode ends
        for i in range(1, points + 1):
            steps = 4000 * i
            writer.writerow([steps, steps, 4 * steps, 1.5 * i, 3.0 * i, -21 + (score + 21) * i / points])
    return folder


def records(table: pd.DataFrame) -> list[dict]:
    return table.to_dict("records")


# Statistics


def test_iqm_of_closed_cases():
    assert iqm([1, 2, 3, 4, 5, 6, 7, 8]) == 4.5  # of 3, 4, 5, 6
    assert iqm([0, 10, 20, 1e9]) == 15  # an outlier counts for nothing
    assert iqm([1, 2, 6]) == 3  # below four scores: the mean
    assert iqm([7.5]) == 7.5


def test_interval_of_closed_cases():
    assert iqm_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert iqm_interval([1.0, 2.0]) == (1.0, 2.0)  # each extreme: 1/4 of the resamples
    assert iqm_interval([1.0, 5.0, 3.0]) == (1.0, 5.0)  # each extreme: 1/27
    # Two values, four scores: a resample's IQM is the mean of its middle two, (0, 1/2, 1) with probabilities that
    # follow from the binomial: at most one 1 of four (5/16), two (6/16), at least three (5/16).
    assert iqm_interval([0, 0, 1, 1], level=0.3) == (0.5, 0.5)
    assert iqm_interval([0, 0, 1, 1], level=0.5) == (0.0, 1.0)


def test_interval_is_seeded_and_agrees_with_a_bootstrap_by_hand():
    scores = np.random.default_rng(3).normal(size=40)
    found = iqm_interval(scores)
    assert found == iqm_interval(scores)
    drawn = np.random.default_rng(1).choice(scores, size=(4000, 40))
    by_hand = np.quantile(np.sort(drawn)[:, 10:30].mean(1), [0.025, 0.975])
    np.testing.assert_allclose(found, by_hand, atol=0.05)
    assert found[0] < iqm(scores) < found[1]


# Experiments


@pytest.mark.parametrize("name", all_experiments())
def test_every_experiment_is_well_formed(name):
    experiment = load(name)
    for run in experiment.runs:
        assert run.arguments[0].startswith("runners.")
        assert run.arguments[-2:] == ["--seed", str(run.seed)] and run.arguments.count("--seed") == 1
        assert "--run-dir" not in run.arguments and "--resume" not in run.arguments
        assert run.env


def test_two_files_cannot_define_one_experiment(monkeypatch):
    toy = SimpleNamespace(EXPERIMENTS=(make_experiment(),))
    monkeypatch.setattr("results.experiment.importlib.import_module", lambda name: toy)
    with pytest.raises(ValueError, match="another file has experiment toy"):
        all_experiments()


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="'cartpol'; nearest: cartpole"):
        load("cartpol")
    with pytest.raises(ValueError, match="no run 'dqn'; its labels: vmpo-gtrxl, ppo-lstm"):
        choose(make_experiment(), ["dqn"])


def test_choosing_by_label_and_by_full_name():
    experiment = make_experiment()
    assert choose(experiment, []) == list(experiment.runs)
    assert [run.name for run in choose(experiment, ["ppo-lstm"])] == ["ppo-lstm-seed0", "ppo-lstm-seed1"]
    assert [run.name for run in choose(experiment, ["ppo-lstm-seed1"])] == ["ppo-lstm-seed1"]


def test_two_runs_of_one_label_and_seed_are_refused():
    with pytest.raises(ValueError, match="found twice: ppo-lstm-seed0"):
        make_experiment(seeds=(0, 0), labels=("ppo-lstm",))


def test_results_never_import_torch():
    code = "import sys, results.run, results.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# Running


def test_state_and_command_of_every_kind_of_folder(tmp_path):
    run = Run("vmpo-lstm", 3, "runners.control --env CartPole-v1")
    folder = tmp_path / run.name
    fresh = ["runners.control", "--env", "CartPole-v1", "--seed", "3", "--run-dir", str(folder)]
    assert state(run, folder) == "missing" and arguments(run, folder) == fresh

    (folder / "checkpoints").mkdir(parents=True)
    command_file(folder).write_text(run.line)
    (folder / "checkpoints/.step_000000000064.safetensors.gempi-tmp").touch()  # killed while it wrote its first
    assert state(run, folder) == "missing"

    (folder / "checkpoints/step_000000000064.safetensors").touch()
    assert state(run, folder) == "started"
    assert arguments(run, folder) == ["runners.control", "--resume", str(folder)]

    (folder / "summary.json").write_text("{}")
    assert state(run, folder) == "finished"

    other = Run("vmpo-lstm", 3, "runners.control --env CartPole-v1 --steps 7")
    assert state(other, folder) == "changed" and arguments(other, folder)[-2] == "--run-dir"
    command_file(folder).unlink()
    assert state(run, folder) == "changed"


def test_a_failed_run_is_reported_and_hides_no_other(tmp_path, fake_runner, lines):
    runs = (
        Run("bad", 0, "fake_runner --mode fails"),
        *(Run("good", seed, "fake_runner --mode works") for seed in (0, 1)),
    )
    experiment = Experiment("toy", "A toy", "Does it?", runs)
    collected = []
    assert execute(experiment, runs, tmp_path, lambda: collected.append(1)) == 1
    failed = next(line for line in lines if line.startswith("FAILED"))
    log = tmp_path / "bad-seed0.log"
    assert "bad-seed0" in failed and failed.endswith(f"exit code 1: error: no game called 'Pnog' ({log})")
    assert [state(run, tmp_path / run.name) for run in runs] == ["missing", "finished", "finished"]
    assert sum("1.5 in evaluation" in line for line in lines) == 2 and collected
    assert len(lines) == 6  # a start and an end each

    summaries = [json.loads((tmp_path / run.name / "summary.json").read_text()) for run in runs[1:]]
    assert all(len(each["cores"]) == 1 and not each["resumed"] for each in summaries)


def test_what_the_commands_refer_to_is_made_before_the_first_run(tmp_path, monkeypatch):
    made = []
    experiment = Experiment("toy", "", "", (Run("a", 0, "x"),), prepare=lambda: made.append("data"))
    monkeypatch.setattr("results.run.load", lambda name: experiment)
    monkeypatch.setattr("results.run.RUNS", tmp_path)
    monkeypatch.setattr("results.run.execute", lambda *_, **__: made.append("runs") or 0)
    monkeypatch.setattr("results.run.collect", lambda _: 1)
    main(["toy"])
    assert made == ["data", "runs"]


@pytest.mark.skipif(len(available_cores()) < 2, reason="needs two cores to run two at a time")
@pytest.mark.parametrize("cores, together", [(1, True), (len(available_cores()), False)])
def test_as_many_at_a_time_as_fit_the_cores(tmp_path, fake_runner, cores, together):
    mode = "meets" if together else "works"
    runs = tuple(Run("good", seed, f"fake_runner --mode {mode}") for seed in (0, 1))
    assert execute(Experiment("toy", "", "", runs, cores), runs, tmp_path, lambda: None) == 0
    first, second = (json.loads((tmp_path / run.name / "summary.json").read_text()) for run in runs)
    assert (second["began"] < first["ended"]) == together
    assert len(first["cores"]) == cores and bool(set(first["cores"]) & set(second["cores"])) != together


def test_ctrl_c_reaches_the_run_and_the_next_time_it_resumes(tmp_path, fake_runner, lines):
    run = Run("slow", 0, "fake_runner --mode waits")
    experiment = Experiment("toy", "A toy", "Does it?", (run,))
    folder = tmp_path / run.name

    def press() -> None:
        deadline = time.monotonic() + 20
        while not (folder / "waiting").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        execute(experiment, [run], tmp_path, lambda: None)
    assert (folder / "saved").exists() and "stopping  slow-seed0" in lines[-1]
    assert state(run, folder) == "started"

    assert execute(experiment, [run], tmp_path, lambda: None) == 0
    assert json.loads((folder / "summary.json").read_text())["resumed"]
    assert any(line.startswith("resumed   slow-seed0") for line in lines)


def test_a_second_ctrl_c_kills(tmp_path, fake_runner, lines):
    run = Run("deaf", 0, "fake_runner --mode deaf")
    folder = tmp_path / run.name

    def press() -> None:
        deadline = time.monotonic() + 20
        while not (folder / "waiting").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        while not (folder / "interrupted").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        execute(Experiment("toy", "A toy", "Does it?", (run,)), [run], tmp_path, lambda: None)
    assert (folder / "interrupted").exists() and time.monotonic() - began < 20
    assert not session_members(int((folder / "waiting").read_text()))
    assert not (folder / "summary.json").exists() and not any("FAILED" in line for line in lines)


def test_a_run_of_another_command_is_kept_aside(tmp_path, fake_runner, lines):
    run = Run("good", 0, "fake_runner --mode works")
    folder = tmp_path / run.name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "summary.json").write_text('{"old": 1}')
    command_file(folder).write_text("python -m something else")
    assert execute(Experiment("toy", "", "", (run,)), [run], tmp_path, lambda: None) == 0
    (aside,) = tmp_path.glob("good-seed0.before-*")
    assert (aside / "summary.json").read_text() == '{"old": 1}' and aside.name in lines[0]
    assert state(run, folder) == "finished"


def test_a_run_in_other_hands_is_left_alone(tmp_path, fake_runner, lines):
    run = Run("good", 0, "fake_runner --mode works")
    with open(tmp_path / "good-seed0.log", "w") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        execute(Experiment("toy", "", "", (run,)), [run], tmp_path, lambda: None)
    assert lines == ["skipped   good-seed0: already running elsewhere"]


# Collecting


def test_collected_rows_hold_what_the_summary_says(tmp_path):
    experiment = make_experiment()
    run = experiment.runs[0]
    fake_folder(tmp_path / "runs", run, score=19.25)
    assert collect(experiment, tmp_path / "runs", tmp_path / "data") == 1
    (row,) = records(read_summaries(experiment, tmp_path / "data"))
    expected = {
        "label": "vmpo-gtrxl", "env": "Pong", "seed": 0, "steps": 4_000_000, "frames": 16_000_000,
        "wall_seconds": 1500.123, "cpu_seconds": 2900.5, "train_return": 18.25, "eval_mean": 19.25,
        "eval_episodes": 30, "eval_protocol": "mode", "versions": "torch 2.13.0, envpool 1.2.5",
        "machine": "cpu A CPU, cores 2", "command": run.line,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert ",4000000,16000000,1500.123,2900.5," in (tmp_path / "data/toy/summary.csv").read_text()

    curve = read_curves(experiment, tmp_path / "data")
    assert len(curve) == 200
    first, last, steps = curve.iloc[0], curve.iloc[-1], curve["step"]
    assert (first["step"], last["step"], last["frames"]) == (4000, 4_000_000, 16_000_000)
    assert last["return"] == 19.25 and last["wall_seconds"] == 1500
    assert np.diff(steps).min() >= 0.9 * np.diff(steps).max() - 4000  # evenly thinned


def test_short_curves_and_bare_summaries_are_collected_as_they_are(tmp_path):
    experiment = make_experiment()
    folder = fake_folder(tmp_path / "runs", experiment.runs[0], points=3)
    (folder / "summary.json").write_text(json.dumps({"steps": 5, "eval": None}))
    empty = fake_folder(tmp_path / "runs", experiment.runs[1], points=0)
    assert collect(experiment, tmp_path / "runs", tmp_path / "data") == 2
    row, _ = records(read_summaries(experiment, tmp_path / "data"))
    assert row["steps"] == 5 and np.isnan(row["eval_mean"]) and np.isnan(row["frames"])
    assert ",16000000," in (tmp_path / "data/toy/summary.csv").read_text()  # of the other run, in full
    assert len(read_curves(experiment, tmp_path / "data")) == 3 and empty.exists()


def test_a_run_without_a_training_return_has_a_row_and_no_curve(tmp_path):
    """As one of --method sft: no reward is known while it trains."""
    experiment = make_experiment(bar=9.0, diagnostics=("m_step/kl",))
    folder = fake_folder(tmp_path / "runs", experiment.runs[0])
    (folder / "metrics.csv").write_text("steps,wall_seconds,cpu_seconds,m_step/kl\n10,1.5,2,0.5\n20,3,4,0.25\n")
    assert collect(experiment, tmp_path / "runs", tmp_path / "data") == 1
    (row,) = records(read_summaries(experiment, tmp_path / "data"))
    assert row["m_step/kl"] == 0.375 and np.isnan(row["bar_steps"]) and row["eval_mean"] == 20
    assert read_curves(experiment, tmp_path / "data").empty


def test_collecting_keeps_runs_made_elsewhere_and_drops_changed_commands(tmp_path):
    experiment, data = make_experiment(), tmp_path / "data"
    fake_folder(tmp_path / "here", experiment.runs[0], score=1.5)
    collect(experiment, tmp_path / "here", data)
    fake_folder(tmp_path / "there", experiment.runs[1], score=2.5)
    fake_folder(tmp_path / "there", experiment.runs[2], command="python -m another command")
    assert collect(experiment, tmp_path / "there", data) == 2
    assert [*read_summaries(experiment, data)["eval_mean"]] == [1.5, 2.5]

    fake_folder(tmp_path / "again", experiment.runs[0], score=9.5)
    collect(experiment, tmp_path / "again", data)
    assert [*read_summaries(experiment, data)["eval_mean"]] == [9.5, 2.5]
    assert len(read_curves(experiment, data)) == 400

    longer = make_experiment(command="runners.atari --game Pong --steps 9")
    assert read_summaries(longer, data).empty and read_curves(longer, data).empty


@pytest.mark.parametrize("name", all_experiments())
def test_committed_rows_are_written_again_as_they_are(name, tmp_path):
    """Nothing of a run that was made elsewhere changes when another is collected."""
    if not (DATA / name).exists():
        pytest.skip("this experiment is not run yet: there are no rows to compare")
    shutil.copytree(DATA / name, tmp_path / name)
    rows, curves = (pd.read_csv(tmp_path / name / file, dtype=str) for file in ("summary.csv", "curves.csv"))
    assert collect(load(name), tmp_path / "runs", tmp_path) == len(rows)
    for before, file in ((rows, "summary.csv"), (curves, "curves.csv")):
        after = pd.read_csv(tmp_path / name / file, dtype=str)
        pd.testing.assert_frame_equal(after.reindex(columns=before.columns), before)


def test_collecting_nothing_writes_nothing(tmp_path):
    assert collect(make_experiment(), tmp_path / "runs", tmp_path / "data") == 0
    assert not (tmp_path / "data").exists()


# Reporting


@pytest.fixture
def collected(tmp_path):
    """A repository with two pages, and an experiment of which three runs of four were made."""
    experiment = make_experiment(bar=18.0)
    for run, score in zip(experiment.runs, (20.0, 17.0, 19.0), strict=False):
        fake_folder(tmp_path / "runs", run, score)
    collect(experiment, tmp_path / "runs", tmp_path / "results/data")
    write_pages(tmp_path)
    return experiment, tmp_path


def write_pages(root: Path) -> None:
    (root / "results/pages").mkdir(parents=True)
    (root / "results/pages/toys.md").write_text('# Toys\n\n{{ experiment("toy") }}\n\nA finding.\n')
    shutil.copy(ROOT / "results/pages/index.md", root / "results/pages")
    (root / "results/data").mkdir(exist_ok=True)
    shutil.copy(DATA / "published.csv", root / "results/data")


def test_report_is_complete_and_idempotent(collected):
    experiment, root = collected
    folder = root / "docs/results"
    written = {folder / "index.md", folder / "toys.md", folder / "plots/toy.png"}
    assert set(stale([experiment], root)) == written
    assert set(report([experiment], root)) == written
    assert stale([experiment], root) == [] and report([experiment], root) == []
    assert (folder / "plots/toy.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "toys.md").read_text()
    assert page.startswith("# Toys\n\n## A toy\n\nDoes it?\n\nSeeds: 0, 1. Budget of a run: 4M steps, at most 25.0 min")
    assert " on 1 core. Machine: cpu A CPU, cores 2.\n\n| Run |" in page and page.endswith("\n\nA finding.\n")
    assert "(plots/toy.png)" in page and "Commit: abcdef0123-dirty." in page and "Seeds: 0, 1." in page
    assert "`python -m results.run toy`" in page and experiment.runs[0].line in page
    row = "| [A toy](toys.md#a-toy) | Does it? | 3 of 4 | 18 | vmpo-gtrxl |"
    assert row in (folder / "index.md").read_text().splitlines()


def test_a_page_is_the_same_when_it_is_made_anew(collected):
    experiment, root = collected
    written = {path: path.read_bytes() for path in report([experiment], root)}
    for path in written:
        path.unlink()
    assert {path: path.read_bytes() for path in report([experiment], root)} == written


def test_a_missing_plot_is_stale(collected):
    experiment, root = collected
    report([experiment], root)
    plot = root / "docs/results/plots/toy.png"
    plot.unlink()
    assert stale([experiment], root) == [plot]


def test_an_experiment_that_no_page_shows_is_an_error(collected):
    experiment, root = collected
    (root / "results/pages/toys.md").write_text("# Toys\n")
    with pytest.raises(report_module.RunError, match=r"no page shows toy: add {{ experiment\(\"toy\"\) }} to one"):
        report([experiment], root)


def test_a_changed_number_makes_the_tables_stale(collected):
    experiment, root = collected
    report([experiment], root)
    path = root / "results/data/toy/summary.csv"
    path.write_text(path.read_text().replace(",20,", ",20.5,"))
    assert stale([experiment], root) == [root / "docs/results/toys.md"]
    report([experiment], root)
    assert "[19.0, 20.5]" in (root / "docs/results/toys.md").read_text()


def cells(table: str, first: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_results_table_states_seeds_interval_bar_and_budget(collected):
    experiment, root = collected
    table = results_table(experiment, read_summaries(experiment, root / "results/data"))
    header = cells(table, "Run")
    row = dict(zip(header, cells(table, "vmpo-gtrxl"), strict=True))
    assert (
        row["Least seed"] == "19.0"
        and row["Seeds"] == "2 of 2"
        and row["Mean return"] == "19.5"
        and row["IQM [95% interval]"] == "19.5 [19.0, 20.0]"
    )
    assert row["Seeds at 18 or above"] == "2 of 2" and row["Slowest run"] == "25.0 min"
    assert (row["Steps"], row["Frames"], row["Parameters"]) == ("4M", "16M", "1.23M")
    other = dict(zip(header, cells(table, "ppo-lstm"), strict=True))
    assert other["Seeds"] == "1 of 2" and other["IQM [95% interval]"] == "17.0"  # one seed has no interval
    assert other["Seeds at 18 or above"] == "0 of 1"


def test_time_to_the_bar_is_that_of_the_first_row_there(tmp_path):
    """The curve of a fake run climbs from -21 to its score in 1,000 rows of 4,000 steps and 1.5 seconds."""
    experiment = make_experiment(seeds=(0, 1, 2), labels=("vmpo-gtrxl",), bar=9.0)
    for run, score in zip(experiment.runs, (39.0, 19.0, 0.0), strict=True):
        fake_folder(tmp_path / "runs", run, score)
    collect(experiment, tmp_path / "runs", tmp_path / "data")
    rows = read_summaries(experiment, tmp_path / "data")
    half, later, never = records(rows)  # half and three quarters of the way
    assert (half["bar_steps"], later["bar_steps"], half["bar_seconds"], later["bar_seconds"]) == (2e6, 3e6, 750, 1125)
    assert np.isnan(never["bar_steps"]) and np.isnan(never["bar_seconds"])
    table = results_table(experiment, rows)
    cell = dict(zip(cells(table, "Run"), cells(table, "vmpo-gtrxl"), strict=True))["Median time to the bar"]
    assert cell == "18.8 min, 2250 core-seconds"
    assert time_to_bar(rows[2:]) == time_to_bar(rows[1:]) == "–"


def test_diagnostics_are_medians_of_a_runs_metrics(tmp_path):
    experiment = make_experiment(seeds=(0, 1), labels=("vmpo-gtrxl",), diagnostics=("step", "m_step/clipped"))
    for run in experiment.runs:
        fake_folder(tmp_path / "runs", run, points=10 if run.seed else 4)
    collect(experiment, tmp_path / "runs", tmp_path / "data")
    rows = read_summaries(experiment, tmp_path / "data")
    assert [*rows["step"]] == [8000, 20000]  # of 10, 4000, ..., 16000 and of 10, 4000, ..., 40000
    table = results_table(experiment, rows)
    cell = dict(zip(cells(table, "Run"), cells(table, "vmpo-gtrxl"), strict=True))
    assert cell["m_step/clipped"] == "–"  # logged by no run


def test_labels_make_plain_folder_names():
    assert Run("eta 0.3, rewards x10", 2, "runners.control").name == "eta-0.3-rewards-x10-seed2"
    assert Run("vmpo-trxl-i", 0, "runners.control").name == "vmpo-trxl-i-seed0"


@pytest.mark.parametrize("name", all_experiments())
def test_every_run_of_an_experiment_is_a_command_that_the_runners_take(name):
    for run in load(name).runs:
        module, *flags = run.arguments
        if module == "runners.lm":
            assert lm_parse(flags)[0].learner.seed == run.seed
        else:
            assert parse(module.removeprefix("runners."), flags)[0].training.seed == run.seed


def test_runs_that_count_rollouts(tmp_path):
    """A language-model run names method, task and rollouts; its table shows the reward before, and core time."""
    run = Run("dar", 0, "runners.lm --task sort --method dar")
    experiment = Experiment("lm", "LM", "?", (run,), unit=ROLLOUTS, metric="reward", bar=0.9)
    folder = tmp_path / "runs/lm/dar-seed0"
    folder.mkdir(parents=True)
    folder.with_name("dar-seed0.command").write_text(run.line)
    result = {"prompts": 512, "mean": 0.95, "std": 0.2, "median": 1.0, "greedy": 0.99, "protocol": "one sample"}
    summary = {"method": "dar", "task": "sort", "rollouts": 200, "cpu_seconds": 20.0, "wall_seconds": 30.0}
    summary |= {"parameters": 1000, "eval": result, "base": {**result, "mean": 0.5}}
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = ["rollouts,wall_seconds,cpu_seconds,reward/train", "100,15,10,0.7", "150,20,15,0.91", "200,30,20,0.96"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert collect(experiment, tmp_path / "runs", tmp_path / "data") == 1
    (row,) = records(read_summaries(experiment, tmp_path / "data"))
    assert (row["agent"], row["env"], row["steps"], row["bar_steps"]) == ("dar", "sort", 200, 150)
    head, _, line = results_table(experiment, pd.DataFrame([row])).splitlines()
    cell = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert (cell["Mean reward"], cell["Before"], cell["Greedy"]) == ("0.950", "0.500", "0.990")
    assert (cell["Rollouts"], cell["Core ms a rollout"]) == ("200", "100") and "Steps/s" not in head
    curve = read_curves(experiment, tmp_path / "data")
    assert [*zip(curve["step"], curve["return"], strict=True)] == [(100, 0.7), (150, 0.91), (200, 0.96)]
    assert learning_curves(experiment, curve).startswith(b"\x89PNG")


def test_published_figures_stand_beside_ours_with_their_budget(collected):
    experiment, root = collected
    page = pages([experiment], root)[root / "docs/results/toys.md"]
    assert cells(page, r"**vmpo-gtrxl**")[1:3] == ["19.5", "16M"]
    assert cells(page, "V-MPO, LSTM")[1:3] == ["21.0 ± 0.0", "200M"]
    assert any("not stated" in line for line in page.splitlines())
    (root / "results/data/published.csv").write_text("env,agent,score,spread,frames,protocol,source,grade\n")
    assert "| Score |" not in pages([experiment], root)[root / "docs/results/toys.md"]


def test_what_was_not_run_says_so(tmp_path):
    experiment = make_experiment(bar=18.0)
    write_pages(tmp_path)
    assert sorted(path.name for path in report([experiment], tmp_path)) == ["index.md", "toys.md"]
    line = "- A toy, not run: `python -m results.run toy`. Does it?"
    for page in ("index.md", "toys.md"):
        text = (tmp_path / "docs/results" / page).read_text()
        assert line in text.splitlines() and "toy.png" not in text
        assert "| Run |" not in text and "| Experiment |" not in text
    nothing = read_summaries(experiment, tmp_path / "results/data")
    assert cells(results_table(experiment, nothing), "ppo-lstm")[:3] == ["ppo-lstm", "0 of 2", "not run"]


def test_a_wrong_name_is_named(tmp_path):
    write_pages(tmp_path)
    (tmp_path / "results/pages/pnog.md").write_text('{{ experiment("pnog") }}')
    with pytest.raises(report_module.RunError, match="pnog.md shows 'pnog', which is no experiment; there are: toy"):
        pages([make_experiment()], tmp_path)


def test_check_of_the_command_line(collected, monkeypatch, capsys):
    experiment, root = collected
    monkeypatch.setattr(report_module, "ROOT", root)
    monkeypatch.setattr(report_module, "all_experiments", lambda: {"toy": experiment})
    with pytest.raises(report_module.RunError, match="python -m results.report"):
        report_module.main(["--check"])
    assert report_module.main([]) == 0
    assert report_module.main(["--check"]) == 0
    assert "stale docs/results/toys.md" in capsys.readouterr().out


def test_the_committed_tables_are_what_the_committed_data_say():
    assert stale(list(all_experiments().values()), ROOT) == []


def test_pages_are_short_and_their_links_lead_somewhere():
    found = pages(list(all_experiments().values()), ROOT)
    for path, text in found.items():
        assert len(text.encode()) <= 40_000, path
        for link, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", text):
            target = path.parent / link
            assert target.exists(), f"{path}: {link}"
            lines = found.get(target, "" if target.suffix != ".md" else target.read_text()).splitlines()
            assert not anchor or anchor in {tables.anchor(x.lstrip("# ")) for x in lines if x.startswith("#")}, link


def test_numbers_are_written_to_a_length_that_suits_them():
    written = [number(x) for x in (0.9534, 20.53, -149.34, 123456.0, 0.00042, 0.0, float("nan"))]
    assert written == ["0.953", "20.5", "-149.3", "123,456", "0.00042", "0.000", "–"]
    assert [count(x) for x in (4_000_000, 300_000, 512, 11.4e9)] == ["4M", "300k", "512", "11.4B"]
    assert [duration(x) for x in (45.2, 1500, float("nan"))] == ["45 s", "25.0 min", "–"]


def test_labels_are_spread_out_inside_the_plot():
    places = spread_out([0.2, 0.98, 0.99, 1.0], gap=0.1)
    assert places[0] == 0.2 and max(places) <= 1 and np.diff(places).min() >= 0.1 - 1e-12
    assert spread_out([], gap=0.1) == []
