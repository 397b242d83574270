"""Command `python -m runners.evaluate RUN_DIR`: play episodes with a trained agent."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from envs.protocols import PROTOCOLS, under
from networks.actor_critic import ActorCritic
from runners.acting.weights import evaluated
from runners.attention import check_attends, record_attention
from runners.build import build_network, spec_of
from runners.cli import load_config, parse_flags
from runners.config import RunConfig, from_dict
from runners.errors import UsageError, main_guard, usage_errors
from runners.evaluation import evaluate, figure, record_video
from runners.machine.precision import settle_precision
from runners.records.checkpoint import Checkpoints, Loaded, fits
from runners.records.files import write_atomically
from runners.records.video import ffmpeg


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    run_dir: Annotated[str, tyro.conf.Positional]
    """Folder of a run."""
    episodes: int = 100
    """Episodes to play."""
    checkpoint: Literal["latest", "best"] | None = None
    """The newest checkpoint, or the best one in the evaluations of a run with --evaluations; by default the one that
    the run's final evaluation played: the best if there is one."""
    policy: Literal["mode", "sample", "both"] | None = None
    """Act by the policy's mode, samples of it, or both; by default as the run's final evaluation did."""
    protocol: Literal[tuple(PROTOCOLS)] | None = None
    """What Atari leaves to chance: up to 30 no-ops at the start, sticky actions of 0.25, or nothing; by default what
    the run's final evaluation did."""
    seed: int | None = None
    """Seed of environments and actions; by default that of the run's final evaluation."""
    video: bool = False
    """Also record an episode to videos/evaluation.mp4, or .gif where there is no ffmpeg."""
    attention: bool = False
    """Also record what a transformer attends to along an episode, and how far its gates open: attention.png, .npz."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"--episodes must be at least 1, not {self.episodes}")


def main(argv: list[str]) -> int:
    options = parse_flags(Options, "evaluate", "Play episodes with a trained agent.", argv)
    run_dir = Path(options.run_dir)
    config = asked_for(options, config_of(run_dir))
    torch.set_num_threads(1)
    _, network, loaded = load_run(run_dir, options.checkpoint)
    result = evaluate(config, network, options.episodes) | {"step": loaded.step, "checkpoint": loaded.path.name}
    for each in by_policy(result):
        normalised = f", human-normalised {each['human_normalised']:.1f}%" if "human_normalised" in each else ""
        print(
            f"{config.env.name} at step {loaded.step:,}: {figure(each['mean'])} +- {figure(each['std'])}{normalised}, "
            f"median {each['median']:g}, least {each['least']:g}, {each['episodes']} episodes ({each['protocol']})"
        )
    write_atomically(run_dir / "evaluation.json", json.dumps(result, indent=2).encode())
    write_atomically(run_dir / "evaluation.csv", table(config.env.name, result).encode())
    if options.video:
        record_video(config, network, run_dir / "videos" / f"evaluation.{'mp4' if ffmpeg() else 'gif'}")
    if options.attention:
        record_attention(config, network, run_dir)
    return 0


def asked_for(options: Options, config: RunConfig) -> RunConfig:
    """Return the configuration of the run with what is asked for in its place; UsageError for what it cannot have."""
    if options.attention:
        check_attends(config.network)
    asked = {"eval_policy": options.policy, "seed": options.seed}
    with usage_errors():
        env = under(config.env, options.protocol) if options.protocol else config.env
        asked = {name: value for name, value in asked.items() if value is not None}
        return replace(config, env=env, training=replace(config.training, **asked))


def config_of(run_dir: Path) -> RunConfig:
    """Return the configuration of a run of an agent; UsageError for a folder that is none."""
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir} is not a folder; name the folder of a run, as under runs/")
    return load_config(run_dir, ["atari", "control"], from_dict)


def load_run(
    run_dir: str | Path, checkpoint: Literal["latest", "best"] | None = None
) -> tuple[RunConfig, ActorCritic, Loaded]:
    """Return the configuration of a run, its network with the weights that evaluations play with, and the checkpoint.

    Without a choice of `checkpoint` it is the best of a run with evaluations while training, else the latest.
    UsageError for a folder that is no run; a checkpoint that is damaged is left out with a warning for an older one.
    """
    config = config_of(Path(run_dir))
    checkpoints = Checkpoints(Path(run_dir) / "checkpoints")
    if checkpoint is None:
        checkpoint = "best" if checkpoints.has_best() else "latest"
    loaded = checkpoints.best() if checkpoint == "best" else checkpoints.latest()
    if loaded.warning:
        print(f"warning: {loaded.warning}")
    spec = spec_of(config)
    network = build_network(settle_precision(config, spec, torch.device("cpu")), spec)
    with fits(loaded.path):
        network.load_state_dict(evaluated(loaded.state["learner"]))
    return config, network, loaded


def by_policy(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the result of each policy that was evaluated."""
    yield result
    if "by_mode" in result:
        yield result["by_mode"]


def table(name: str, result: dict[str, Any]) -> str:
    """Return a CSV with a row for each episode; `name` is the environment's."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["env", "policy", "episode", "environment", "return", "length", "cut"])
    for each in by_policy(result):
        for task, game in each.get("games", {name: each}).items():
            whole = game["episodes"] - game["cut"]
            played = zip(game["environments"], game["returns"], game["lengths"], strict=True)
            for i, episode in enumerate(played):
                write([task, game["policy"], i, *episode, int(i >= whole)])
    return text.getvalue()


if __name__ == "__main__":
    main_guard(main)
