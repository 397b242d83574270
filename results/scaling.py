"""How a run scales over ranks, measured beside the cost model: `python -m results.scaling` and flags of a run."""

import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from results.cost_model import table
from results.experiment import ROOT
from runners.cli import parse
from runners.errors import Parser, RunError, main_guard
from runners.records.files import write_atomically
from runners.records.provenance import machine, package_versions

RANKS = (1, 2, 4)


def pipeline_of_ranks(ranks: int, suite: str, flags: list[str], steps: int) -> tuple[float, int]:
    """Steps a second, the median of its rows of metrics, and parameters of a run with `ranks` processes."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
        run += [f"runners.{suite}", *flags, "--actors", "0", "--steps", str(steps), "--log-seconds", "1"]
        run += ["--eval-episodes", "1", "--no-video", "--run-dir", folder]
        finish(run, cores=1 if ranks == 1 else None)
        with open(Path(folder) / "metrics.csv", newline="") as file:
            rates = [float(row["speed/steps_per_second"] or "nan") for row in csv.DictReader(file)]
        parameters = json.loads((Path(folder) / "summary.json").read_text())["parameters"]
    known = [rate for rate in rates[2:] or rates if not math.isnan(rate)]
    if not known:
        raise RunError(f"a run of {steps:,} steps was too short to time: give it more")
    return statistics.median(known), parameters


def links(ranks: int) -> dict[str, float]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return json.loads(finish([*run, "-m", "runners.link"]))["seconds"]


def finish(command: list[str], cores: int | None = None) -> str:
    """The output of `command`, on so many cores; RunError with its last line where it fails."""
    pin = partial(os.sched_setaffinity, 0, sorted(os.sched_getaffinity(0))[:cores])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, preexec_fn=pin)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")] or done.stderr.splitlines()
        raise RunError(f"{' '.join(command[2:])} failed: {said[-1] if said else 'without a word'}")
    return done.stdout


def main(argv: list[str]) -> int:
    description = "Measure runs of 1, 2 and 4 ranks beside the cost model. Every other flag is one of runners.atari."
    parser = Parser(prog="python -m results.scaling", description=description, allow_abbrev=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--steps-a-rank", type=int, default=30_000, metavar="N", help="length of each run")
    options, flags = parser.parse_known_args(argv)
    config, _ = parse("atari", flags)
    runs = {ranks: pipeline_of_ranks(ranks, "atari", flags, ranks * options.steps_a_rank) for ranks in RANKS}
    figures = {
        "command": ["python", "-m", "results.scaling", *argv],
        "machine": machine(),
        "versions": package_versions(),
        "measured": {str(ranks): rate for ranks, (rate, _) in runs.items()},
        "parameters": runs[1][1],
        "steps_a_gradient_step": config.steps_per_batch / (config.training.passes * config.training.minibatches),
        "links": {str(ranks): links(ranks) for ranks in RANKS if ranks > 1},
    }
    print(table(figures))
    if options.json:
        write_atomically(options.json, json.dumps(figures, indent=2).encode())
    return 0


if __name__ == "__main__":
    main_guard(main)
