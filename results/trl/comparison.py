"""The whole comparison: for each seed its data, then every run that is missing, one after the other."""

import argparse
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from results import RUNS
from results.store import Figures, describe_measurement, make_folder, reopened, write_figures
from results.trl.catalogue import METHODS, TASKS, Method, packages
from results.trl.data import Inputs, prepare
from results.trl.dpo import check
from results.trl.runs import arguments, from_root, run, score
from results.trl.table import milliseconds, runs_of, table
from results.venvs import ensure
from runners.errors import Parser, RunError, UsageError
from runners.records.provenance import git_commit

FOLDER = RUNS / "trl"
BASES = RUNS / "bases"


def main(argv: list[str]) -> int:
    """Run `python -m results.trl` and return the exit code."""
    options = parse_options(argv)
    torch.set_num_threads(1)
    if options.check_dpo:
        print(check(install(), options.task, BASES, FOLDER / "check"))
        return 0
    figures = opened(options, argv)
    missing = {
        seed: todo
        for seed in range(options.seeds)
        if (todo := [m for m in METHODS if all(run["seed"] != seed for run in runs_of(m, figures["runs"]))])
    }
    python = install() if missing else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run ends with this process
    failures = []
    for seed, methods in missing.items():
        folder = FOLDER / options.task / f"seed{seed}"
        inputs = prepare(options.task, seed, options.rollouts, BASES, folder)
        before = score(options.task, inputs.model)
        for method in methods:
            try:
                found = measure(method, seed, options, inputs, folder / method.name, python)
            except RunError as error:
                failures.append(f"{method.name}, seed {seed}: {error}")
                print(failures[-1], flush=True)
                continue
            figures["runs"].append(asdict(method) | {"seed": seed, "before": before} | found)
            write_figures(options.json, figures)  # after each run, so that this can be stopped and gone on with
            reached = f"{found['mean']:.3f} sampled, {found['greedy']:.3f} greedy"
            print(f"{method.name}, seed {seed}: {reached}, {milliseconds(found):.0f} ms a batch", flush=True)
    print(f"\n{table(figures)}")
    if failures:
        raise RunError(f"{len(failures)} runs failed, the first: {failures[0]}")
    return 0


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m results.trl",
        description="Train small language models with TRL, which is installed into runs/trl/, and with this project, "
        "in turn for each seed. With --json, what FILE holds already is not run again.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--task", choices=TASKS, default="sort", help="a task of runners.lm")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each method, with the seeds 0, 1, ...")
    parser.add_argument("--rollouts", type=int, default=200, help="rollouts of a run, or batches of pairs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also keep the figures in FILE, run by run")
    parser.add_argument("--check-dpo", action="store_true", help="only compare the two losses of DPO on the same pairs")
    options = parser.parse_args(argv)
    for name in ("seeds", "rollouts"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} must be at least 1, not {getattr(options, name)}")
    return options


def opened(options: argparse.Namespace, argv: list[str]) -> Figures:
    """Return the figures in the file of --json, or figures without runs; UsageError for those of another comparison."""
    about = describe_measurement("results.trl", argv)
    new = about | {"task": options.task, "rollouts": options.rollouts, "runs": []}
    del new["versions"]  # each run has its own
    make_folder(options.json)  # before minutes are spent
    return reopened(options.json, new, fixed=("task", "rollouts", "machine")) | {"command": about["command"]}


def install() -> Path:
    """Return the Python of TRL's environment."""
    try:
        return ensure("trl", packages(), FOLDER)
    except RunError as error:
        raise RunError(f"trl {error}") from error


def measure(
    method: Method, seed: int, options: argparse.Namespace, inputs: Inputs, folder: Path, python: Path
) -> Figures:
    """Return a run's score and cost, with the command as a user would type it."""
    rest = arguments(method, options.task, seed, options.rollouts, inputs, folder)
    executable, shown = (str(python), from_root(python)) if method.library == "TRL" else (sys.executable, "python")
    summary = run([executable, *rest], folder)
    if (steps := summary["updates"]) != (asked := options.rollouts * method.updates):
        raise RunError(f"it took {steps} gradient steps, not {asked}")
    kept = {name: summary[name] for name in ("rollouts", "cpu_seconds", "wall_seconds", "versions")}
    return {"command": [shown, *rest], **score(options.task, folder / "model"), **kept, "git_commit": git_commit()}
