"""A whole run: base model, evaluation before, training with its consumers, evaluation after, model, summary."""

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runners.cli import new_folder
from runners.lm.cli import parse
from runners.lm.config import LMConfig, to_dict
from runners.lm.evaluation import evaluate
from runners.lm.model import save_model
from runners.lm.training import Row, Training
from runners.machine.devices import device_named
from runners.machine.ranks import join
from runners.machine.signals import StopSignal
from runners.records.checkpoint import Checkpoints, fits
from runners.records.display import Display
from runners.records.files import write_atomically
from runners.records.metrics import EM_CHARTS, CsvLog, TensorBoardLog, chart
from runners.records.provenance import git_commit, machine, package_versions

FIELDS = {
    "rollouts": "rollouts",
    "updates": "updates",
    "reward/train": "mean reward",
    "e_step/eta": "eta",
    "m_step/alpha": "alpha",
    "m_step/kl": "KL",
}
LAYOUT = {
    "Learning": {
        "reward": chart("reward/(train|data|start|eval.*)"),
        "tokens of a completion": chart("reward/tokens"),
        "gradient norm": chart("m_step/gradient_norm"),
    },
    **EM_CHARTS,
}
PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


def main(argv: list[str]) -> int:
    """`python -m runners.lm`: returns the exit code."""
    config, resumed = parse(argv)
    commit = git_commit()  # of the code that is running, whatever becomes of the files meanwhile
    name = f"{name_of(config)}-{config.agent.method}-{config.learner.seed}"
    with join(device_named(config.learner.device)) as ranks:
        leads = ranks.rank == 0
        training = Training(config, ranks, fresh=resumed is None)
        if resumed:
            loaded = Checkpoints(resumed / "checkpoints").latest()
            with fits(loaded.path):
                training.set_state(loaded.state)
            if leads and loaded.warning:
                print(f"warning: {loaded.warning}")
        if leads:
            _lead(config, training, resumed or new_folder(config.learner.run_dir, name), commit)
        else:
            _follow(config, training)
    return 0


def _follow(config: LMConfig, training: Training) -> None:
    """Any rank but the first: it trains, and gives its parts of a sharded model where the first one wants it whole."""
    with training.policies.whole():
        pass
    if _train(config, training, lambda *_: None):
        with training.policies.whole():
            pass
        training.policies.get_state()


def _lead(config: LMConfig, training: Training, run_dir: Path, commit: str | None) -> None:
    """The first rank, or the only one: it trains like the others, and keeps the run's folder."""
    write_atomically(run_dir / "config.json", json.dumps(to_dict(config), indent=2).encode())
    count = sum(p.numel() for p in training.learner.trained)
    print(f"{name_of(config)}: {config.agent.method}, {count:,} parameters to train, {run_dir}")
    print(f"watch: tensorboard --logdir {run_dir}")
    with training.policies.whole():
        training.before = training.before or evaluate(config, training.problem, training.model)

    with TensorBoardLog(run_dir, training.rollouts, LAYOUT) as board:
        table, checkpoints = CsvLog(run_dir / "metrics.csv", training.rollouts), Checkpoints(run_dir / "checkpoints")
        title = f"{name_of(config)} {config.agent.method}"
        with Display(config.learner.rollouts, title, fields=FIELDS) as display:

            def keep(row: Row, state: dict[str, Any] | None) -> None:
                if row:
                    table.write(training.rollouts, row)
                    board.scalars(training.rollouts, row)
                    display.update(row)
                if state:
                    checkpoints.save_last(training.rollouts, state)

            done = _train(config, training, keep)
        if not done:
            print(f"stopped at rollout {training.rollouts:,}; continue: python -m runners.lm --resume {run_dir}")
            return
        with training.policies.whole():
            after = evaluate(config, training.problem, training.model)
        scores = {"reward/evaluation": after["mean"], "reward/evaluation_greedy": after["greedy"]}
        board.scalars(training.rollouts, scores)
        flat = {k: v for part in to_dict(config).values() for k, v in part.items() if isinstance(v, int | float | str)}
        board.hyperparameters(flat, ("reward/evaluation",))
    trained = training.policies.get_state()["model"]
    save_model(training.model, training.problem.tokenizer, run_dir / "model", trained)
    summary = {
        "method": config.agent.method,
        "task": name_of(config),
        "model": config.data.model,
        "seed": config.learner.seed,
        "rollouts": training.rollouts,
        "updates": training.learner.updates,
        "wall_seconds": training.wall_seconds,
        "cpu_seconds": training.cpu_seconds,
        "ranks": training.ranks.size,
        "parameters": count,
        "eval": after,
        "base": training.before,
        "versions": package_versions(PACKAGES),
        "git_commit": commit,
        "machine": {**machine(), "device": str(training.device)},
    }
    write_atomically(run_dir / "summary.json", json.dumps(summary, indent=2, allow_nan=False).encode())
    _show(training.before, after)
    print(
        f"{training.rollouts:,} rollouts, {training.learner.updates:,} updates in {training.wall_seconds:.0f} s "
        f"({1000 * training.cpu_seconds / training.rollouts:.0f} ms of a core each); {run_dir / 'summary.json'}"
    )


def _train(config: LMConfig, training: Training, keep: Callable[[Row, dict[str, Any] | None], None]) -> bool:
    """`keep` sees each batch's row of metrics and, where one is to be saved, the state. True when the budget is spent,
    False when a signal stopped the run; saved either way. On every rank alike."""
    saved = -float("inf")  # the first rollout is saved at once: from then on a killed run resumes
    with StopSignal() as stop:
        for row in training.run():
            stopping = training.ranks.any(stop.asked)
            saving = training.ranks.any(stopping or monotonic() - saved >= config.learner.checkpoint_seconds)
            keep(row, training.get_state() if saving else None)
            saved = monotonic() if saving else saved
            if stopping:
                return False
        keep({}, training.get_state())
    return True


def _show(before: dict[str, Any], after: dict[str, Any]) -> None:
    """A table of before and after, and what the model says to the first prompts."""
    console = Console()
    judged = after["greedy"] is not None
    table = Table("", "before", "after", caption=after["protocol"])
    table.add_row("reward, sampled" if judged else "likelihood", _number(before["mean"]), _number(after["mean"]))
    if judged:
        table.add_row("reward, greedy", _number(before["greedy"]), _number(after["greedy"]))
    console.print(table)
    samples = Table("prompt", "before", "reward", "after", "reward")
    for old, new in zip(before["samples"], after["samples"], strict=True):
        texts = (Text(old["prompt"]), Text(old["completion"]), Text(new["completion"]))  # brackets are no markup
        samples.add_row(texts[0], texts[1], _number(old["reward"]), texts[2], _number(new["reward"]))
    console.print(samples)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def name_of(config: LMConfig) -> str:
    """Of what is learned."""
    return Path(config.data.data).stem if config.data.data else config.data.task
