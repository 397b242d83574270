"""Tables of the figures of `results.peers` and `results.peers.solve`, kept in results/data/peers/."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from results.store import Figures, read_figures, shown_command
from results.tables import NOTHING, markdown, releases

HEADER = ["Peer", "Core", "Batch: environments x unroll", "Passes x minibatches"]
HEADER += ["Peer", "GEMPI", "GEMPI / peer [range]", "A second of the clock: peer", "GEMPI", "GEMPI / peer"]


class Speed(NamedTuple):
    """Medians over rounds: agent steps a second of each side, and of each round's ratio, with its range."""

    peer: float
    ours: float
    ratio: float
    lowest: float
    highest: float


def speed(rounds: Sequence[dict[str, dict[str, float]]], per: str) -> Speed:
    """Return the speeds of rounds {"peer": usage, "ours": usage}, in steps per second of "cpu" or of "wall"."""
    peer, ours = ([pair[side]["steps"] / pair[side][per] for pair in rounds] for side in ("peer", "ours"))
    ratios = [b / a for a, b in zip(peer, ours, strict=True)]
    return Speed(median(peer), median(ours), median(ratios), min(ratios), max(ratios))


def table(figures: Figures) -> str:
    """Return a row a comparison, then what could not be measured and how the figures were taken."""
    rows = [row(x) for x in figures["comparisons"]]
    missing = [f"- Not measured: {name}: {why}." for name, why in figures["skipped"].items()]
    parts = [markdown(HEADER, rows) if rows else "", "\n".join(missing), note(figures) if rows else ""]
    return "\n\n".join(part for part in parts if part)


def row(comparison: Figures) -> list[str]:
    settings = comparison["peer"]["settings"]
    core, clock = (speed(comparison["rounds"], per) for per in ("cpu", "wall"))
    memory = f"LSTM {settings['hidden']}" if settings["core"] == "lstm" else "none"
    return [
        f"{comparison['library']}, {settings['rule']}",
        memory,
        f"{settings['envs']} x {settings['unroll']}",
        f"{settings['passes']} x {settings['minibatches']}",
        f"{core.peer:,.0f}",
        f"{core.ours:,.0f}",
        f"{core.ratio:.2f} [{core.lowest:.2f}, {core.highest:.2f}]",
        f"{clock.peer:,.0f}",
        f"{clock.ours:,.0f}",
        f"{clock.ratio:.2f}",
    ]


def note(figures: Figures) -> str:
    """Return how the figures were taken."""
    first = figures["comparisons"][0]["ours"]
    arithmetic = {x["ours"]["settings"]["arithmetic"] for x in figures["comparisons"]}
    versions = [x[side]["versions"] for x in figures["comparisons"] for side in ("peer", "ours")]
    cores = f"{figures['cores']} core{'s' * (figures['cores'] > 1)}"
    return (
        f"Agent steps (of 4 frames) on {figures['game']} per core-second: per second of processor time, that of child "
        f"processes included; learning included, start-up not. Medians of {figures['rounds']} rounds of "
        f"{figures['seconds']:g} s a side; each round runs the peer, then GEMPI, and the ratio is the median of the "
        f"rounds' ratios. Both sides have {cores}, one torch thread a process, the Nature CNN of 512, the same batch "
        f"and as many passes over it. GEMPI is {first['settings']['rule']}, {'; or '.join(sorted(arithmetic))}; it has "
        f"a layer of 128 before its LSTM or in the place of one. Peers are PPO with their own arithmetic, float32 with "
        f"channels first. Machine: {figures['machine']['processor']}, {figures['machine']['cores']} cores. "
        f"Versions: {releases(versions)}."
    )


def solved_table(figures: Figures) -> str:
    """Return a row a side, medians over its runs; a run that never came to the bar counts as infinitely long."""
    rows = [solved_row(name, runs) for name, runs in figures["runs"].items() if runs]
    header = [figures["task"], "Solved", "Core-seconds [range]", "Wall time", "Agent steps", "Those not solved"]
    failed = [f"- Not measured: {name}: {why}." for name, why in figures["failed"].items()]
    at_once = f", {figures['cores']} runs at a time" if figures["cores"] > 1 else ""
    how = (
        f"Until the last 100 training episodes have a mean of {figures['bar']:g}, or {figures['limit']:,.0f} "
        f"core-seconds have passed, or the run's own steps: medians over seeds, each run on one core with one "
        f"thread{at_once}, the sides in turn, each with its own network and settings. Machine: "
        f"{figures['machine']['processor']}. Versions: {releases(figures['versions'].values())}."
    )
    return "\n\n".join(part for part in (markdown(header, rows), "\n".join(failed), how) if part)


def solved_row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    solved, others = ([run for run in runs if run["solved"] is which] for which in (True, False))
    cells = [NOTHING] * 3
    if 2 * len(solved) > len(runs):
        never = [math.inf] * len(others)
        cpu, wall, steps = (sorted(run[key] for run in solved) + never for key in ("cpu", "wall", "steps"))
        most = f"{cpu[-1]:,.1f}" if cpu[-1] < math.inf else "never"
        cells = [f"{median(cpu):,.1f} [{cpu[0]:,.1f}, {most}]", f"{median(wall):,.1f} s", f"{median(steps):,.0f}"]
    return [name, f"{len(solved)} of {len(runs)}", *cells, "; ".join(map(describe_run, others)) or NOTHING]


def describe_run(run: dict[str, Any]) -> str:
    """Return in words how a run went."""
    spent = f"{run['steps']:,} steps, {run['cpu']:,.1f} core-seconds"
    stood = "no mean yet" if run["mean_return"] is None else f"at {run['mean_return']:.1f}"
    return spent if run["solved"] else f"{stood} after {spent}"


KEPT = {
    "peers": ("results.peers", table),
    "cartpole": ("results.peers.solve", solved_table),
    "pong": ("results.peers.solve", solved_table),
}


def overview(data: Path) -> str:
    """Return the tables of what is kept under `data`, empty where nothing is."""
    parts = []
    for name, (module, make) in KEPT.items():
        if (kept := data / f"peers/{name}.json").exists():
            figures = read_figures(kept)
            parts.append(f"{make(figures)}\n\nMeasured by `{shown_command(figures, module)}`.")
    return "\n\n".join(parts)
