"""This project's side, in a process of its own: `python -m results.peers.ours atari` (or control) and flags of a run.

It reports what the peers' drivers report, and trains as runners.atari and runners.control do but for files and logs.
"""

import argparse
from dataclasses import replace

from envs.factory import resolve
from results.peers.drivers.protocol import Marks, describe
from runners.cli import parse
from runners.errors import main_guard
from runners.training import AgentTraining


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("runner", choices=("atari", "control"))
    parser.add_argument("--bar", type=float, help="a mean return that is marked when it is reached")
    options, flags = parser.parse_known_args(argv)
    config, _ = parse(options.runner, flags)
    training = AgentTraining(replace(config, training=replace(config.training, log_seconds=1e9)))
    settings = {name: getattr(config.training, name) for name in ("envs", "unroll", "minibatches", "passes", "actors")}
    settings |= {"rule": {"vmpo": "V-MPO", "ppo": "PPO"}.get(config.agent.agent, config.agent.agent)}
    settings |= {"core": config.network.core, "hidden": config.network.embedding}
    settings |= {"simulator": f"{resolve(config.env)[1]}, one thread"}
    settings |= {"arithmetic": f"torso in {training.config.training.precision}, channels last; the rest float32"}
    describe(["torch", "envpool", "numpy"], training.network.parameters(), **settings)
    mark = Marks(options.bar)
    mark(0)
    for _ in training.run():
        mark(training.steps, training.tracker.mean_return if training.tracker.full else None)
    return 0


if __name__ == "__main__":
    main_guard(main)
