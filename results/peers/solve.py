"""Time until CartPole-v1 or Pong is solved, here and by peers: `python -m results.peers.solve cartpole`, or pong.

Every run has one core and one thread. Solved is a mean return of the last 100 training episodes at the task's bar;
start-up does not count.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import RUNS
from results.jobs import Stop, last_cores, on_cores
from results.peers.catalogue import CLEANRL_STYLE, PEERS_CNN, SB3, THEIR_SHAPE, Comparison, Peer
from results.peers.marks import Ended, Usage, reports
from results.peers.table import describe_run, solved_table
from results.store import describe_measurement, make_folder, reopened, write_figures
from results.venvs import ensure
from runners.errors import Parser, RunError, UsageError, main_guard

FOLDER = RUNS / "peers"
POINTS = 100
"""Most points of a curve that is kept: one each time that a hundredth of the limit has passed."""


@dataclass(frozen=True)
class Side:
    """Way to solve a task: a driver of `peer` with its flags or, where there is no peer, results.peers.ours."""

    name: str
    command: tuple[str, ...]
    peer: Peer | None = None
    slow: bool = False
    """Whether a run of it may take an hour."""


@dataclass(frozen=True)
class Task:
    """Task to be solved: `bar` is a mean return, `limit` core-seconds."""

    title: str
    bar: float
    limit: float
    sides: tuple[Side, ...]


def _ours(name: str, flags: str, slow: bool = False) -> Side:
    return Side(name, ("-m", "results.peers.ours", *flags.split()), slow=slow)


def _their_ppo(name: str, peer: Peer) -> Side:
    flags = Comparison(peer, "feedforward", **THEIR_SHAPE).peer_flags
    return Side(name, (f"results/peers/drivers/{peer.driver}", *flags), peer, slow=True)


PONG_FLAGS = "atari --game Pong --agent vmpo --core gtrxl --actors 0"

CARTPOLE = Task(
    "CartPole-v1",
    475.0,
    120.0,
    (
        Side("stable-baselines3, PPO, settings of its zoo", ("results/peers/drivers/sb3_cartpole.py",), SB3),
        *(
            _ours(f"GEMPI, {rule}, {core}", f"control --env CartPole-v1 --agent {rule} --core {core}")
            for core in ("feedforward", "lstm", "gtrxl")
            for rule in ("vmpo", "ppo")
        ),
    ),
)
PONG = Task(
    "Pong",
    18.0,
    7200.0,
    (
        _their_ppo("CleanRL's style, PPO, its defaults", CLEANRL_STYLE),
        _their_ppo("stable-baselines3, PPO, settings of its zoo", SB3),
        _ours("GEMPI, vmpo, gtrxl, its preset", PONG_FLAGS),
        _ours("GEMPI, vmpo, gtrxl, the peers' CNN", f"{PONG_FLAGS} {PEERS_CNN}", slow=True),
    ),
)
TASKS = {"cartpole": CARTPOLE, "pong": PONG}


def main(argv: list[str]) -> int:
    options = parse_options(argv)
    cores = last_cores(options.cores)
    task = TASKS[options.task]
    figures = new_figures(task, options, argv)
    if options.resume:
        keep_runs(figures, options.json)
    make_folder(options.json)  # before minutes are spent
    FOLDER.mkdir(parents=True, exist_ok=True)
    pythons = {
        side: ensure(side.peer.name, side.peer.requirements, FOLDER / side.peer.name)
        for side in task.sides
        if side.peer
    }

    def work(side_and_seed: tuple[Side, int], core: list[int], stop: Stop) -> tuple[dict, dict]:
        side, seed = side_and_seed
        command = [str(pythons.get(side, sys.executable)), *side.command, "--bar", str(task.bar), "--seed", str(seed)]
        return timed(command, core, task.bar, figures["limit"], FOLDER / f"solve-{core[0]}.log", stop)

    wanted = [
        (side, seed)
        for seed in range(options.seeds)
        for side in task.sides
        if (seed < options.slow_seeds or not side.slow)
        and not any(run["seed"] == seed for run in figures["runs"][side.name])
    ]
    with closing(on_cores(work, wanted, cores)) as runs:
        for (side, seed), ended in runs:
            try:
                about, found = ended.result()
            except RunError as error:
                figures["failed"][f"{side.name}, seed {seed}"] = " ".join(str(error).split())
                print(f"{side.name}, seed {seed}: {error}", flush=True)
            else:
                figures["versions"][side.name] = about["versions"]
                figures["runs"][side.name].append({"seed": seed, **found})
                print(f"{side.name}, seed {seed}: {describe_run(found)}", flush=True)
            write_figures(options.json, figures)  # what is measured stays, whatever becomes of the rest
    if not any(figures["runs"].values()):
        raise RunError(f"nothing was measured: {'; '.join(figures['failed'].values())}")
    print(f"\n{solved_table(figures)}")
    return 0


def new_figures(task: Task, options: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    flags = [flag for flag in argv if flag != "--resume"]
    return describe_measurement("results.peers.solve", flags) | {
        "task": task.title,
        "bar": task.bar,
        "limit": options.limit or task.limit,
        "cores": options.cores,
        "versions": {},
        "runs": {side.name: [] for side in task.sides},
        "failed": {},
    }


def keep_runs(figures: dict[str, Any], path: Path) -> None:
    """Take over the runs that lie in `path`; UsageError where they are of something else."""
    kept = reopened(path, figures, fixed=("task", "bar", "limit", "machine", "cores"))
    for name in figures["runs"]:
        figures["runs"][name] = kept["runs"].get(name, [])
        if figures["runs"][name]:
            figures["versions"][name] = kept["versions"][name]


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m results.peers.solve",
        description="Measure the time to solve a task, of this project and of peers, each installed into runs/peers/.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("task", choices=TASKS, help="what to solve")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each side, which take turns")
    parser.add_argument("--slow-seeds", type=int, metavar="N", help="runs of each that may take an hour, if fewer")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="core-seconds after which a run is given up")
    parser.add_argument("--cores", type=int, default=1, help="runs at a time, each on a core of its own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--resume", action="store_true", help="keep the runs that FILE holds, and make the others")
    options = parser.parse_args(argv)
    if options.slow_seeds is None:
        options.slow_seeds = options.seeds
    if not 1 <= options.slow_seeds <= options.seeds:
        raise UsageError(f"1 <= --slow-seeds <= --seeds must hold, not {options.slow_seeds} and {options.seeds}")
    if options.resume and not options.json:
        raise UsageError("--resume needs --json FILE, the file of the runs to keep")
    if options.limit is not None and not options.limit > 0:
        raise UsageError(f"--limit must be greater than 0, not {options.limit}")
    return options


def timed(
    command: Sequence[str], cores: Sequence[int], bar: float, limit: float, log: Path, stop: Stop | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how a run on `cores` describes itself, and how it went, until it ended or used `limit` core-seconds.

    How it went is whether it came to `bar`, its mean return then, the usage until then, and a curve of points [steps,
    core-seconds, mean return].
    """
    curve: list[list[float | None]] = []
    with reports(command, cores, log, stop) as (_, lines):
        about = next(lines)
        mark = next(lines)
        begun = Usage.at(mark)
        spent = begun.since(begun)
        try:
            for mark in lines:
                spent = Usage.at(mark).since(begun)
                if not curve or spent.cpu >= curve[-1][1] + limit / POINTS:
                    curve.append([spent.steps, round(spent.cpu, 2), mark["mean_return"]])
                if _solved(mark, bar) or spent.cpu >= limit:
                    break
        except Ended:  # its own steps were over
            pass
    found = {"solved": _solved(mark, bar), "mean_return": mark["mean_return"], **spent._asdict(), "curve": curve}
    return about, found


def _solved(mark: dict[str, Any], bar: float) -> bool:
    return mark["mean_return"] is not None and mark["mean_return"] >= bar


if __name__ == "__main__":
    main_guard(main)
