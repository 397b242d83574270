"""The whole comparison: for each seed its data, then every run that is missing, one after the other."""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from results import RUNS, jobs
from results.comparison import above_zero, complete, from_root, opened
from results.jobs import Stop, last_cores
from results.store import Figures, read_figures
from results.trl.catalogue import CHOICES, METHODS, PACKAGES, TASKS, Method
from results.trl.data import Inputs, prepare
from results.trl.table import milliseconds, runs_of, table
from results.venvs import ensure
from runners.errors import Parser, RunError
from runners.lm.cli import parse
from runners.lm.evaluation import evaluate
from runners.lm.training import make_problem
from runners.records.provenance import git_commit

FOLDER, BASES = RUNS / "trl", RUNS / "bases"
QUIET = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def main(argv: list[str]) -> int:
    options = parse_options(argv)
    torch.set_num_threads(1)
    figures = opened(options.json, "results.trl", argv, {"task": options.task, "rollouts": options.rollouts})
    wanted = {
        f"{method.name}, seed {seed}": (method, seed)
        for seed in range(options.seeds)
        for method in METHODS
        if all(run["seed"] != seed for run in runs_of(method, figures["runs"]))
    }
    python = ensure("trl", PACKAGES, FOLDER) if wanted else None

    @cache
    def shared(seed: int) -> tuple[Inputs, dict[str, float]]:
        """Return the inputs of a seed's runs, and how good the base model is."""
        inputs = prepare(options.task, seed, options.rollouts, BASES, FOLDER / options.task / f"seed{seed}")
        return inputs, score(options.task, inputs.model)

    def work(item: tuple[Method, int], cores: list[int], stop: Stop) -> Figures:
        method, seed = item
        inputs, before = shared(seed)
        folder = FOLDER / options.task / f"seed{seed}" / method.name
        command = command_of(method, options.task, seed, options.rollouts, inputs, folder, python)
        summary = run(command, folder, cores, stop)
        if (steps := summary["updates"]) != (asked := options.rollouts * method.updates):
            raise RunError(f"it took {steps} gradient steps, not {asked}")
        found = {name: summary[name] for name in ("rollouts", "cpu_seconds", "wall_seconds", "versions")}
        found |= score(options.task, folder / "model") | {"command": command, "git_commit": git_commit()}
        reached = f"{found['mean']:.3f} sampled, {found['greedy']:.3f} greedy"
        print(f"{method.name}, seed {seed}: {reached}, {milliseconds(found):.0f} ms a batch", flush=True)
        return asdict(method) | {"seed": seed, "before": before} | found

    complete(figures, options.json, wanted, work, table, last_cores(1))
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
    options = parser.parse_args(argv)
    above_zero(options, "seeds", "rollouts")
    return options


def command_of(
    method: Method, task: str, seed: int, rollouts: int, inputs: Inputs, folder: Path, python: Path
) -> list[str]:
    """Return the command of a run as a user would type it in the repository's root; `python` is that of TRL."""
    flags = f"--method {method.method} {CHOICES.get(method.method, '')} --learning-rate {method.learning_rate:g}"
    flags += f" --updates {method.updates} --rollouts {rollouts} --seed {seed} --run-dir {from_root(folder)}"
    data = from_root(inputs.pairs if method.offline else inputs.prompts)
    given = f"--model {from_root(inputs.model)} --data {data} --completion-length {inputs.completion_length}"
    if method.library == "TRL":
        words = f"{from_root(python)} -m results.trl.driver {flags} {given} --task {task}"
    elif method.offline:  # every pair is learned from; the evaluation of one of them is not used
        words = f"python -m runners.lm {flags} {given} --eval-data {data} --eval-prompts 1 --device cpu"
    else:
        words = f"python -m runners.lm {flags} --task {task} --base-dir {from_root(inputs.model.parent)} --device cpu"
    return words.split()


def run(command: Sequence[str], folder: Path, cores: Sequence[int], stop: Stop | None = None) -> Figures:
    """Return the summary that `command` leaves in `folder`, which is made anew; its output goes to a file beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    jobs.finish(command, cores, folder.with_name(f"{folder.name}.log"), QUIET, stop)
    return read_figures(folder / "summary.json")


def score(task: str, model: Path) -> dict[str, float]:
    """Return the reward on the held-out prompts, sampled (`mean`) and `greedy`."""
    config, _ = parse(["--task", task, "--model", str(model), "--device", "cpu"])
    found = evaluate(config, *make_problem(config, torch.device("cpu"), fresh=True))
    return {name: found[name] for name in ("mean", "greedy")}
