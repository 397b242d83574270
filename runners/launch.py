"""Start of a run from the command line of `runners.atari` or `runners.control`."""

from runners.build import pick_device
from runners.cli import parse
from runners.config import to_dict
from runners.records.display import FIELDS
from runners.records.metrics import LAYOUT
from runners.records.provenance import PACKAGES
from runners.run import Job, live
from runners.training import AgentTraining


def main(suite: str, argv: list[str]) -> int:
    """Train as `argv` says, and return the exit code."""
    config, resumed = parse(suite, argv)
    env, agent, core = config.env.name, config.agent.agent, config.network.core
    job = Job(
        runner=suite,
        title=f"{env} {agent} + {core}",
        name=f"{env}-{agent}-{core}-{config.training.seed}",
        settings=to_dict(config),
        run_dir=config.training.run_dir,
        resumed=resumed,
        device=pick_device(config),
        unit="step",
        budget=config.training.steps,
        checkpoint_seconds=config.training.checkpoint_seconds,
        patience=config.training.patience,
        fields=FIELDS,
        layout=LAYOUT,
        judged_by="return/train",
        packages=PACKAGES,
        train=lambda ranks, fresh: AgentTraining(config, ranks, fresh),
    )
    return live(job)
