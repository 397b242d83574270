"""Start of a run from the command line of `runners.lm`."""

from runners.lm.cli import parse
from runners.lm.config import to_dict
from runners.lm.training import LMTraining
from runners.machine.devices import device_named
from runners.records.metrics import EM_CHARTS, chart
from runners.run import Job, live

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
    """Train as `argv` says, and return the exit code."""
    config, resumed = parse(argv)
    learner = config.learner
    job = Job(
        runner="lm",
        title=f"{config.subject} {config.agent.method}",
        name=f"{config.subject}-{config.agent.method}-{learner.seed}",
        settings=to_dict(config),
        run_dir=learner.run_dir,
        resumed=resumed,
        device=device_named(learner.device),
        unit="rollout",
        budget=learner.rollouts,
        checkpoint_seconds=learner.checkpoint_seconds,
        patience=learner.patience,
        fields=FIELDS,
        layout=LAYOUT,
        judged_by="reward/evaluation",
        packages=PACKAGES,
        train=lambda ranks, fresh: LMTraining(config, ranks, fresh),
    )
    return live(job)
