"""This project's side of `results.peers.solve`: `python -m results.peers.ours_cartpole --bar 475` and flags of a run.

It trains as runners.control does but for files and logs, with a mark where learning begins and one at the bar.
"""

import argparse

from results.peers.drivers import protocol
from results.peers.drivers.protocol import describe, mark
from runners.cli import parse
from runners.errors import main_guard
from runners.training import Training


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--bar", type=float, required=True)
    options, flags = parser.parse_known_args(argv)
    protocol.INTERVAL = 0.0
    config, _ = parse("control", ["--env", "CartPole-v1", "--log-seconds", "1e9", *flags])
    training = Training(config)
    parameters = sum(p.numel() for p in training.network.parameters() if p.requires_grad)
    describe(["torch", "envpool", "numpy"], rule=config.agent.agent, core=config.network.core, parameters=parameters)
    mark(0)
    loop = training.run()
    for _ in loop:
        if training.tracker.full and training.tracker.mean_return >= options.bar:
            mark(training.steps)
            loop.close()
    return 0


if __name__ == "__main__":
    main_guard(main)
