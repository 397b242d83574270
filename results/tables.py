"""Markdown tables of collected runs. Every number comes from results/data/; what was not run says so."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, trim_mean

from results.experiment import ROLLOUTS, Experiment

NOTHING = "–"


def results_table(experiment: Experiment, rows: pd.DataFrame) -> str:
    """Return a row a label: the evaluation's mean return over its seeds, its interval, and what it cost."""
    language = experiment.unit is ROLLOUTS
    frames = not language and (rows.frames != rows.steps).any()
    table = []
    for label in experiment.labels:
        group = rows[rows.label == label]
        scores, mean = group.eval_mean.dropna(), group.mean(numeric_only=True)
        cells = {
            "Run": label,
            "Seeds": f"{len(group)} of {experiment.planned(label)}",
            f"Mean {experiment.metric}": number(mean["eval_mean"]) if len(group) else "not run",
            "IQM [95% interval]": iqm_cell(scores),
            "Least seed": number(scores.min()),
        }
        if rows.mode_mean.any():
            cells["Mean by the mode"] = number(mean["mode_mean"])
            cells["Least game of all"] = number(group[["eval_least", "mode_least"]].min(axis=None))
        if experiment.bar is not None:
            at_bar = f"{(scores >= experiment.bar).sum()} of {len(scores)}"
            cells[f"Seeds at {experiment.bar:g} or above"] = at_bar if len(group) else NOTHING
        if language:
            cells |= {"Before": number(mean["base_mean"]), "Greedy": number(mean["eval_greedy"])}
        cells |= {name: number(mean[name]) for name in experiment.diagnostics}
        cells[experiment.unit.name.capitalize()] = count(mean["steps"])
        if frames:
            cells["Frames"] = count(mean["frames"])
        cells["Slowest run"] = duration(group.wall_seconds.max())
        if experiment.bar is not None:
            cells["Median time to the bar"] = time_to_bar(group)
        cost = (1000 * group.cpu_seconds / group.steps).median() if language else mean["steps_per_second"]
        cells["Core ms a rollout" if language else "Steps/s"] = count(cost)
        cells["Parameters"] = count(mean["parameters"])
        table.append(cells)
    return markdown(list(table[0]), [cells.values() for cells in table])


def time_to_bar(rows: pd.DataFrame) -> str:
    """Return the median time until the training return was at the bar; a run that never was counts as infinite."""
    wall, cpu = rows[["bar_seconds", "bar_cpu_seconds"]].fillna(math.inf).median()
    return f"{duration(wall)}, {cpu:.0f} core-seconds" if wall < math.inf else NOTHING


def passing(experiment: Experiment, rows: pd.DataFrame) -> str:
    """Return the labels that have all their runs, each of them at the bar."""
    bar = math.inf if experiment.bar is None else experiment.bar
    passed = rows[rows.eval_mean >= bar].label.value_counts()
    return "; ".join(x for x in experiment.labels if passed.get(x) == experiment.planned(x)) or "none"


def short_commits(text: str) -> str:
    return re.sub(r"([0-9a-f]{10})[0-9a-f]{30}", r"\1", text)


def releases(records: Iterable[Mapping[str, Any]]) -> str:
    """Return all packages and their releases in the "versions" of records, sorted, each once."""
    return ", ".join(sorted({" ".join(pair) for each in records for pair in each.get("versions", {}).items()}))


def markdown(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def anchor(title: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def distinct(rows: pd.DataFrame, name: str, separator: str = "; ") -> str:
    """Return the different values of a column, in the order of their first appearance."""
    return separator.join(rows[name].dropna().convert_dtypes().astype(str).unique())


def iqm(scores: Sequence[float], axis: int = 0) -> np.ndarray:
    """Return the mean of scores [N] without the floor(N/4) lowest and highest (Agarwal et al. 2021, 2108.13264)."""
    return trim_mean(scores, 0.25, axis)


def iqm_interval(scores: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap of the IQM: the central `level` over 10,000 resamples of scores [N], N >= 2.

    With 2 or 3 scores the lowest and highest each make a whole resample more often than the 2.5% tails, so that the
    95% interval is simply their range.
    """
    how = {"n_resamples": 10_000, "method": "percentile", "rng": np.random.default_rng(0)}
    low, high = bootstrap((scores,), iqm, confidence_level=level, **how).confidence_interval
    return float(low), float(high)


def number(x: float) -> str:
    """Return a score in a length that suits its size; whether it is at the bar is decided before it is rounded."""
    if math.isnan(x):
        return NOTHING
    if 0 < abs(x) < 0.01:
        return f"{x:.2g}"
    return f"{x:.3f}" if abs(x) < 10 else f"{x:.1f}" if abs(x) < 10_000 else f"{x:,.0f}"


def iqm_cell(scores: Sequence[float]) -> str:
    if len(scores) < 2:  # one run says nothing of the spread
        return number(iqm(scores)) if len(scores) else NOTHING
    low, high = iqm_interval(scores)
    return f"{number(iqm(scores))} [{number(low)}, {number(high)}]"


def median_and_range(values: Sequence[float], form: str) -> str:
    """Return "median [lowest, highest]"; nothing where there are no values."""
    shown = [format(x, form) for x in (median(values), min(values), max(values))] if values else []
    return "{} [{}, {}]".format(*shown) if shown else NOTHING


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
