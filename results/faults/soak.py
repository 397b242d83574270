"""Soak of a real training: whether memory, files and speed stay as they are: `python -m results.faults.soak`."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

import numpy as np
from scipy.stats import theilslopes

from results import DATA, RUNS
from results.faults.kills import LONGEST, Run, Trial
from results.faults.table import soak_table
from results.store import describe_measurement, write_figures
from runners.errors import Parser, RunError, main_guard

EVERY = 10.0
"""Seconds between samples."""
WARM_UP = 0.2
"""Share of the time, at its start, whose samples do not count."""
BLOCK = 1 / 12
"""Hours whose samples give one point before a trend is fitted: neighbouring samples are alike, not independent."""
FLAGS = "--env CartPole-v1 --core lstm --envs 8 --unroll 16 --minibatches 2 --embedding 32 --steps 1000000000"
SOAK = Run("CartPole, 2 actors", "control", f"{FLAGS} --no-video --actors 2 --learner-envs 0")
MIB = 2**20


def main(argv: list[str]) -> int:
    parser = Parser(prog="python -m results.faults.soak", description="Train for long, and measure what grows.")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="time to measure for")
    parser.add_argument("--json", type=Path, default=DATA / "faults/soak.json", metavar="FILE", help="figures")
    options = parser.parse_args(argv)
    figures = describe_measurement("results.faults.soak", argv)
    folder = RUNS / "faults" / "soak"
    rmtree(folder, ignore_errors=True)
    figures |= {"run": SOAK.name, "minutes": options.minutes, "samples": soak(folder, options.minutes)}
    figures["trends"] = trends(figures["samples"])
    write_figures(options.json, figures)
    print(soak_table(figures))
    return 0


def soak(folder: Path, minutes: float) -> list[dict[str, float]]:
    """Train in `folder` for `minutes` from the first row of metrics on, and return the samples."""
    trial, samples = Trial(SOAK, folder, "none", np.random.default_rng(0)), []
    try:
        trial.progresses(1)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < 60 * minutes:
            if trial.process.poll() is not None:
                raise RunError(f"{SOAK.name}: it ended with {trial.process.returncode}; see {trial.log}")
            samples.append({"hours": passed / 3600} | sample(trial))
            time.sleep(EVERY)
        trial.process.send_signal(signal.SIGTERM)
        trial.process.wait(LONGEST)
        return samples
    finally:
        for pid in trial.members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def sample(trial: Trial) -> dict[str, float]:
    """Return what all processes of a run use now, and how far it is. Memory is without that of libraries' files, whose
    share depends on what else runs on the machine."""
    memory, files, shared, row = 0, 0, set(), trial.rows()[-1]
    for pid in trial.members():
        with suppress(OSError):  # it has just ended
            process = Path("/proc") / str(pid)
            rollup = (process / "smaps_rollup").read_text().splitlines()
            memory += sum(int(line.split()[1]) for line in rollup if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
            files += len(list((process / "fd").iterdir()))
            shared |= {line.split()[4] for line in (process / "maps").read_text().splitlines() if "/dev/shm/" in line}
    return {
        "memory, MiB": memory / 1024,
        "open files": files,
        "segments of shared memory": len(shared),
        "TensorBoard's file, MiB": sum(path.stat().st_size for path in trial.folder.glob("events.*")) / MIB,
        "steps": int(row["steps"]),
        "cpu_seconds": float(row["cpu_seconds"]),
    }


def trends(samples: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return for each quantity its median after the warm-up, and its change an hour."""
    kept = [x for x in samples if x["hours"] >= WARM_UP * samples[-1]["hours"]]
    columns = {name: np.array([x[name] for x in kept]) for name in kept[0]}
    hours, steps, seconds = columns.pop("hours"), columns.pop("steps"), columns.pop("cpu_seconds")
    new = np.diff(seconds) > 0  # a row of metrics was written since the last sample
    speed = np.diff(steps)[new] / np.diff(seconds)[new]
    found = {name: trend(*blocks(hours, values)) for name, values in columns.items()}
    return found | {"agent steps a processor second": trend(*blocks(hours[1:][new], speed))}


def blocks(hours: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median hour and value of each block of BLOCK hours."""
    block = ((hours - hours[0]) / BLOCK).astype(int)
    return tuple(np.array([np.median(x[block == i]) for i in np.unique(block)]) for x in (hours, values))


def trend(hours: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Return the median of `values`, their slope an hour by Theil and Sen, and its interval of 95%."""
    slope, _, low, high = theilslopes(values, hours, alpha=0.95)
    return {"median": float(np.median(values)), "slope": float(slope), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main_guard(main)
