"""Time until CartPole-v1 is solved, here and by stable-baselines3, in turn: `python -m results.peers.solve`.

Solved is a mean return of 475 over the last 100 training episodes; start-up does not count.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from results.experiment import ROOT, RUNS
from results.peers.accounting import ONE_THREAD
from results.peers.catalogue import SB3
from results.peers.table import solved_table, told
from results.peers.venvs import ensure
from runners.errors import Parser, RunError, UsageError, main_guard
from runners.files import write_atomically
from runners.provenance import machine

BAR = 475.0
PEER = "stable-baselines3, PPO, settings of its zoo"
OURS = {f"GEMPI, {rule}, {core}": (rule, core) for core in ("feedforward", "lstm", "gtrxl") for rule in ("vmpo", "ppo")}


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="python -m results.peers.solve",
        description="Measure the time to solve CartPole-v1, of this project and of stable-baselines3.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each side, which take turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args(argv)
    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {options.seeds}")
    python = ensure(SB3, RUNS / "peers" / SB3.name)
    commands = {PEER: [str(python), "results/peers/drivers/sb3_cartpole.py"]}
    ours = [sys.executable, "-m", "results.peers.ours_cartpole"]
    commands |= {name: [*ours, "--agent", rule, "--core", core] for name, (rule, core) in OURS.items()}
    figures = {
        "command": ["python", "-m", "results.peers.solve", *argv],
        "bar": BAR,
        "machine": machine(),
        "versions": {},
        "runs": {name: [] for name in commands},
    }
    if options.json:  # before minutes are spent
        options.json.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for name, command in commands.items():
            about, run = timed([*command, "--bar", str(BAR), "--seed", str(seed)])
            figures["versions"][name] = about["versions"]
            figures["runs"][name].append(run)
            print(f"{name}, seed {seed}: {told(run)}", flush=True)
            if options.json:  # what is measured stays, whatever becomes of the rest
                write_atomically(options.json, json.dumps(figures, indent=2).encode())
    print(f"\n{solved_table(figures)}")
    return 0


def timed(command: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run on one core says of itself, and the steps, wall and processor seconds that it took to the bar; steps
    None where it ended before."""
    pin = partial(os.sched_setaffinity, 0, sorted(os.sched_getaffinity(0))[-1:])
    how = {"cwd": ROOT, "env": os.environ | ONE_THREAD, "start_new_session": True, "preexec_fn": pin}
    done = subprocess.run(command, capture_output=True, text=True, **how)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RunError(f"{' '.join(command)} ended with exit code {done.returncode}: {said[-1]}")
    about, begun, *ended = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not ended:
        return about, {"steps": None}
    return about, {"steps": ended[-1]["steps"]} | {name: ended[-1][name] - begun[name] for name in ("wall", "cpu")}


if __name__ == "__main__":
    main_guard(main)
