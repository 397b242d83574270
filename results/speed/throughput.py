"""Speed of a run on this machine, part by part: `python -m results.speed.throughput` and flags of a training run."""

import argparse
from pathlib import Path

from results.comparison import above_zero
from results.speed.benchmark import ROUNDS, measure
from results.speed.scaling import pipeline_of_ranks
from results.speed.tables import overview
from results.store import describe_measurement, write_figures
from runners.cli import parse
from runners.errors import Parser, main_guard


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="python -m results.speed.throughput",
        description="Measure environments, acting, training and the pipeline. Every other flag is one of "
        "runners.atari, or with --env of runners.control, and describes the run to measure.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--ranks", type=int, default=1, help="ranks of the pipeline; more than 1 with --actors 0")
    parser.add_argument("--seconds", type=float, default=2.0, help=f"length of each of the {ROUNDS} rounds of a part")
    options, rest = parser.parse_known_args(argv)
    above_zero(options, "seconds", "ranks")
    suite = "control" if any(flag.partition("=")[0] == "--env" for flag in rest) else "atari"
    config, _ = parse(suite, rest)
    alone = options.ranks == 1
    figures = describe_measurement("results.speed.throughput", argv) | {"env": config.env.name}
    figures |= measure(config, options.seconds, pipeline=alone)
    if not alone:
        batches = 2 * ROUNDS * options.ranks  # rows of metrics that a median can be taken of
        steps = int(max(2 * ROUNDS * options.seconds * figures["bound"], batches * config.steps_per_batch))
        pipeline, _ = pipeline_of_ranks(options.ranks, suite, rest, steps)
        figures |= {"pipeline": pipeline, "ratio": pipeline / figures["bound"]}
    print(overview([figures | {"name": config.env.name}]))
    write_figures(options.json, figures)
    return 0


if __name__ == "__main__":
    main_guard(main)
