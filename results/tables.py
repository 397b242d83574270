"""Markdown tables of collected runs. What has not been run says so; every number comes from a CSV or `published.py`."""

import math
import re
from collections.abc import Iterable, Sequence
from statistics import median

from results.collect import Row
from results.experiment import ROLLOUTS, Experiment
from results.published import PUBLISHED
from results.statistics import iqm, iqm_interval

NOTHING = "–"


def results_table(experiment: Experiment, rows: Sequence[Row]) -> str:
    """A row a label: the evaluation's mean return over its seeds, its interval, and what it cost."""
    unit, language = experiment.unit.name.capitalize(), experiment.unit is ROLLOUTS
    budget = ["Frames"] if not language and any(row["frames"] != row["steps"] for row in rows) else []
    around = ["Before", "Greedy"] if language else []
    bar = [] if experiment.bar is None else [f"Seeds at {experiment.bar:g} or above"]
    modes = ["Mean by the mode", "Least game of all"] if any(row.get("mode_mean") for row in rows) else []
    header = ["Run", "Seeds", f"Mean {experiment.metric}", "IQM [95% interval]", *modes, *bar, *around]
    header += experiment.diagnostics
    header += [unit, *budget, "Slowest run", *(["Median time to the bar"] if bar else [])]
    header += ["Core ms a rollout" if language else "Steps/s", "Parameters"]
    table = []
    for label in experiment.labels:
        planned = sum(run.label == label for run in experiment.runs)
        group = [row for row in rows if row["label"] == label]
        cells = [label, f"{len(group)} of {planned}"]
        scores = column(group, "eval_mean")
        if not group:
            cells += ["not run"] + [NOTHING] * (len(header) - 3)
        else:
            cells += [number(mean(scores)), iqm_cell(scores)]
            if modes:
                least = column(group, "eval_least") + column(group, "mode_least")
                cells += [number(mean(column(group, "mode_mean"))), number(min(least, default=math.nan))]
            cells += [f"{sum(score >= experiment.bar for score in scores)} of {len(scores)}"] if bar else []
            shown = (*(("base_mean", "eval_greedy") if language else ()), *experiment.diagnostics)
            cells += [number(mean(column(group, name))) for name in shown]
            cells += [count(mean(column(group, name))) for name in ("steps", *map(str.lower, budget))]
            cells += [duration(max(column(group, "wall_seconds"), default=math.nan))]
            cells += [time_to_bar(group)] if bar else []
            cells += [count(core_ms(group) if language else mean(column(group, "steps_per_second")))]
            cells += [count(mean(column(group, "parameters")))]
        table.append(cells)
    return markdown(header, table)


def core_ms(rows: Sequence[Row]) -> float:
    """Milliseconds of a core that a rollout and the updates on it took, the median run's."""
    each = [1000 * float(row["cpu_seconds"]) / float(row["steps"]) for row in rows if row["cpu_seconds"]]
    return median(each) if each else math.nan


def time_to_bar(rows: Sequence[Row]) -> str:
    """Until the mean of the latest training returns was there; a run that never was takes for ever."""
    wall, cpu = (median(float(row.get(n) or math.inf) for row in rows) for n in ("bar_seconds", "bar_cpu_seconds"))
    return NOTHING if math.isinf(wall) else f"{duration(wall)}, {cpu:.0f} core-seconds"


def comparison_table(experiment: Experiment, rows: Sequence[Row]) -> str:
    """Ours beside what others published for the same environment; empty where nobody did."""
    environments = list(dict.fromkeys(run.env for run in experiment.runs))
    published = [figure for figure in PUBLISHED if figure.env in environments]
    if not published:
        return ""
    header = [", ".join(environments), "Score", "Frames", "Protocol", "Source"]
    table = []
    for label in experiment.labels:
        group = [row for row in rows if row["label"] == label]
        protocol = f"{distinct(group, 'eval_episodes')} evaluation episodes, protocol below"
        ours = [number(mean(column(group, "eval_mean"))), count(mean(column(group, "frames"))), protocol]
        seeds = f"this repository, {len(group)} seed{'s' * (len(group) != 1)}"
        table.append([f"**{label}**", *(ours if group else ["not run", NOTHING, NOTHING]), seeds if group else NOTHING])
    for figure in published:
        spread = "" if figure.spread is None else f" ± {figure.spread}"
        frames = "not stated" if figure.frames is None else count(figure.frames)
        source = f"{figure.source} [{figure.grade}]"
        table.append([figure.agent, f"{figure.score}{spread}", frames, figure.protocol, source])
    return markdown(header, table)


def runs_table(experiment: Experiment, rows: Sequence[Row]) -> str:
    """A row a finished run."""
    by_mode = any(row.get("mode_mean") for row in rows)
    header = ["Run", "Seed", "Evaluation: mean", "std", "median", "least", "episodes"]
    header += [*(["By the mode: mean", "std", "least"] if by_mode else []), "Training: latest"]
    header += [experiment.unit.name.capitalize(), "Wall time", "Core time"]
    table = []
    known = {(row["label"], row["seed"]): row for row in rows}
    for run in experiment.runs:
        if row := known.get((run.label, str(run.seed))):
            scores = [value(row.get(f"eval_{name}", "")) for name in ("mean", "std", "median", "least")]
            modes = [value(row.get(f"mode_{name}", "")) for name in ("mean", "std", "least")] if by_mode else []
            times = [duration(value(row[name])) for name in ("wall_seconds", "cpu_seconds")]
            cells = [run.label, str(run.seed), *map(number, scores), row["eval_episodes"] or NOTHING]
            table.append(
                [*cells, *map(number, modes), number(value(row["train_return"])), count(value(row["steps"])), *times]
            )
    return markdown(header, table)


def overview_table(pairs: Iterable[tuple[Experiment, Sequence[Row]]]) -> str:
    """A row an experiment: its question, how much of it was run, and which labels pass its bar with every seed."""
    table = []
    for experiment, rows in pairs:
        passing = []
        for label in experiment.labels:
            scores = column([row for row in rows if row["label"] == label], "eval_mean")
            planned = sum(run.label == label for run in experiment.runs)
            if experiment.bar is not None and len(scores) == planned and min(scores) >= experiment.bar:
                passing.append(label)
        link = f"[{experiment.title}](#{anchor(experiment.title)})"
        bar = NOTHING if experiment.bar is None else f"{experiment.bar:g}"
        ran = f"{len(rows)} of {len(experiment.runs)}"
        verdict = "; ".join(passing) or ("none" if rows else "not run")
        table.append([link, experiment.question, ran, bar, verdict])
    return markdown(["Experiment", "Question", "Runs", "Bar", "Every seed at the bar"], table)


def provenance(experiment: Experiment, rows: Sequence[Row]) -> str:
    """A line on where and how the runs were made."""
    if not rows:
        return ""
    facts = {
        "Machine": distinct(rows, "machine"),
        "Cores a run": str(experiment.cores),
        "Seeds": distinct(rows, "seed").replace(";", ","),
        "Preset": distinct(rows, "preset"),
        "Evaluation": distinct(rows, "eval_protocol"),
        "Versions": distinct(rows, "versions"),
        "Commit": re.sub(r"([0-9a-f]{10})[0-9a-f]{30}", r"\1", distinct(rows, "git_commit")),
    }
    return " ".join(f"{name}: {fact}." for name, fact in facts.items() if fact)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def anchor(title: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def value(cell: str) -> float:
    return float(cell) if cell else math.nan


def column(rows: Sequence[Row], name: str) -> list[float]:
    """The values [<= N] of a column that are there."""
    return [float(row[name]) for row in rows if row.get(name)]


def distinct(rows: Sequence[Row], name: str) -> str:
    return "; ".join(dict.fromkeys(row[name] for row in rows if row[name]))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def number(x: float) -> str:
    """A score, to a length that suits its size; whether it is at the bar is decided before it is rounded."""
    if math.isnan(x):
        return NOTHING
    if 0 < abs(x) < 0.01:
        return f"{x:.2g}"
    return f"{x:.3f}" if abs(x) < 10 else f"{x:.1f}" if abs(x) < 10_000 else f"{x:,.0f}"


def iqm_cell(scores: Sequence[float]) -> str:
    if len(scores) < 2:  # one run says nothing of the spread
        return number(iqm(scores)) if scores else NOTHING
    low, high = iqm_interval(scores)
    return f"{number(iqm(scores))} [{number(low)}, {number(high)}]"


def count(x: float) -> str:
    if math.isnan(x):
        return NOTHING
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if x >= unit:
            return f"{x / unit:.3g}{name}"
    return f"{x:.0f}"


def duration(seconds: float) -> str:
    if math.isnan(seconds):
        return NOTHING
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
