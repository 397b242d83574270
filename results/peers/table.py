"""The table of `results.peers`'s figures, kept in results/data/peers/peers.json."""

import json
from pathlib import Path
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
    sides = [x[side]["versions"].items() for x in figures["comparisons"] for side in ("peer", "ours")]
    releases = dict.fromkeys(f"{name} {release}" for side in sides for name, release in side)
    machine = figures["machine"]
    return (
        f"Agent steps (of 4 frames) on {figures['game']} per core-second: per second of processor time, that of child "
        f"processes included; learning included, start-up not. Medians of {figures['rounds']} rounds of "
        f"{figures['seconds']:g} s a side; each round runs the peer, then GEMPI, and the ratio is the median of the "
        f"rounds' ratios. Both sides have {figures['cores']} core{'s' * (figures['cores'] > 1)}, one torch thread a "
        f"process, the Nature CNN of 512, the same batch and as many passes over it. GEMPI is "
        f"{first['settings']['rule']}, {first['settings']['arithmetic']}. Peers are PPO with their own arithmetic, "
        f"float32 with channels first. Machine: {machine['processor']}, {machine['cores']} cores. Versions: "
        f"{', '.join(sorted(releases))}."
    )


def overview(data: Path) -> str:
    """The table of what is kept under `data`, empty where nothing is."""
    kept = data / "peers/peers.json"
    if not kept.exists():
        return ""
    figures = json.loads(kept.read_text())
    return f"{table(figures)}\n\nMeasured by `{' '.join(figures['command'])}`."
