"""One run of either side: its command, its process, and how good its model is by this project's evaluation."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from results import ROOT, jobs
from results.store import Figures, read_figures
from results.trl.catalogue import CHOICES, Method
from results.trl.data import Inputs
from runners.lm.cli import parse
from runners.lm.evaluation import evaluate
from runners.lm.training import make_problem

DRIVER = "results/trl/drivers/train.py"
QUIET = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def arguments(method: Method, task: str, seed: int, rollouts: int, inputs: Inputs, folder: Path) -> list[str]:
    """Return what follows the Python of the method's side; paths are relative to the repository's root."""
    flags = ["--method", method.method, *CHOICES.get(method.method, ()), "--learning-rate", f"{method.learning_rate:g}"]
    flags += ["--updates", str(method.updates), "--rollouts", str(rollouts), "--seed", str(seed)]
    flags += ["--run-dir", from_root(folder)]
    data = from_root(inputs.pairs if method.offline else inputs.prompts)
    given = ["--model", from_root(inputs.model), "--data", data]
    given += ["--completion-length", str(inputs.completion_length)]
    if method.library == "TRL":
        return [DRIVER, *flags, *given, *([] if method.offline else ["--reward", task])]
    ours = ["-m", "runners.lm", *flags, "--device", "cpu"]
    if method.offline:  # every pair is learned from; the evaluation of one of them is not used
        return [*ours, *given, "--eval-data", data, "--eval-prompts", "1"]
    return [*ours, "--task", task, "--base-dir", from_root(inputs.model.parent)]


def from_root(path: Path) -> str:
    return os.path.relpath(path, ROOT)


def run(command: Sequence[str], folder: Path) -> Figures:
    """Return the summary that `command` leaves in `folder`, which is made anew; RunError where it fails.

    It has one core and one torch thread. What it prints goes to a file beside the folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    jobs.finish(command, jobs.last_cores(1), folder.with_name(f"{folder.name}.log"), QUIET)
    return read_figures(folder / "summary.json")


def score(task: str, model: Path) -> dict[str, float]:
    """Return the reward on the held-out prompts, sampled (`mean`) and `greedy`."""
    config, _ = parse(["--task", task, "--model", str(model), "--device", "cpu"])
    found = evaluate(config, *make_problem(config, torch.device("cpu"), fresh=True))
    return {name: found[name] for name in ("mean", "greedy")}
