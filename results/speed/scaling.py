"""Scaling of a run over ranks, beside the cost model: `python -m results.speed.scaling` and flags of a run."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from torch.utils.benchmark import Timer

from results.comparison import above_zero
from results.jobs import available_cores, finish
from results.speed.tables import measured_ranks, ranks_on_paper
from results.store import describe_measurement, read_figures, write_figures
from runners.build import pick_device
from runners.cli import parse
from runners.config import RunConfig
from runners.errors import Parser, RunError, main_guard
from runners.machine.ranks import join

RANKS = (1, 2, 4)
SIZES = (4, 4 * 10**6, 4 * 10**7)
"""Bytes of the float32 messages that are timed."""


def pipeline_of_ranks(ranks: int, suite: str, flags: Sequence[str], steps: int) -> tuple[float, int]:
    """Return steps a second, the median of its rows of metrics, and parameters of a run with `ranks` processes."""
    with tempfile.TemporaryDirectory() as folder:
        run = [f"runners.{suite}", *flags, "--actors", "0", "--steps", str(steps), "--log-seconds", "1"]
        run += ["--eval-episodes", "1", "--no-video", "--run-dir", folder]
        on_ranks(ranks, run)
        rates = pd.read_csv(Path(folder) / "metrics.csv")["speed/steps_per_second"]
        parameters = read_figures(Path(folder) / "summary.json")["parameters"]
    known = (rates[2:] if len(rates) > 2 else rates).dropna()
    if known.empty:
        raise RunError(f"a run of {steps:,} steps was too short to time: give it more")
    return float(known.median()), parameters


def links(ranks: int) -> dict[str, float]:
    """Return the seconds of an all-reduce by its bytes."""
    printed = on_ranks(ranks, ["results.speed.scaling"]).splitlines()
    return next(json.loads(line) for line in printed if line.startswith("{"))


def time_messages() -> None:
    """Print the seconds of an all-reduce by its bytes: what each of the ranks that `links` starts does."""
    torch.set_num_threads(1)
    device = pick_device(RunConfig())
    with join(device) as ranks:
        messages = {size: {"dist": dist, "message": torch.zeros(size // 4, device=device)} for size in SIZES}
        timers = {size: Timer("dist.all_reduce(message)", globals=given) for size, given in messages.items()}
        seconds = {size: timer.timeit(20).mean for size, timer in timers.items()}
        if ranks.rank == 0:
            print(json.dumps(seconds))


def on_ranks(ranks: int, run: Sequence[str]) -> str:
    """Return the output of the module and flags `run`, started by torchrun; one rank has one core, more have all."""
    command = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", *run]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        try:
            finish(command, available_cores()[: 1 if ranks == 1 else None], Path(log.name))
        except RunError as error:
            raise RunError(f"{run[0]} on {ranks} ranks: {error}") from error
        return Path(log.name).read_text()


def main(argv: list[str]) -> int | None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return time_messages()
    description = "Measure runs of 1, 2 and 4 ranks beside the cost model. Every other flag is one of runners.atari."
    parser = Parser(prog="python -m results.speed.scaling", description=description, allow_abbrev=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--steps-a-rank", type=int, default=30_000, metavar="N", help="length of each run")
    options, flags = parser.parse_known_args(argv)
    above_zero(options, "steps_a_rank")
    config, _ = parse("atari", flags)
    runs = {ranks: pipeline_of_ranks(ranks, "atari", flags, ranks * options.steps_a_rank) for ranks in RANKS}
    figures = describe_measurement("results.speed.scaling", argv) | {
        "measured": {str(ranks): rate for ranks, (rate, _) in runs.items()},
        "parameters": runs[1][1],
        "steps_a_gradient_step": config.steps_per_batch / (config.training.passes * config.training.minibatches),
        "links": {str(ranks): links(ranks) for ranks in RANKS if ranks > 1},
    }
    print(f"{measured_ranks(figures)}\n\n{ranks_on_paper(figures)}")
    write_figures(options.json, figures)
    return 0


if __name__ == "__main__":
    main_guard(main)
