"""Tables of the figures of `results.peers` and `results.peers.solve`, kept in results/data/peers/."""

import json
import math
from pathlib import Path
from statistics import median
from typing import Any

from results.peers.pairs import Speed, speed
from results.tables import markdown

HEADER = ["Peer", "Core", "Batch: environments x unroll", "Passes x minibatches"]
HEADER += ["Peer", "GEMPI", "GEMPI / peer [range]", "A second of the clock: peer", "GEMPI", "GEMPI / peer"]


def table(figures: dict[str, Any]) -> str:
    """A row a comparison, then what could not be measured and how the figures were taken."""
    rows = [row(x) for x in figures["comparisons"]]
    missing = [f"- Not measured: {name}: {why}." for name, why in figures["skipped"].items()]
    parts = [markdown(HEADER, rows) if rows else "", "\n".join(missing), note(figures) if rows else ""]
    return "\n\n".join(part for part in parts if part)


def row(comparison: dict[str, Any]) -> list[str]:
    settings = comparison["peer"]["settings"]
    core, clock = (speed(comparison["rounds"], per) for per in ("cpu", "wall"))
    about = [f"{comparison['library']}, {settings['rule']}", core_of(settings)]
    about += [f"{settings['envs']} x {settings['unroll']}", f"{settings['passes']} x {settings['minibatches']}"]
    return [*about, f"{core.peer:,.0f}", f"{core.ours:,.0f}", ratio(core)] + [
        f"{clock.peer:,.0f}",
        f"{clock.ours:,.0f}",
        f"{clock.ratio:.2f}",
    ]


def core_of(settings: dict[str, Any]) -> str:
    return f"LSTM {settings['hidden']}" if settings["core"] == "lstm" else "none"


def ratio(of: Speed) -> str:
    return f"{of.ratio:.2f} [{of.lowest:.2f}, {of.highest:.2f}]"


def note(figures: dict[str, Any]) -> str:
    """How the figures were taken."""
    first = figures["comparisons"][0]["ours"]
    arithmetic = {x["ours"]["settings"]["arithmetic"] for x in figures["comparisons"]}
    sides = [x[side]["versions"].items() for x in figures["comparisons"] for side in ("peer", "ours")]
    releases = dict.fromkeys(f"{name} {release}" for side in sides for name, release in side)
    machine = figures["machine"]
    return (
        f"Agent steps (of 4 frames) on {figures['game']} per core-second: per second of processor time, that of child "
        f"processes included; learning included, start-up not. Medians of {figures['rounds']} rounds of "
        f"{figures['seconds']:g} s a side; each round runs the peer, then GEMPI, and the ratio is the median of the "
        f"rounds' ratios. Both sides have {figures['cores']} core{'s' * (figures['cores'] > 1)}, one torch thread a "
        f"process, the Nature CNN of 512, the same batch and as many passes over it. GEMPI is "
        f"{first['settings']['rule']}, {'; or '.join(sorted(arithmetic))}; it has a layer of 128 before its LSTM or "
        f"in the place of one. Peers are PPO with their own arithmetic, float32 with channels first. Machine: "
        f"{machine['processor']}, {machine['cores']} cores. Versions: {', '.join(sorted(releases))}."
    )


def solved_table(figures: dict[str, Any]) -> str:
    """A row a side, medians over its runs; one that never got there took for ever."""
    rows = [solved_row(name, runs) for name, runs in figures["runs"].items() if runs]
    header = [figures["task"], "Solved", "Core-seconds [range]", "Wall time", "Agent steps", "Those not solved"]
    failed = [f"- Not measured: {name}: {why}." for name, why in figures["failed"].items()]
    sides = [side.items() for side in figures["versions"].values()]
    releases = dict.fromkeys(f"{name} {release}" for side in sides for name, release in side)
    at_once = f", {figures['cores']} runs at a time" if figures["cores"] > 1 else ""
    note = (
        f"Until the last 100 training episodes have a mean of {figures['bar']:g}, or {figures['limit']:,.0f} "
        f"core-seconds have passed, or the run's own steps: medians over seeds, each run on one core with one "
        f"thread{at_once}, the sides in turn, each with its own network and settings. Machine: "
        f"{figures['machine']['processor']}. Versions: {', '.join(sorted(releases))}."
    )
    return "\n\n".join(part for part in (markdown(header, rows), "\n".join(failed), note) if part)


def solved_row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    solved, others = ([run for run in runs if run["solved"] is which] for which in (True, False))
    cells = ["–"] * 3
    if 2 * len(solved) > len(runs):
        never = [math.inf] * len(others)
        cpu, wall, steps = (sorted(run[key] for run in solved) + never for key in ("cpu", "wall", "steps"))
        most = f"{cpu[-1]:,.1f}" if cpu[-1] < math.inf else "never"
        cells = [f"{median(cpu):,.1f} [{cpu[0]:,.1f}, {most}]", f"{median(wall):,.1f} s", f"{median(steps):,.0f}"]
    return [name, f"{len(solved)} of {len(runs)}", *cells, "; ".join(map(told, others)) or "–"]


def told(run: dict[str, Any]) -> str:
    """How a run went."""
    if run["solved"]:
        return f"{run['steps']:,} steps, {run['cpu']:,.1f} core-seconds"
    stood = "no mean yet" if run["mean_return"] is None else f"at {run['mean_return']:.1f}"
    return f"{stood} after {run['steps']:,} steps, {run['cpu']:,.1f} core-seconds"


KEPT = {"peers": table, "cartpole": solved_table, "pong": solved_table}


def overview(data: Path) -> str:
    """The tables of what is kept under `data`, empty where nothing is."""
    parts = []
    for name, make in KEPT.items():
        kept = data / f"peers/{name}.json"
        if kept.exists():
            figures = json.loads(kept.read_text())
            parts.append(f"{make(figures)}\n\nMeasured by `{' '.join(figures['command'])}`.")
    return "\n\n".join(parts)
