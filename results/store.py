"""Store of what was measured: tables of runs as CSV, and figures of comparisons as JSON, both under results/data/.

An experiment has `summary.csv`, a row a run, and `curves.csv`, up to 200 points a run. Rows of runs whose folders are
elsewhere stay; rows of commands that the experiment no longer holds do not count.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results import DATA, RUNS
from results.experiment import Experiment, Run
from runners.records.files import write_atomically

Figures = dict[str, Any]

# Column of summary.csv -> its place in summary.json.
FIELDS = {name: name for name in "agent core gate env preset seed steps frames wall_seconds cpu_seconds".split()}
FIELDS |= {"train_return": "train_return"}
FIELDS |= {f"eval_{name}": f"eval.{name}" for name in "mean std median least episodes protocol".split()}
FIELDS |= {f"mode_{name}": f"eval.by_mode.{name}" for name in "mean std median least".split()}
FIELDS |= {name: name for name in "parameters steps_per_second versions machine git_commit".split()}
FIELDS |= {"base_mean": "base.mean", "eval_greedy": "eval.greedy"}
ALIASES = {"agent": "method", "env": "task", "steps": "rollouts", "eval.episodes": "eval.prompts"}
"""Names that a language-model run has for some places."""
BAR_FIELDS = ("bar_steps", "bar_seconds", "bar_cpu_seconds")
"""Columns of the first row of metrics whose training return is at the experiment's bar."""
SUMMARY_COLUMNS = ("label", *FIELDS, *BAR_FIELDS, "command")
CURVE_COLUMNS = ("label", "seed", "step", "frames", "wall_seconds", "return")
CURVE_POINTS = 200


def command_file(folder: Path) -> Path:
    """Return the file beside a run folder that holds the command which the run was started with."""
    return folder.with_name(f"{folder.name}.command")


def same_command(run: Run, folder: Path) -> bool:
    """Return whether `folder` was started with this run's command; a folder without a command file was not."""
    command = command_file(folder)
    return command.is_file() and command.read_text().strip() == run.line


def finished(run: Run, folder: Path) -> bool:
    return same_command(run, folder) and (folder / "summary.json").is_file()


def collect(experiment: Experiment, runs: Path = RUNS, data: Path = DATA) -> int:
    """Bring the CSVs in `data`/<experiment> up to date with the finished runs in `runs`/<experiment>.

    Return the number of runs that the CSVs then hold.
    """
    kept, kept_curves = read_summaries(experiment, data), read_curves(experiment, data)
    summaries, curves, unit = [], [], experiment.unit
    traced = [trace.metric for trace in experiment.traces]
    logged = {unit.progress, unit.name, "frames", "wall_seconds", "cpu_seconds", *traced, *experiment.diagnostics}
    for run in experiment.runs:
        folder = runs / experiment.name / run.name
        if finished(run, folder):
            metrics = _read(folder / "metrics.csv", sorted(logged))
            row = summary_row(run, read_figures(folder / "summary.json")) | bar_row(experiment, metrics)
            row |= metrics[[*experiment.diagnostics]].median()
            summaries.append(pd.DataFrame([row]))
            curves.append(curve(run, metrics, experiment))
        elif len(old := rows_of(run, kept)):
            summaries.append(old)
            curves.append(rows_of(run, kept_curves))
    if summaries:
        _write(data / experiment.name / "summary.csv", [*SUMMARY_COLUMNS, *experiment.diagnostics], summaries)
        _write(data / experiment.name / "curves.csv", [*CURVE_COLUMNS, *traced], curves)
    return len(summaries)


def rows_of(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    return table[(table.label == run.label) & (table.seed == run.seed)]


def read_summaries(experiment: Experiment, data: Path = DATA) -> pd.DataFrame:
    """Return the rows of summary.csv whose command is the experiment's own."""
    known = {(run.label, run.line) for run in experiment.runs}
    rows = _read(data / experiment.name / "summary.csv", [*SUMMARY_COLUMNS, *experiment.diagnostics])
    return rows[np.array([key in known for key in zip(rows.label, rows.command, strict=True)], bool)]


def read_curves(experiment: Experiment, data: Path = DATA) -> pd.DataFrame:
    """Return the rows of curves.csv that belong to `read_summaries`."""
    traced = [trace.metric for trace in experiment.traces]
    curves = _read(data / experiment.name / "curves.csv", [*CURVE_COLUMNS, *traced])
    known = set(read_summaries(experiment, data)[["label", "seed"]].itertuples(index=False, name=None))
    return curves[np.array([key in known for key in zip(curves.label, curves.seed, strict=True)], bool)]


def summary_row(run: Run, summary: Figures) -> Figures:
    """Return a run's summary.json as a row, without what the run did not report."""

    def at(place: str) -> Any:
        value: Any = summary
        for name in place.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return ", ".join(f"{name} {x}" for name, x in value.items()) if isinstance(value, dict) else value

    row = {column: at(place) or at(ALIASES.get(place, place)) for column, place in FIELDS.items()}
    return row | {"label": run.label, "seed": run.seed, "command": run.line}


def bar_row(experiment: Experiment, metrics: pd.DataFrame) -> Figures:
    """Return what it took until the training return reached the bar, nothing where it never did."""
    unit = experiment.unit
    there = metrics[metrics[unit.progress] >= (np.inf if experiment.bar is None else experiment.bar)]
    places = (unit.name, "wall_seconds", "cpu_seconds")
    return {field: there.iloc[0][place] for field, place in zip(BAR_FIELDS, places, strict=True) if len(there)}


def curve(run: Run, metrics: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Return the training return and the traces over time, evenly thinned, with the first and the last point."""
    unit = experiment.unit
    rows = metrics.dropna(subset=unit.progress)
    kept = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), CURVE_POINTS)).round().astype(int))
    rows = rows.iloc[kept].assign(label=run.label, seed=run.seed, step=lambda x: x[unit.name])
    return rows.assign(frames=rows.frames.fillna(rows.step)).rename(columns={unit.progress: "return"})


def describe_measurement(module: str, argv: Sequence[str]) -> Figures:
    """Return what every file of figures begins with: the command, and the machine and versions that it ran on."""
    from runners.records.provenance import machine, package_versions  # imports torch, which the report does without

    return {"command": ["python", "-m", module, *argv], "machine": machine(), "versions": package_versions()}


def read_figures(path: Path) -> Figures:
    return json.loads(path.read_text())


def write_figures(path: Path | None, figures: Figures) -> None:
    """Write the figures to `path`, whole or not at all; without a path they are not kept."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(figures, indent=2).encode())


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return the CSV with these columns, empty where it has none of that name; without rows where there is no file."""
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=float)
    return pd.read_csv(path, dtype={"label": str}).reindex(columns=columns)


def _write(path: Path, columns: Sequence[str], parts: Sequence[pd.DataFrame]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.concat(parts).reindex(columns=columns)
    write_atomically(path, rows.to_csv(index=False, lineterminator="\n", float_format=_short).encode())


def _short(x: float) -> str:
    """Return a whole number in full, any other to 7 digits."""
    return f"{x:.0f}" if x % 1 == 0 else f"{x:.7g}"
