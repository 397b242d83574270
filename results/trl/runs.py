"""One run of either side: its command, on a core of its own, and how good its model is by this project's evaluation."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from results.experiment import ROOT
from results.peers.accounting import ONE_THREAD, last_words
from results.trl.catalogue import CHOICES, Method
from results.trl.data import Inputs
from runners.errors import RunError
from runners.lm.cli import parse
from runners.lm.evaluation import evaluate
from runners.lm.training import make_problem

DRIVER = "results/trl/drivers/train.py"
QUIET = ONE_THREAD | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def arguments(method: Method, task: str, seed: int, rollouts: int, inputs: Inputs, folder: Path) -> list[str]:
    """What follows the Python of the method's side; paths as seen from the repository's root."""
    flags = ["--method", method.method, *CHOICES.get(method.method, ()), "--learning-rate", f"{method.learning_rate:g}"]
    flags += ["--updates", str(method.updates), "--rollouts", str(rollouts), "--seed", str(seed)]
    flags += ["--run-dir", seen(folder)]
    data = seen(inputs.pairs if method.offline else inputs.prompts)
    given = ["--model", seen(inputs.model), "--data", data, "--completion-length", str(inputs.completion_length)]
    if method.library == "TRL":
        return [DRIVER, *flags, *given, *([] if method.offline else ["--reward", task])]
    ours = ["-m", "runners.lm", *flags, "--device", "cpu"]
    if method.offline:  # every pair is learned from; what it thinks of one of them is not looked at
        return [*ours, *given, "--eval-data", data, "--eval-prompts", "1"]
    return [*ours, "--task", task, "--base-dir", seen(inputs.model.parent)]


def seen(path: Path) -> str:
    return os.path.relpath(path, ROOT)


def run(command: Sequence[str], folder: Path, core: int) -> dict[str, Any]:
    """The summary that `command` leaves in `folder`, which is made anew; RunError where it fails.

    On one core and with one torch thread. What it prints goes to a file beside the folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder.with_name(f"{folder.name}.log")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | QUIET
    with open(log, "wb") as output:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(os.sched_setaffinity, 0, [core]),
        )
    if done.returncode:
        raise RunError(f"it ended with exit code {done.returncode}: {last_words(log)}")
    return json.loads((folder / "summary.json").read_text())


def score(task: str, model: Path) -> dict[str, float]:
    """Reward on the held-out prompts, sampled (`mean`) and `greedy`."""
    config, _ = parse(["--task", task, "--model", str(model), "--device", "cpu"])
    found = evaluate(config, *make_problem(config, torch.device("cpu"), fresh=True))
    return {name: found[name] for name in ("mean", "greedy")}
