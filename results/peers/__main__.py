"""Peers and this project side by side: `python -m results.peers`, and flags of runners.atari to change this side."""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from results.experiment import ROOT, RUNS
from results.peers.accounting import measure
from results.peers.catalogue import COMPARISONS, GAME, PEERS, Comparison
from results.peers.pairs import Speed, play
from results.peers.table import table
from results.peers.venvs import ensure
from runners.cli import parse
from runners.errors import Parser, RunError, UsageError, main_guard
from runners.records.files import write_atomically
from runners.records.provenance import machine, package_versions

FOLDER = RUNS / "peers"


def main(argv: list[str]) -> int:
    options, flags = _options(argv)
    cores = sorted(os.sched_getaffinity(0))[-options.cores :]
    figures: dict[str, Any] = {
        "command": ["python", "-m", "results.peers", *argv],
        "game": GAME,
        "machine": machine(),
        "versions": package_versions(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "cores": len(cores),
        "comparisons": [],
        "skipped": {},
    }
    if options.json:  # before minutes are spent
        options.json.parent.mkdir(parents=True, exist_ok=True)
    pythons = _installed(options.peers, figures["skipped"])
    for comparison in COMPARISONS:
        if comparison.peer.name not in pythons:
            continue
        try:
            found = _compare(comparison, pythons[comparison.peer.name], flags, cores, options)
        except RunError as error:
            figures["skipped"][comparison.name] = " ".join(str(error).split())
            print(f"{comparison.name}: {error}", flush=True)
            continue
        figures["comparisons"].append(found)
        if options.json:  # after each: what is measured stays, whatever becomes of the rest
            write_atomically(options.json, json.dumps(figures, indent=2).encode())
    if not figures["comparisons"]:
        raise RunError(f"nothing was measured: {'; '.join(figures['skipped'].values())}")
    if options.json:
        write_atomically(options.json, json.dumps(figures, indent=2).encode())
    print(f"\n{table(figures)}")
    return 0


def _options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """This command's flags, and those that are for runners.atari."""
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
    there = len(os.sched_getaffinity(0))
    if not 1 <= options.cores <= there:
        raise UsageError(f"--cores must lie in 1..{there}, the cores of this process, not {options.cores}")
    if options.rounds < 1:
        raise UsageError(f"--rounds must be at least 1, not {options.rounds}")
    if not options.seconds > 0:
        raise UsageError(f"--seconds must be greater than 0, not {options.seconds}")
    for comparison in COMPARISONS:
        if parse("atari", [*comparison.our_flags, *flags])[1]:
            raise UsageError("--resume belongs to training; a comparison takes the flags of a new run")
    return options, flags


def _installed(names: list[str], skipped: dict[str, str]) -> dict[str, Path]:
    """The Python of each peer; why there is none goes to `skipped`."""
    pythons = {}
    for name in names:
        try:
            pythons[name] = ensure(PEERS[name], FOLDER / name)
        except RunError as error:
            skipped[name] = str(error)
            print(f"{name}: {error}", flush=True)
    return pythons


def _compare(
    comparison: Comparison, python: Path, flags: list[str], cores: list[int], options: argparse.Namespace
) -> dict[str, Any]:
    """All rounds of a comparison, with what both sides say of themselves, and their commands."""
    driver = f"results/peers/drivers/{comparison.peer.driver}"
    theirs = [str(python.relative_to(ROOT)), driver, *comparison.peer_flags]
    ours = ["-m", "results.peers.ours", "atari", *comparison.our_flags, *flags]
    log = FOLDER / comparison.peer.name
    run = partial(measure, cores=cores, seconds=options.seconds, folder=ROOT)

    def tell(number: int, speed: Speed) -> None:
        line = f"peer {speed.peer:,.0f}, GEMPI {speed.ours:,.0f} steps a core-second, ratio {speed.ratio:.2f}"
        print(f"{comparison.name}, round {number} of {options.rounds}: {line}", flush=True)

    found = play(
        partial(run, theirs, log=log / "peer.log"),
        partial(run, [sys.executable, *ours], log=log / "ours.log"),
        options.rounds,
        tell,
    )
    found["peer"]["command"], found["ours"]["command"] = theirs, ["python", *ours]
    return {"name": comparison.name, "library": comparison.peer.name, **found}


if __name__ == "__main__":
    main_guard(main)
