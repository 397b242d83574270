"""Markdown tables of collected runs. Every number comes from a CSV or `published.py`; what was not run says so."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from results.experiment import ROLLOUTS, Experiment
from results.published import PUBLISHED
from results.statistics import iqm, iqm_interval
from results.store import Row

NOTHING = "–"


def results_table(experiment: Experiment, rows: Sequence[Row]) -> str:
    """Return a row a label: the evaluation's mean return over its seeds, its interval, and what it cost."""
    language = experiment.unit is ROLLOUTS
    frames = not language and any(row["frames"] != row["steps"] for row in rows)
    modes = any(row.get("mode_mean") for row in rows)
    table = []
    for label in experiment.labels:
        planned = sum(run.label == label for run in experiment.runs)
        group = [row for row in rows if row["label"] == label]
        scores = column(group, "eval_mean")
        cells = {
            "Run": label,
            "Seeds": f"{len(group)} of {planned}",
            f"Mean {experiment.metric}": number(mean(scores)) if group else "not run",
            "IQM [95% interval]": iqm_cell(scores),
        }
        if modes:
            least = column(group, "eval_least") + column(group, "mode_least")
            cells["Mean by the mode"] = number(mean(column(group, "mode_mean")))
            cells["Least game of all"] = number(min(least, default=math.nan))
        if experiment.bar is not None:
            at_bar = sum(score >= experiment.bar for score in scores)
            cells[f"Seeds at {experiment.bar:g} or above"] = f"{at_bar} of {len(scores)}" if group else NOTHING
        if language:
            cells["Before"] = number(mean(column(group, "base_mean")))
            cells["Greedy"] = number(mean(column(group, "eval_greedy")))
        cells |= {name: number(mean(column(group, name))) for name in experiment.diagnostics}
        cells[experiment.unit.name.capitalize()] = count(mean(column(group, "steps")))
        if frames:
            cells["Frames"] = count(mean(column(group, "frames")))
        cells["Slowest run"] = duration(max(column(group, "wall_seconds"), default=math.nan))
        if experiment.bar is not None:
            cells["Median time to the bar"] = time_to_bar(group) if group else NOTHING
        if language:
            cells["Core ms a rollout"] = count(core_ms(group))
        else:
            cells["Steps/s"] = count(mean(column(group, "steps_per_second")))
        cells["Parameters"] = count(mean(column(group, "parameters")))
        table.append(cells)
    return markdown(list(table[0]), [cells.values() for cells in table])


def core_ms(rows: Sequence[Row]) -> float:
    """Return the milliseconds of a core that a rollout and the updates on it took, the median run's."""
    each = [1000 * float(row["cpu_seconds"]) / float(row["steps"]) for row in rows if row["cpu_seconds"]]
    return median(each) if each else math.nan


def time_to_bar(rows: Sequence[Row]) -> str:
    """Return the median time until the training return was at the bar; a run that never was counts as infinite."""
    wall, cpu = (median(float(row.get(n) or math.inf) for row in rows) for n in ("bar_seconds", "bar_cpu_seconds"))
    return NOTHING if math.isinf(wall) else f"{duration(wall)}, {cpu:.0f} core-seconds"


def comparison_table(experiment: Experiment, rows: Sequence[Row]) -> str:
    """Return ours beside what others published for the same environment; empty where nobody did."""
    environments = list(dict.fromkeys(run.env for run in experiment.runs))
    published = [figure for figure in PUBLISHED if figure.env in environments]
    if not published:
        return ""
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
    return markdown([", ".join(environments), "Score", "Frames", "Protocol", "Source"], table)


def overview_table(shown: Iterable[tuple[Experiment, Sequence[Row], str]]) -> str:
    """Return a row for each (experiment, its rows, its page), then a line for each experiment that was not run."""
    table, missing = [], []
    for experiment, rows, page in shown:
        if not rows:
            missing.append(not_run(experiment))
            continue
        passing = []
        for label in experiment.labels:
            scores = column([row for row in rows if row["label"] == label], "eval_mean")
            planned = sum(run.label == label for run in experiment.runs)
            if experiment.bar is not None and len(scores) == planned and min(scores) >= experiment.bar:
                passing.append(label)
        bar = NOTHING if experiment.bar is None else f"{experiment.bar:g}"
        link = f"[{experiment.title}]({page}#{anchor(experiment.title)})"
        ran = f"{len(rows)} of {len(experiment.runs)}"
        table.append([link, experiment.question, ran, bar, "; ".join(passing) or "none"])
    header = ["Experiment", "Question", "Runs", "Bar", "Every seed at the bar"]
    parts = [markdown(header, table) if table else "", "\n".join(missing)]
    return "\n\n".join(part for part in parts if part)


def not_run(experiment: Experiment) -> str:
    return f"- {experiment.title}, not run: `python -m results.run {experiment.name}`. {experiment.question}"


def provenance(experiment: Experiment, rows: Sequence[Row]) -> str:
    """Return a line on where and how the runs were made."""
    facts = {
        "Machine": distinct(rows, "machine"),
        "Cores a run": str(experiment.cores),
        "Seeds": distinct(rows, "seed").replace(";", ","),
        "Preset": distinct(rows, "preset"),
        "Evaluation": distinct(rows, "eval_protocol"),
        "Versions": distinct(rows, "versions"),
        "Commit": short_commits(distinct(rows, "git_commit")),
    }
    return " ".join(f"{name}: {fact}." for name, fact in facts.items() if fact)


def short_commits(text: str) -> str:
    """Return the text with hashes of 40 digits cut to 10."""
    return re.sub(r"([0-9a-f]{10})[0-9a-f]{30}", r"\1", text)


def releases(versions: Iterable[Mapping[str, str]]) -> str:
    """Return all packages and their releases, sorted, each once."""
    return ", ".join(sorted({f"{name} {release}" for each in versions for name, release in each.items()}))


def markdown(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def anchor(title: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def column(rows: Sequence[Row], name: str) -> list[float]:
    """Return the values [<= N] of a column that are there."""
    return [float(row[name]) for row in rows if row.get(name)]


def distinct(rows: Sequence[Row], name: str) -> str:
    return "; ".join(dict.fromkeys(row[name] for row in rows if row[name]))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def number(x: float) -> str:
    """Return a score in a length that suits its size; whether it is at the bar is decided before it is rounded."""
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
