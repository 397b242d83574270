"""Store of what was measured: tables of runs as CSV, and figures of comparisons as JSON, both under results/data/.

An experiment has `summary.csv`, a row a run, and `curves.csv`, up to 200 points a run. Rows of runs whose folders are
elsewhere stay; rows of commands that the experiment no longer holds do not count.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from results import DATA, RUNS
from results.experiment import Experiment, Run
from runners.errors import UsageError
from runners.records.files import write_atomically

Row = dict[str, str]
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
BAR_FIELDS = {"bar_steps": "steps", "bar_seconds": "wall_seconds", "bar_cpu_seconds": "cpu_seconds"}
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

    Returns the number of runs that the CSVs then hold.
    """
    summaries = {(row["label"], row["seed"]): row for row in read_summaries(experiment, data)}
    curves: dict[tuple[str, str], list[Row]] = {key: [] for key in summaries}
    for row in read_curves(experiment, data):
        curves[row["label"], row["seed"]].append(row)
    for run in experiment.runs:
        folder = runs / experiment.name / run.name
        if finished(run, folder):
            key = run.label, str(run.seed)
            metrics = _read(folder / "metrics.csv")
            summaries[key] = summary_row(run, read_figures(folder / "summary.json"))
            summaries[key] |= bar_row(experiment, metrics) | diagnostics_row(experiment, metrics)
            curves[key] = curve_rows(run, metrics, experiment)
    order = [key for run in experiment.runs if (key := (run.label, str(run.seed))) in summaries]
    if order:
        columns = (*SUMMARY_COLUMNS, *experiment.diagnostics)
        _write(data / experiment.name / "summary.csv", columns, [summaries[key] for key in order])
        columns = (*CURVE_COLUMNS, *(trace.metric for trace in experiment.traces))
        _write(data / experiment.name / "curves.csv", columns, [row for key in order for row in curves[key]])
    return len(order)


def read_summaries(experiment: Experiment, data: Path = DATA) -> list[Row]:
    """Return the rows of summary.csv whose command is the experiment's own."""
    commands = {(run.label, str(run.seed)): run.line for run in experiment.runs}
    rows = _read(data / experiment.name / "summary.csv")
    return [row for row in rows if commands.get((row["label"], row["seed"])) == row["command"]]


def read_curves(experiment: Experiment, data: Path = DATA) -> list[Row]:
    """Return the rows of curves.csv that belong to `read_summaries`."""
    known = {(row["label"], row["seed"]) for row in read_summaries(experiment, data)}
    rows = _read(data / experiment.name / "curves.csv")
    return [row for row in rows if (row["label"], row["seed"]) in known]


def summary_row(run: Run, summary: Figures) -> Row:
    """Return a run's summary.json as a row; what the run did not report is an empty cell."""

    def at(place: str) -> object:
        value: object = summary
        for name in place.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    row = {column: _cell(at(place) or at(ALIASES.get(place, place))) for column, place in FIELDS.items()}
    return {"label": run.label, **row, "seed": str(run.seed), "command": run.line}


def bar_row(experiment: Experiment, metrics: Sequence[Row]) -> Row:
    """Return what it took until the training return reached the bar, empty where it never did."""
    if experiment.bar is None:
        return dict.fromkeys(BAR_FIELDS, "")
    unit = experiment.unit
    there = (row for row in metrics if row.get(unit.progress) and float(row[unit.progress]) >= experiment.bar)
    first = next(there, {})
    first = {**first, "steps": first.get(unit.counter)}
    return {column: _cell(float(first[name])) if first.get(name) else "" for column, name in BAR_FIELDS.items()}


def diagnostics_row(experiment: Experiment, metrics: Sequence[Row]) -> Row:
    """Return the median of each of the experiment's diagnostics, empty where the run does not log it."""
    values = {name: [float(row[name]) for row in metrics if row.get(name)] for name in experiment.diagnostics}
    return {name: _cell(float(np.nanmedian(found))) if found else "" for name, found in values.items()}


def curve_rows(run: Run, metrics: Sequence[Row], experiment: Experiment) -> list[Row]:
    """Return the training return and the traces over time, evenly thinned, with the first and the last point."""
    unit = experiment.unit
    rows = [row for row in metrics if row.get(unit.progress)]
    traced = [trace.metric for trace in experiment.traces]
    kept = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), CURVE_POINTS)).round().astype(int))
    return [
        {
            "label": run.label,
            "seed": str(run.seed),
            "step": rows[i][unit.counter],
            "frames": rows[i].get("frames") or rows[i][unit.counter],
            "wall_seconds": _cell(float(rows[i]["wall_seconds"])),
            "return": _cell(float(rows[i][unit.progress])),
            **{name: _cell(float(rows[i][name])) for name in traced if rows[i].get(name)},
        }
        for i in kept
    ]


def describe_measurement(module: str, argv: Sequence[str]) -> Figures:
    """Return what every file of figures begins with: the command, and the machine and versions that it ran on."""
    from runners.records.provenance import machine, package_versions  # imports torch, which the report does without

    return {"command": ["python", "-m", module, *argv], "machine": machine(), "versions": package_versions()}


def shown_command(figures: Figures, module: str) -> str:
    """Return the command that makes the figures anew: its flags as kept, its module by the name that it has today."""
    return " ".join(["python", "-m", module, *figures["command"][3:]])


def read_figures(path: Path) -> Figures:
    return json.loads(path.read_text())


def make_folder(path: Path | None) -> None:
    """Make the folder of the file `path`; without a path nothing is made."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)


def write_figures(path: Path | None, figures: Figures) -> None:
    """Write the figures to `path`, whole or not at all; without a path they are not kept."""
    make_folder(path)
    if path is not None:
        write_atomically(path, json.dumps(figures, indent=2).encode())


def reopened(path: Path | None, figures: Figures, fixed: Sequence[str]) -> Figures:
    """Return what `path` holds, or `figures` where there is no such file.

    UsageError where the two differ in one of the names `fixed`: runs of different comparisons do not mix.
    """
    if path is None or not path.exists():
        return figures
    kept = read_figures(path)
    for name in fixed:
        if kept[name] != figures[name]:
            raise UsageError(f"{path} has {name} {kept[name]}, not {figures[name]}: give another --json")
    return kept


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case float() if math.isnan(value):
            return ""
        case float():
            return f"{value:.7g}"
        case dict():
            return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
        case list() | tuple():
            return ", ".join(map(_cell, value))
        case _:
            return str(value)


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, columns: Sequence[str], rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")  # of diagnostics since left out
    writer.writeheader()
    writer.writerows(rows)
    make_folder(path)
    write_atomically(path, text.getvalue().encode())
