"""Peers and this project side by side: `python -m results.peers`, and flags of runners.atari to change this side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results import ROOT, RUNS
from results.jobs import last_cores
from results.peers.catalogue import COMPARISONS, GAME, PEERS, Comparison
from results.peers.marks import measure
from results.peers.table import speed, table
from results.store import describe_measurement, make_folder, write_figures
from results.venvs import ensure
from runners.cli import parse
from runners.errors import Parser, RunError, UsageError, main_guard

FOLDER = RUNS / "peers"


def main(argv: list[str]) -> int:
    options, flags = parse_options(argv)
    cores = last_cores(options.cores)
    shape = {"game": GAME, "rounds": options.rounds, "seconds": options.seconds, "cores": len(cores)}
    figures = describe_measurement("results.peers", argv) | shape | {"comparisons": [], "skipped": {}}
    make_folder(options.json)  # before minutes are spent
    pythons = install(options.peers, figures["skipped"])
    for comparison in COMPARISONS:
        if comparison.peer.name not in pythons:
            continue
        try:
            found = compare(comparison, pythons[comparison.peer.name], flags, cores, options)
        except RunError as error:
            figures["skipped"][comparison.name] = " ".join(str(error).split())
            print(f"{comparison.name}: {error}", flush=True)
        else:
            figures["comparisons"].append(found)
        write_figures(options.json, figures)  # what is measured stays, whatever becomes of the rest
    if not figures["comparisons"]:
        raise RunError(f"nothing was measured: {'; '.join(figures['skipped'].values())}")
    print(f"\n{table(figures)}")
    return 0


def parse_options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return this command's options, and the flags that are for runners.atari."""
    parser = Parser(
        prog="python -m results.peers",
        description="Measure peers on Pong, each installed into runs/peers/, and this project beside them. Every "
        "other flag is one of runners.atari and changes this project's side, as in --precision float32.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds of a comparison: the peer, then this project")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a measurement, without start-up")
    parser.add_argument("--cores", type=int, default=1, help="processor cores that either side runs on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options, flags = parser.parse_known_args(argv)
    if options.rounds < 1:
        raise UsageError(f"--rounds must be at least 1, not {options.rounds}")
    if not options.seconds > 0:
        raise UsageError(f"--seconds must be greater than 0, not {options.seconds}")
    for comparison in COMPARISONS:
        if parse("atari", [*comparison.our_flags, *flags])[1]:
            raise UsageError("--resume belongs to training; a comparison takes the flags of a new run")
    return options, flags


def install(names: Sequence[str], skipped: dict[str, str]) -> dict[str, Path]:
    """Return the Python of each peer; why there is none goes to `skipped`."""
    pythons = {}
    for name in names:
        try:
            pythons[name] = ensure(name, PEERS[name].requirements, FOLDER / name)
        except RunError as error:
            skipped[name] = str(error)
            print(f"{name}: {error}", flush=True)
    return pythons


def compare(
    comparison: Comparison, python: Path, flags: list[str], cores: list[int], options: argparse.Namespace
) -> dict[str, Any]:
    """Return all rounds of a comparison, with how both sides describe themselves, and their commands.

    A round is the peer and then this project, in the same minutes: a machine whose speed drifts is the same to both.
    """
    driver = f"results/peers/drivers/{comparison.peer.driver}"
    commands = {
        "peer": [str(python.relative_to(ROOT)), driver, *comparison.peer_flags],
        "ours": ["python", "-m", "results.peers.ours", "atari", *comparison.our_flags, *flags],
    }
    found: dict[str, Any] = {"name": comparison.name, "library": comparison.peer.name, "rounds": []}
    for number in range(1, options.rounds + 1):
        pair = {}
        for side, command in commands.items():
            ran = command if side == "peer" else [sys.executable, *command[1:]]
            log = FOLDER / comparison.peer.name / f"{side}.log"
            about, usage = measure(ran, cores, options.seconds, log)
            found[side], pair[side] = about | {"command": command}, usage._asdict()
        found["rounds"].append(pair)
        now = speed([pair], "cpu")
        line = f"peer {now.peer:,.0f}, GEMPI {now.ours:,.0f} steps a core-second, ratio {now.ratio:.2f}"
        print(f"{comparison.name}, round {number} of {options.rounds}: {line}", flush=True)
    return found


if __name__ == "__main__":
    main_guard(main)
