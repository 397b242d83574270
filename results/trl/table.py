"""The table of `results.trl`'s figures, kept in results/data/trl/<task>.json."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean, median

from results.store import Figures
from results.tables import NOTHING, iqm_cell, markdown, median_and_range, number
from results.trl.catalogue import METHODS, YARDSTICK, Method

HEADER = ["Library", "Method", "Rate", "Batches x updates", "Seeds", "Mean reward", "IQM [95% interval]", "Greedy"]
HEADER += ["CPU ms a batch", "Of TRL's GRPO x 4 [range]"]
NAMES = {"vmpo": "V-MPO", "gempi": "V-MPO, no trust region"}


def runs_of(method: Method, runs: Sequence[Figures]) -> list[Figures]:
    """Return the runs of a method, by their random seeds."""
    wanted = asdict(method).items()
    return sorted((run for run in runs if wanted <= run.items()), key=lambda run: run["seed"])


def table(figures: Figures) -> str:
    """Return a row a method that was run, below the base model's."""
    base = {run["seed"]: run["before"] for run in figures["runs"]}.values()
    first = [NOTHING, "base model", NOTHING, NOTHING, str(len(base)), *scores(list(base)), NOTHING, NOTHING]
    costs = {run["seed"]: milliseconds(run) for run in runs_of(YARDSTICK, figures["runs"])}
    rows = []
    for method in METHODS:
        if runs := runs_of(method, figures["runs"]):
            rate = f"{method.learning_rate:.0e}".replace("e-0", "e-")  # 1e-4 where Python writes 1e-04
            row = [method.library, NAMES.get(method.method, method.method.upper()), rate]
            row += [f"{runs[0]['rollouts']} x {method.updates}", str(len(runs)), *scores(runs)]
            ratios = [milliseconds(run) / costs[run["seed"]] for run in runs if run["seed"] in costs]
            rows.append([*row, f"{median(map(milliseconds, runs)):.0f}", median_and_range(ratios, ".2f")])
    return markdown(HEADER, [first, *rows])


def scores(runs: Sequence[Figures]) -> list[str]:
    sampled = [run["mean"] for run in runs]
    return [number(mean(sampled)), iqm_cell(sampled), number(mean(run["greedy"] for run in runs))]


def milliseconds(run: Figures) -> float:
    return 1000 * run["cpu_seconds"] / run["rollouts"]
