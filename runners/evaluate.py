"""Command `python -m runners.evaluate RUN_DIR`: play episodes with a trained agent."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from runners.acting.weights import evaluated
from runners.build import build_env, build_network
from runners.cli import load_config, parse_flags
from runners.config import from_dict
from runners.errors import UsageError, main_guard, usage_errors
from runners.evaluation import evaluate, figure, record_video
from runners.machine.precision import settle_precision
from runners.records.checkpoint import Checkpoints, fits
from runners.records.files import write_atomically


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    run_dir: Annotated[str, tyro.conf.Positional]
    """Folder of a run."""
    episodes: int = 30
    """Episodes to play."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The newest checkpoint, or the best one in the evaluations of a run with --evaluations."""
    policy: Literal["mode", "sample", "both"] | None = None
    """Act by the policy's mode, samples of it, or both; by default as the run's final evaluation did."""
    seed: int | None = None
    """Seed of environments and actions; by default that of the run's final evaluation."""
    video: bool = False
    """Also record an episode to videos/evaluation.gif."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"--episodes must be at least 1, not {self.episodes}")


def main(argv: list[str]) -> int:
    options = parse_flags(Options, "evaluate", "Play episodes with a trained agent.", argv)
    run_dir = Path(options.run_dir)
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir} is not a folder; name the folder of a run, as under runs/")
    config = load_config(run_dir, ["atari", "control"], from_dict)
    asked = {"eval_policy": options.policy, "seed": options.seed}
    with usage_errors():
        asked = {name: value for name, value in asked.items() if value is not None}
        config = replace(config, training=replace(config.training, **asked))
    checkpoints = Checkpoints(run_dir / "checkpoints")
    loaded = checkpoints.best() if options.checkpoint == "best" else checkpoints.latest()
    if loaded.warning:
        print(f"warning: {loaded.warning}")

    torch.set_num_threads(1)
    env = build_env(config, 1, stream=0)
    network = build_network(settle_precision(config, env.spec, torch.device("cpu")), env.spec)
    env.close()
    with fits(loaded.path):
        network.load_state_dict(evaluated(loaded.state["learner"]))
    result = evaluate(config, network, options.episodes) | {"step": loaded.step, "checkpoint": loaded.path.name}
    write_atomically(run_dir / "evaluation.json", json.dumps(result, indent=2).encode())
    for each in (result, result.get("by_mode")):
        if each:
            print(
                f"{config.env.name} at step {loaded.step:,}: {figure(each['mean'])} +- {figure(each['std'])}, median "
                f"{each['median']:g}, least {each['least']:g}, {each['episodes']} episodes ({each['protocol']})"
            )
    if options.video:
        record_video(config, network, run_dir / "videos" / "evaluation.gif")
    return 0


if __name__ == "__main__":
    main_guard(main)
