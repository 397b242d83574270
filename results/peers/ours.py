"""This project's side of a comparison, in a process of its own: `python -m results.peers.ours` and flags of a run.

It reports what the peers' drivers report, and trains as runners.atari does but for the warm-up of the value, whose
steps would be cheaper than those that follow, and for files and logs.
"""

from dataclasses import replace

from results.peers.drivers.protocol import describe, mark
from runners.cli import parse
from runners.errors import main_guard
from runners.training import Training

PACKAGES = ["torch", "envpool", "numpy"]


def main(argv: list[str]) -> int:
    config, _ = parse("atari", argv)
    timing = {"steps": 2**40, "value_warmup": 0, "log_seconds": 1e9}
    config = replace(config, training=replace(config.training, **timing))
    training = Training(config)
    sizes = {name: getattr(config.training, name) for name in ("envs", "unroll", "minibatches", "passes", "actors")}
    describe(
        PACKAGES,
        rule={"vmpo": "V-MPO", "ppo": "PPO"}.get(config.agent.agent, config.agent.agent),
        simulator=f"{config.env.backend}, one thread",
        arithmetic=f"torso in {training.config.training.precision}, channels last; the rest float32",
        parameters=sum(p.numel() for p in training.network.parameters() if p.requires_grad),
        core=config.network.core,
        hidden=config.network.embedding,
        **sizes,
    )
    for _ in training.run():
        mark(training.steps)
    return 0


if __name__ == "__main__":
    main_guard(main)
