"""The table of `results.trl`'s figures, kept in results/data/trl/<task>.json."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from results.store import Figures, read_figures, shown_command
from results.tables import NOTHING, iqm_cell, markdown, mean, number, releases, short_commits
from results.trl.catalogue import METHODS, YARDSTICK, Method

HEADER = ["Library", "Method", "Rate", "Batches x updates", "Seeds", "Mean reward", "IQM [95% interval]", "Greedy"]
HEADER += ["CPU ms a batch", "Of TRL's GRPO x 4 [range]"]
SPOKEN = {"vmpo": "V-MPO", "gempi": "V-MPO, no trust region"}


def runs_of(method: Method, runs: Sequence[Figures]) -> list[Figures]:
    """Return the runs of a method, by their random seeds."""
    wanted = asdict(method).items()
    return sorted((run for run in runs if wanted <= run.items()), key=lambda run: run["seed"])


def table(figures: Figures) -> str:
    """Return a row a method that was run, below the base model's, and how they were taken; empty without a run."""
    runs = figures["runs"]
    if not runs:
        return ""
    base = {run["seed"]: run["before"] for run in runs}.values()
    first = [NOTHING, "base model", NOTHING, NOTHING, str(len(base)), *scores(list(base)), NOTHING, NOTHING]
    rows = [row(method, runs) for method in METHODS if runs_of(method, runs)]
    return f"{markdown(HEADER, [first, *rows])}\n\n{note(figures)}"


def row(method: Method, runs: Sequence[Figures]) -> list[str]:
    own = runs_of(method, runs)
    about = [method.library, SPOKEN.get(method.method, method.method.upper()), rate(method.learning_rate)]
    about += [f"{own[0]['rollouts']} x {method.updates}", str(len(own)), *scores(own)]
    return [*about, f"{median(map(milliseconds, own)):.0f}", ratio(own, runs_of(YARDSTICK, runs))]


def rate(x: float) -> str:
    """Return 1e-4 where Python writes 0.0001 or 1e-04."""
    return f"{x:.0e}".replace("e-0", "e-")


def scores(runs: Sequence[Figures]) -> list[str]:
    sampled = [run["mean"] for run in runs]
    return [number(mean(sampled)), iqm_cell(sampled), number(mean([run["greedy"] for run in runs]))]


def milliseconds(run: Figures) -> float:
    return 1000 * run["cpu_seconds"] / run["rollouts"]


def ratio(own: Sequence[Figures], yardstick: Sequence[Figures]) -> str:
    """Return the median, lowest and highest of the ratios of runs that share a random seed."""
    base = {run["seed"]: milliseconds(run) for run in yardstick}
    ratios = [milliseconds(run) / base[run["seed"]] for run in own if run["seed"] in base]
    return f"{median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]" if ratios else NOTHING


def note(figures: Figures) -> str:
    """Return how the figures were taken."""
    runs, machine = figures["runs"], figures["machine"]
    return (
        f"Task `{figures['task']}`: reward of 512 held-out prompts by this project's evaluation, one sample at "
        f"temperature 1 each, and greedy. Both sides have a seed's base model, prompts and pairs in common. A batch is "
        f"a rollout, 8 completions of each of 8 prompts at temperature 1, or for DPO (beta 0.1) 32 pairs, best against "
        f"worst of 8 that the base model drew before. Rates are constant, gradients clipped to norm 1; float32, no "
        f"dropout. All else is as each library has it. CPU time is the process's, user and system, from the first "
        f"batch to the last, on one core with one torch thread, the median of seeds; drawing DPO's pairs is not in it. "
        f"The runs of a seed follow each other, and the last column is the median of seeds' ratios. Machine: "
        f"{machine['processor']}, {machine['cores']} cores. Versions: {releases(run['versions'] for run in runs)}. "
        f"Commit: {short_commits(', '.join(dict.fromkeys(run['git_commit'] or 'none' for run in runs)))}."
    )


def overview(data: Path) -> str:
    """Return the tables of what is kept under `data`, empty where nothing is."""
    kept = [figures for path in sorted((data / "trl").glob("*.json")) if (figures := read_figures(path))["runs"]]
    return "\n\n".join(f"{table(x)}\n\nMeasured by `{shown_command(x, 'results.trl')}`." for x in kept)
