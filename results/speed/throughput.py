"""How fast a run is on this machine, part by part: `python -m results.speed.throughput` and flags of a training run."""

import argparse
from pathlib import Path

from results.speed.benchmark import ROUNDS, measure, profile
from results.speed.scaling import pipeline_of_ranks
from results.speed.tables import profile_table, table
from results.store import describe_measurement, write_figures
from runners.cli import parse
from runners.errors import Parser, UsageError, main_guard


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="python -m results.speed.throughput",
        description="Measure environments, acting, training and the pipeline. Every other flag is one of "
        "runners.atari, or with --env of runners.control, and describes the run to measure.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--profile", action="store_true", help="add where actor and learner spend their time")
    parser.add_argument(
        "--ranks", type=int, default=1, help="ranks of the pipeline, started by torchrun; more than 1 with --actors 0"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help=f"length of each of the {ROUNDS} rounds of a part")
    options, rest = parser.parse_known_args(argv)
    if not options.seconds > 0:
        raise UsageError(f"--seconds must be greater than 0, not {options.seconds}")
    if options.ranks < 1:
        raise UsageError(f"--ranks must be at least 1, not {options.ranks}")
    suite = "control" if any(flag.partition("=")[0] == "--env" for flag in rest) else "atari"
    config, resumed = parse(suite, rest)
    if resumed:
        raise UsageError("--resume belongs to training; the benchmark takes the flags of a new run")

    alone = options.ranks == 1
    figures = describe_measurement("results.speed.throughput", argv) | {"env": config.env.name}
    figures |= measure(config, options.seconds, pipeline=alone)
    if not alone:
        batches = 2 * ROUNDS * options.ranks  # rows of metrics that a median can be taken of
        steps = int(max(2 * ROUNDS * options.seconds * figures["bound"], batches * config.steps_per_batch))
        pipeline, _ = pipeline_of_ranks(options.ranks, suite, rest, steps)
        figures |= {"pipeline": pipeline, "ratio": pipeline / figures["bound"]}
    print(table(figures))
    if options.profile:
        figures["profile_us"] = profile(config)
        for part, stages in figures["profile_us"].items():
            print(f"\n{profile_table(part, stages)}")
    write_figures(options.json, figures)
    return 0


if __name__ == "__main__":
    main_guard(main)
