"""Tables of the figures of `results.peers`, kept in results/data/peers/."""

import math
from statistics import median
from typing import Any

from results.peers.catalogue import OURS
from results.store import Figures
from results.tables import NOTHING, markdown, median_and_range

HEADER = ["Peer", "Core", "Batch: environments x unroll", "Passes x minibatches"]
HEADER += ["Peer", "GEMPI", "GEMPI / peer [range]", "A second of the clock: peer", "GEMPI", "GEMPI / peer"]


def runs_of(figures: Figures, side: str) -> list[Figures]:
    """Return the runs of a side, by their random seeds."""
    return sorted((run for run in figures["runs"] if run["side"] == side), key=lambda run: run["seed"])


def speed_table(figures: Figures) -> str:
    """Return a row a peer: medians over runs of steps a second, and of the ratios of runs that share a seed."""
    rows = []
    for name, about in figures["sides"].items():
        theirs, ours = runs_of(figures, name), runs_of(figures, name + OURS)
        pairs = [(a, b) for a in theirs for b in ours if a["seed"] == b["seed"]]
        if pairs:
            x = about["settings"]
            row = [f"{about['library']}, {x['rule']}", f"LSTM {x['hidden']}" if x["core"] == "lstm" else "none"]
            row += [f"{x['envs']} x {x['unroll']}", f"{x['passes']} x {x['minibatches']}"]
            for per in ("cpu", "wall"):
                rates = [[run["steps"] / run[per] for run in pair] for pair in pairs]
                ratios = [b / a for a, b in rates]
                row += [f"{median(side):,.0f}" for side in zip(*rates, strict=True)]
                row += [median_and_range(ratios, ".2f") if per == "cpu" else f"{median(ratios):.2f}"]
            rows.append(row)
    return markdown(HEADER, rows)


def solved_table(figures: Figures) -> str:
    """Return a row a side, medians over its runs; a run that never came to the bar counts as infinitely long."""
    header = [figures["task"], "Solved", "Core-seconds [range]", "Wall time", "Agent steps", "Those not solved"]
    rows = [solved_row(name, runs) for name in figures["sides"] if (runs := runs_of(figures, name))]
    return markdown(header, rows)


def solved_row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    solved, others = ([run for run in runs if run["solved"] is which] for which in (True, False))
    cells = [NOTHING] * 3
    if 2 * len(solved) > len(runs):
        never = [math.inf] * len(others)
        cpu, wall, steps = (sorted(run[key] for run in solved) + never for key in ("cpu", "wall", "steps"))
        spent = median_and_range(cpu, ",.1f").replace("inf]", "never]")
        cells = [spent, f"{median(wall):,.1f} s", f"{median(steps):,.0f}"]
    return [name, f"{len(solved)} of {len(runs)}", *cells, "; ".join(map(describe_run, others)) or NOTHING]


def describe_run(run: dict[str, Any]) -> str:
    """Return in words how a run went."""
    spent = f"{run['steps']:,} steps, {run['cpu']:,.1f} core-seconds"
    stood = "no mean yet" if run["mean_return"] is None else f"at {run['mean_return']:.1f}"
    return spent if run["solved"] else f"{stood} after {spent}"
