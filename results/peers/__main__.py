"""Peers and this project on the same tasks: `python -m results.peers speed`, or cartpole, or pong.

`speed` measures agent steps a core-second on Pong, each peer beside this project with the same network and batch. The
others measure the time until a task is solved: until the last 100 training episodes have a mean return at its bar.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from results import RUNS
from results.comparison import above_zero, complete, from_root, opened
from results.jobs import Stop, last_cores
from results.peers.catalogue import TASKS, Side
from results.peers.marks import follow
from results.peers.tables import describe_run, solved_table, speed_table
from results.store import Figures
from results.venvs import ensure
from runners.cli import parse
from runners.errors import Parser, RunError, UsageError, main_guard

FOLDER = RUNS / "peers"


def main(argv: list[str]) -> int:
    options, flags = parse_options(argv)
    task, cores = TASKS[options.task], last_cores(options.cores)
    settings = {"task": task.title, "bar": task.bar, "seconds": options.seconds, "cores": len(cores), "flags": flags}
    figures = opened(options.json, "results.peers", argv, settings)
    figures["sides"] = {side.name: {} for side in task.sides} | figures.get("sides", {})
    there = {(run["side"], run["seed"]) for run in figures["runs"]}
    wanted = {
        f"{side.name}, seed {seed}": (side, seed)
        for seed in range(options.seeds)
        for side in task.sides
        if options.only in side.name and (side.name, seed) not in there
    }
    pythons = install([side for side, _ in wanted.values()], figures["failed"])
    wanted = {name: item for name, item in wanted.items() if not item[0].peer or item[0].peer.name in pythons}

    def work(item: tuple[Side, int], own: list[int], stop: Stop) -> Figures:
        side, seed = item
        command = command_of(side, flags, pythons)
        more = ["--seed", str(seed), *(["--bar", str(task.bar)] if task.bar else [])]
        log = FOLDER / f"{options.task}-{own[0]}.log"
        about, found = follow([*command, *more], own, log, task, options.seconds, stop)
        figures["sides"][side.name] = about | {"library": side.peer.name if side.peer else "GEMPI", "command": command}
        print(f"{side.name}, seed {seed}: {describe_run(found)}", flush=True)
        return {"side": side.name, "seed": seed, **found}

    table, each = (speed_table, len(cores)) if options.task == "speed" else (solved_table, 1)
    complete(figures, options.json, wanted, work, table, cores, each)
    return 0


def parse_options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return this command's options, and the flags that change this project's sides."""
    parser = Parser(
        prog="python -m results.peers",
        description="Measure peers, each installed into runs/peers/, and this project beside them. Every other flag is "
        "one of runners.atari or runners.control and changes this project's sides, as in --precision float32. With "
        "--json, what FILE holds already is not run again.",
        allow_abbrev=False,
    )
    parser.add_argument("task", choices=TASKS, help="steps a core-second on Pong, or what to solve")
    parser.add_argument("--only", default="", metavar="TEXT", help="sides whose names hold this text")
    parser.add_argument("--seeds", type=int, help="runs of each side, which take turns (speed: 5, else 3)")
    parser.add_argument("--seconds", type=float, help="core-seconds of a run at most (20; cartpole: 120; pong: 7200)")
    parser.add_argument("--cores", type=int, default=1, help="speed: cores of a run; else runs at a time, a core each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also keep the figures in FILE, run by run")
    options, flags = parser.parse_known_args(argv)
    task = TASKS[options.task]
    options.seeds = task.seeds if options.seeds is None else options.seeds
    options.seconds = task.seconds if options.seconds is None else options.seconds
    above_zero(options, "seeds", "seconds")
    if not any(options.only in side.name for side in task.sides):
        raise UsageError(f"--only {options.only!r} is in no name of: {'; '.join(side.name for side in task.sides)}")
    for runner, *own in (side.flags.split() for side in task.sides if not side.peer):
        parse(runner, [*own, *flags])
    return options, flags


def install(sides: Sequence[Side], failed: dict[str, str]) -> dict[str, Path]:
    """Return the Python of each peer of `sides`; why there is none goes to `failed`."""
    pythons = {}
    for peer in dict.fromkeys(side.peer for side in sides if side.peer):
        try:
            pythons[peer.name] = ensure(peer.name, peer.requirements, FOLDER / peer.name)
        except RunError as error:
            failed[peer.name] = str(error)
            print(error, flush=True)
    return pythons


def command_of(side: Side, flags: Sequence[str], pythons: Mapping[str, Path]) -> list[str]:
    """Return the command of a side as a user would type it in the repository's root."""
    if side.peer:
        driver = ["-m", f"results.peers.drivers.{side.peer.driver}"]
        return [from_root(pythons[side.peer.name]), *driver, *side.flags.split()]
    return ["python", "-m", "results.peers.ours", *side.flags.split(), *flags]


if __name__ == "__main__":
    main_guard(main)
