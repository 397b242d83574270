"""Time until CartPole-v1 or Pong is solved, here and by peers: `python -m results.peers.solve cartpole`, or pong.

Every run has one core and one thread. Solved is a mean return of the last 100 training episodes at the task's bar;
start-up does not count.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from results.experiment import ROOT, RUNS
from results.peers.accounting import Ended, between, reports, usage_at
from results.peers.catalogue import CLEANRL_STYLE, PEERS_CNN, SB3, THEIR_SHAPE, Comparison, Peer
from results.peers.table import solved_table, told
from results.peers.venvs import ensure
from runners.errors import Parser, RunError, UsageError, main_guard
from runners.records.files import write_atomically
from runners.records.provenance import machine

FOLDER = RUNS / "peers"
POINTS = 100
"""Of a curve that is kept, at most: a point each time that a hundredth of the limit has passed."""


@dataclass(frozen=True)
class Side:
    """A way to solve a task: a driver of `peer` with its flags or, where there is no peer, results.peers.ours."""

    name: str
    command: tuple[str, ...]
    peer: Peer | None = None
    slow: bool = False
    """Whether it may take an hour."""


@dataclass(frozen=True)
class Task:
    """`bar` is a mean return, `limit` core-seconds."""

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
    options = _options(argv)
    task = TASKS[options.task]
    limit = options.limit or task.limit
    figures: dict[str, Any] = {
        "command": ["python", "-m", "results.peers.solve", *(flag for flag in argv if flag != "--resume")],
        "task": task.title,
        "bar": task.bar,
        "limit": limit,
        "machine": machine(),
        "cores": options.cores,
        "versions": {},
        "runs": {side.name: [] for side in task.sides},
        "failed": {},
    }
    if options.json:  # before minutes are spent
        options.json.parent.mkdir(parents=True, exist_ok=True)
    if options.resume:
        keep(figures, options.json)
    FOLDER.mkdir(parents=True, exist_ok=True)
    pythons = {side: ensure(side.peer, FOLDER / side.peer.name) for side in task.sides if side.peer}

    def run(side: Side, seed: int, core: int, stopped: Callable[[], bool]) -> tuple[dict, dict]:
        command = [str(pythons.get(side, sys.executable)), *side.command, "--bar", str(task.bar), "--seed", str(seed)]
        return timed(command, core, task.bar, limit, FOLDER / f"solve-{core}.log", stopped)

    wanted = [
        (side, seed)
        for seed in range(options.seeds)
        for side in task.sides
        if (seed < options.slow_seeds or not side.slow)
        and not any(run["seed"] == seed for run in figures["runs"][side.name])
    ]
    for side, seed, ended in on_cores(run, wanted, sorted(os.sched_getaffinity(0))[-options.cores :]):
        try:
            about, found = ended.result()
        except RunError as error:
            figures["failed"][f"{side.name}, seed {seed}"] = " ".join(str(error).split())
            print(f"{side.name}, seed {seed}: {error}", flush=True)
        else:
            figures["versions"][side.name] = about["versions"]
            figures["runs"][side.name].append({"seed": seed, **found})
            print(f"{side.name}, seed {seed}: {told(found)}", flush=True)
        if options.json:  # what is measured stays, whatever becomes of the rest
            write_atomically(options.json, json.dumps(figures).encode())
    if not any(figures["runs"].values()):
        raise RunError(f"nothing was measured: {'; '.join(figures['failed'].values())}")
    print(f"\n{solved_table(figures)}")
    return 0


def keep(figures: dict[str, Any], path: Path) -> None:
    """Takes over the runs that lie in `path`; UsageError where they are of something else."""
    try:
        kept = json.loads(path.read_text())
    except FileNotFoundError:
        return
    for name in ("task", "bar", "limit", "machine", "cores"):
        if kept[name] != figures[name]:
            raise UsageError(f"--resume: {path} has {name} {kept[name]}, not {figures[name]}; take another file")
    for name in figures["runs"]:
        figures["runs"][name] = kept["runs"].get(name, [])
        figures["versions"] |= {name: kept["versions"][name]} if figures["runs"][name] else {}


def on_cores(
    run: Callable[[Side, int, int, Callable[[], bool]], Any], wanted: Sequence[tuple[Side, int]], cores: Sequence[int]
) -> Iterator[tuple[Side, int, Future]]:
    """Calls `run` for each of `wanted`, one at a time on each of `cores`; gives them as they end. `run` is told by its
    last argument when this is left before."""
    free: SimpleQueue[int] = SimpleQueue()
    for core in cores:
        free.put(core)
    left = Event()

    def on_a_core(side: Side, seed: int) -> Any:
        core = free.get()
        try:
            return run(side, seed, core, left.is_set)
        finally:
            free.put(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        runs = {pool.submit(on_a_core, *each): each for each in wanted}
        try:
            for ended in as_completed(runs):
                yield *runs[ended], ended
        finally:
            left.set()
            pool.shutdown(cancel_futures=True)


def _options(argv: list[str]) -> argparse.Namespace:
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
    there = len(os.sched_getaffinity(0))
    if not 1 <= options.cores <= there:
        raise UsageError(f"--cores must lie in 1..{there}, the cores of this process, not {options.cores}")
    if not 1 <= options.slow_seeds <= options.seeds:
        raise UsageError(f"1 <= --slow-seeds <= --seeds must hold, not {options.slow_seeds} and {options.seeds}")
    if options.resume and not options.json:
        raise UsageError("--resume needs --json FILE, the file of the runs to keep")
    if options.limit is not None and not options.limit > 0:
        raise UsageError(f"--limit must be greater than 0, not {options.limit}")
    return options


def timed(
    command: Sequence[str], core: int, bar: float, limit: float, log: Path, stopped: Callable[[], bool] = lambda: False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run on `core` says of itself, and how it went: whether it came to `bar`, its mean return then, or where it
    ended, or after `limit` core-seconds, the usage until then, and a curve of [steps, core-seconds, mean return]."""
    curve: list[list[float | None]] = []
    with reports(command, [core], ROOT, log, stopped) as (_, lines):
        about = next(lines)
        mark = next(lines)
        begun = usage_at(mark)
        spent = between(begun, begun)
        try:
            for mark in lines:
                spent = between(begun, usage_at(mark))
                if not curve or spent.cpu >= curve[-1][1] + limit / POINTS:
                    curve.append([spent.steps, round(spent.cpu, 2), mark["mean_return"]])
                if _solved(mark, bar) or spent.cpu >= limit:
                    break
        except Ended as ended:
            if ended.code:
                raise
    found = {"solved": _solved(mark, bar), "mean_return": mark["mean_return"], **spent._asdict(), "curve": curve}
    return about, found


def _solved(mark: dict[str, Any], bar: float) -> bool:
    return mark["mean_return"] is not None and mark["mean_return"] >= bar


if __name__ == "__main__":
    main_guard(main)
