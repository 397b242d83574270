"""A whole run: folder, training with its consumers, evaluation, video, summary."""

import json
import math
from dataclasses import replace
from pathlib import Path
from time import monotonic

from envs.interface import EnvError
from networks.torsos import torso_of
from runners.acting.weights import evaluated
from runners.build import CHOICE, parts_of, pick_device
from runners.cli import new_folder, parse
from runners.config import RunConfig, to_dict
from runners.evaluation import evaluate, figure, record_video, worst_mean
from runners.machine.ranks import join
from runners.machine.signals import StopSignal
from runners.records.checkpoint import Checkpoints, fits
from runners.records.display import Display
from runners.records.files import write_atomically
from runners.records.metrics import CsvLog, TensorBoardLog
from runners.records.provenance import git_commit, machine, package_versions
from runners.training import Training

CHOICE_STEPS = 200_000
"""Most agent steps of an evaluation while training: enough for 30 games of Pong."""


def main(suite: str, argv: list[str]) -> int:
    """`python -m runners.atari` and `runners.control`: returns the exit code."""
    config, resumed = parse(suite, argv)
    name = f"{config.env.name}-{config.agent.agent}-{config.network.core}-{config.training.seed}"
    with join(pick_device(config)) as ranks:
        training = Training(config, ranks, fresh=resumed is None)
        loaded = Checkpoints(resumed / "checkpoints").latest() if resumed else None
        if loaded:
            with fits(loaded.path):
                training.set_state(loaded.state)
        if ranks.rank == 0:
            run_dir = resumed or new_folder(config.training.run_dir, name)
            return _lead(suite, config, training, run_dir, loaded.warning if loaded else "")
        with StopSignal() as stop:
            for _ in training.run():
                if ranks.any(stop.asked):
                    break
    return 0


def _lead(suite: str, config: RunConfig, training: Training, run_dir: Path, warning: str) -> int:
    """The first rank, or the only one: it trains like the others, and keeps the run's folder."""
    commit = git_commit()  # of the code that is running, whatever becomes of the files meanwhile
    checkpoints = Checkpoints(run_dir / "checkpoints")
    if warning:
        print(f"warning: {warning}")
    (run_dir / "videos").mkdir(exist_ok=True)
    write_atomically(run_dir / "config.json", json.dumps(to_dict(config), indent=2).encode())
    print(
        f"{config.env.name}: {config.agent.agent} + {config.network.core}, {_count(training):,} parameters, {run_dir}"
    )
    print(f"{_division(config, training)}; torso in {training.config.training.precision}")
    print(f"observes {_observed(training)}")
    print(f"watch: tensorboard --logdir {run_dir}")

    with TensorBoardLog(run_dir, training.steps) as board:
        if not _train(config, training, checkpoints, CsvLog(run_dir / "metrics.csv", training.steps), board):
            print(f"stopped at step {training.steps:,}; continue: python -m runners.{suite} --resume {run_dir}")
            return 0
        _finish(config, training, checkpoints, run_dir, board, commit)
    return 0


def _division(config: RunConfig, training: Training) -> str:
    """Say who steps the environments."""
    actors, envs, own = config.training.actors, config.training.envs, training.learner_envs
    if not actors:
        turns = f", by turns in {training.groups} groups," if training.groups > 1 else ""
        return f"one process steps {envs} environments{turns} and learns"
    return f"{actors} actor{'s' * (actors > 1)} and {own} of {envs} environments stepped by the learner"


def _observed(training: Training) -> str:
    """Say what the network sees, and by which torso."""
    parts = parts_of(training.config, training.spec)
    named = []
    for part, shown in zip(parts, training.spec.parts, strict=True):
        name = f"{shown.name}: " if shown.name else ""
        named.append(f"{name}{part.kind} {part.shape}{', normalised' if part.normalised else ''}")
    torso = torso_of(parts)
    if torso in ("nature", "small") and training.config.network.torso != "auto":
        torso = training.config.network.torso
    return f"{'; '.join(named)}; torso {torso}"


def _train(
    config: RunConfig, training: Training, checkpoints: Checkpoints, table: CsvLog, board: TensorBoardLog
) -> bool:
    """True when the budget is spent, False when a signal stopped the run; saved either way."""
    title = f"{config.env.name} {config.agent.agent} + {config.network.core}"
    saved = -float("inf")  # the first batch is saved at once: from then on a killed run resumes
    with StopSignal() as stop, Display(config.training.steps, title) as display:
        for row in training.run():
            if row:
                table.write(training.steps, row)
                board.scalars(training.steps, row)
                display.update(row)
            if _evaluations_due(config, training.steps) > _evaluations_due(config, training.evaluated_at):
                board.scalars(training.steps, _choose(config, training, checkpoints))
            stopping = training.ranks.any(stop.asked)
            if stopping or monotonic() - saved >= config.training.checkpoint_seconds:
                _save(training, checkpoints)
                saved = monotonic()
            if stopping:
                return False
        if config.training.evaluations and training.evaluated_at < training.steps:
            board.scalars(training.steps, _choose(config, training, checkpoints))
    _save(training, checkpoints)
    return True


def _evaluations_due(config: RunConfig, steps: int) -> int:
    """Count the evaluations that belong to the first `steps` of the run."""
    training = config.training
    began = round(training.eval_from * training.steps)
    return max(0, training.evaluations * (steps - began) // (training.steps - began))


def _choose(config: RunConfig, training: Training, checkpoints: Checkpoints) -> dict[str, float]:
    """Evaluate the weights as they are, and keep them where none did better; returns scalars to log."""
    training.evaluated_at = training.steps
    steps = min(config.training.eval_steps, CHOICE_STEPS)
    short = replace(config, training=replace(config.training, eval_steps=steps))
    result = evaluate(short, training.acting_network(), config.training.eval_episodes, stream=CHOICE)
    if (score := worst_mean(result)) >= training.best_return:  # of two alike the later one has learned more
        training.best_return = score
        checkpoints.save_best(training.steps, training.get_state())
    return {"return/evaluation": score}


def _save(training: Training, checkpoints: Checkpoints) -> None:
    checkpoints.save_last(training.steps, training.get_state())


def _finish(
    config: RunConfig,
    training: Training,
    checkpoints: Checkpoints,
    run_dir: Path,
    board: TensorBoardLog,
    commit: str | None,
) -> None:
    network = training.acting_network()
    if config.training.evaluations:
        best = checkpoints.best()
        network.load_state_dict(evaluated(best.state["learner"]))
        print(f"taking the weights of step {best.step:,}, which did best in the evaluations while training")
    print(f"evaluating {config.training.eval_episodes} episodes")
    result = evaluate(config, network, config.training.eval_episodes)
    board.scalars(training.steps, {"return/evaluation": result["mean"]})
    flat = {k: v for part in to_dict(config).values() for k, v in part.items() if isinstance(v, int | float | str)}
    board.hyperparameters(flat)
    summary = {
        "agent": config.agent.agent,
        "core": config.network.core,
        "gate": config.network.gate if config.network.core == "gtrxl" else None,
        "env": config.env.name,
        "preset": config.training.preset,
        "precision": training.config.training.precision,
        "learner_envs": training.learner_envs,
        "seed": config.training.seed,
        "steps": training.steps,
        "frames": training.frames,
        "wall_seconds": training.wall_seconds,
        "cpu_seconds": training.cpu_seconds,
        "steps_per_second": training.steps / training.wall_seconds,
        "train_return": _known(training.tracker.mean_return),
        "ranks": training.ranks.size,
        "parameters": _count(training),
        "eval": result,
        "versions": package_versions(),
        "git_commit": commit,
        "machine": {**machine(), "device": str(training.device)},
    }
    write_atomically(run_dir / "summary.json", json.dumps(summary, indent=2, allow_nan=False).encode())
    by_mode = f" by samples, {figure(result['by_mode']['mean'])} by the mode" if "by_mode" in result else ""
    print(
        f"evaluation: {figure(result['mean'])} +- {figure(result['std'])}{by_mode} over {result['episodes']} episodes; "
        f"{training.steps:,} steps in {training.wall_seconds:.0f} s ({summary['steps_per_second']:,.0f} a second); "
        f"{run_dir / 'summary.json'}"
    )
    if config.training.video:
        path = run_dir / "videos" / "episode.gif"
        try:
            board.video(training.steps, "episode", record_video(config, network, path))
        except EnvError as error:
            print(f"no video: {error}")


def _known(x: float) -> float | None:
    return None if math.isnan(x) else x


def _count(training: Training) -> int:
    return sum(p.numel() for p in training.network.parameters() if p.requires_grad)
