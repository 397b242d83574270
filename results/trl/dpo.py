"""The loss of DPO in both libraries, from the same pairs and the same two models: `--check-dpo`."""

import math
from pathlib import Path

from results.trl.catalogue import Method
from results.trl.data import prepare
from results.trl.runs import arguments, run
from runners.errors import RunError
from runners.lm.cli import parse
from runners.lm.model import load_model
from runners.lm.training import Training

TOLERANCE = 1e-6


def check(python: Path, task: str, bases: Path, folder: Path) -> str:
    """Return in words the losses and the norms of their gradients; RunError where they differ by more than TOLERANCE.

    The policy is the base model of random seed 1, the reference that of seed 0.
    """
    inputs, policy = (prepare(task, seed, 1, bases, folder / f"seed{seed}") for seed in (0, 1))
    flags = arguments(Method("TRL", "dpo", 1e-5), task, 0, 1, inputs, folder / "trl")
    theirs = run([str(python), *flags, "--policy", str(policy.model)], folder / "trl")

    pairs = str(inputs.pairs)
    count = len(inputs.pairs.read_text().splitlines())
    data = ["--model", str(inputs.model), "--data", pairs, "--eval-data", pairs, "--prompts", str(count)]
    data += ["--completion-length", str(inputs.completion_length), "--device", "cpu"]
    training = Training(parse(["--method", "dpo", *data])[0])
    training.model.load_state_dict(load_model(str(policy.model)).state_dict())
    batch = training.batches.next()
    metrics = training.learner.train(batch, training.learner.plan(batch.samples, 1))
    ours = {"loss": metrics["m_step/policy_loss"].item(), "gradient_norm": metrics["m_step/gradient_norm"].item()}

    both = (f"{name.replace('_', ' ')} {theirs[name]:.8f} in TRL, {ours[name]:.8f} here" for name in ours)
    compared = f"DPO on {count} pairs of {task}: {'; '.join(both)}"
    for name, value in ours.items():
        if not math.isclose(value, theirs[name], rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            raise RunError(f"{compared}: the {name.replace('_', ' ')} differs by {abs(value - theirs[name]):.1e}")
    return compared
