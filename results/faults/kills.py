"""Runs that are killed at random moments and at chosen ones, and what they lose by it."""

import csv
import io
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import numpy as np

from results import ROOT
from results.faults import GONE, INTERVAL
from results.faults.victim import ACTORS, MOMENTS
from results.store import Figures
from runners.errors import RunError
from runners.records.checkpoint import Checkpoints

LONGEST = 300.0
"""Seconds that a run may take to start, or to continue."""
OUTSIDE = ("an actor", "all actors", "the learner", "all processes")
"""Processes that are killed at a random moment, from outside."""


@dataclass(frozen=True)
class Run:
    """A run to kill: its name, and the flags of `runners.<runner>`."""

    name: str
    runner: str
    flags: str
    ranks: int = 1
    actors: bool = False

    @property
    def moments(self) -> list[str]:
        """Return the moments at which this run can be killed."""
        own = [*OUTSIDE[2:], *(m for m in MOMENTS if self.actors or "published" not in m)]
        return own + [*OUTSIDE[:2], *ACTORS] * self.actors

    def command(self, folder: Path) -> list[str]:
        ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.ranks)] * (self.ranks > 1)
        every = ["--run-dir", str(folder), "--checkpoint-seconds", str(INTERVAL)]
        return [sys.executable, *ranks, "-m", "results.faults.victim", self.runner, *shlex.split(self.flags), *every]


FOR_EVER = "--steps 1000000000 --log-seconds 0.2 --no-video"
CARTPOLE = f"--env CartPole-v1 --core lstm --envs 8 --unroll 16 --minibatches 2 --embedding 32 {FOR_EVER}"
RUNS = (
    Run("CartPole, 2 actors", "control", f"{CARTPOLE} --actors 2 --learner-envs 0", actors=True),
    Run("Pong, 2 actors", "atari", f"--envs 8 --unroll 32 --actors 2 --learner-envs 0 {FOR_EVER}", actors=True),
    Run("language model", "lm", "--task sort-weak --rollouts 1000000 --log-rollouts 1 --eval-prompts 8"),
    Run("CartPole, 2 ranks", "control", f"{CARTPOLE} --actors 0", ranks=2),
)


class Trial:
    """One start of `run` in `folder`, with all processes that it starts."""

    def __init__(self, run: Run, folder: Path, moment: str, rng: np.random.Generator) -> None:
        self.run, self.folder, self.moment, self.rng = run, folder, moment, rng
        self.began_at = self.saved() if folder.exists() else 0
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self.mark, self.temporary = (folder.with_name(f"{folder.name}.{x}") for x in ("log", "mark", "tmp"))
        self.mark.unlink(missing_ok=True)
        rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()
        self.id = f"TRIAL={uuid.uuid4()}"
        name, value = self.id.split("=")
        environment = {**os.environ, name: value, "MOMENT": moment, "MARK": str(self.mark), "OMP_NUM_THREADS": "1"}
        environment |= {"BLOW": str(rng.integers(1, 4)), "TORCHINDUCTOR_CACHE_DIR": str(folder.with_name("cache"))}
        environment |= {"TMPDIR": str(self.temporary), "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                run.command(folder), cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of metrics so far, of all starts."""
        with suppress(OSError):
            whole = (self.folder / "metrics.csv").read_text().rpartition("\n")[0]
            return [row for row in csv.DictReader(io.StringIO(whole)) if row.get("wall_seconds")]
        return []

    def done(self) -> int:
        rows = self.rows()
        return int(rows[-1]["steps"]) if rows else 0

    def members(self) -> dict[int, str]:
        """Return the living processes of the trial and their commands."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                zombie = (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if not zombie and self.id.encode() in (path / "environ").read_bytes().split(b"\0"):
                    found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
        return found

    def actors(self) -> list[int]:
        return [pid for pid, command in self.members().items() if "spawn_main" in command]

    def until(self, condition: Callable[[], bool], seconds: float = LONGEST) -> float:
        """Wait for `condition`, and return the seconds that it took; RunError after `seconds`."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds:
                raise RunError(f"{self.run.name}, {self.moment}: waited {seconds:.0f} s in vain; see {self.log}")
            time.sleep(0.02)
        return time.monotonic() - began

    def progresses(self, rows: int = 3) -> None:
        """Wait for `rows` further rows of metrics."""
        before, ran = self.done(), self.process
        seen = {before}

        def enough() -> bool:
            if ran.poll() is not None:
                raise RunError(f"{self.run.name}, {self.moment}: it ended with {ran.returncode}; see {self.log}")
            seen.add(self.done())
            return len({steps for steps in seen if steps > before}) >= rows

        self.until(enough)

    def learners(self) -> list[int]:
        """Return the processes that train: one for each rank."""
        others = ("spawn_main", "distributed.run", "resource_tracker")
        return [pid for pid, command in self.members().items() if not any(name in command for name in others)]

    def saved(self) -> int:
        """Return the number of steps of the newest checkpoint; RunError if none is whole."""
        return Checkpoints(self.folder / "checkpoints").latest().step

    def lost(self) -> float:
        """Return the seconds of training after the newest checkpoint, without those before this start's first row."""
        clock = {int(row["steps"]): float(row["wall_seconds"]) for row in self.rows()}
        before = [seconds for steps, seconds in clock.items() if steps <= self.saved()]
        first = [seconds for steps, seconds in clock.items() if steps > self.began_at][:1]
        return max(0.0, max(clock.values(), default=0.0) - max(before + first, default=0.0))

    def strike(self) -> None:
        """Kill the processes that the moment names, after a random time."""
        time.sleep(self.rng.uniform(0, INTERVAL))
        group, actors = self.members(), self.actors()
        victims = {
            "an actor": actors[:1],
            "all actors": actors,
            "the learner": [int(self.rng.choice(self.learners()))],
            "all processes": list(group),
        }[self.moment]
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def shared_memory(self, group: dict[int, str]) -> list[str]:
        """Return the names of shared memory in which the number of one of these processes occurs."""
        names = os.listdir("/dev/shm")
        return [name for name in names if set(map(str, group)) & set(name.replace("-", "_").split("_"))]


def kill(run: Run, folder: Path, moment: str, rng: np.random.Generator) -> Figures:
    """Start or continue `run`, kill it at `moment`, and return the figures of this kill."""
    trial = Trial(run, folder, moment, rng)
    try:
        if moment in OUTSIDE:
            trial.progresses()
            group = trial.members()
            trial.strike()
        else:
            trial.until(lambda: bool(trial.members()))
            group = {}

            def struck() -> bool:
                group.update(trial.members())
                if trial.process.poll() is not None and not trial.mark.exists():
                    raise RunError(f"{run.name}, {moment}: it ended before that; see {trial.log}")
                return trial.mark.exists()

            trial.until(struck)
        found: Figures = {"run": run.name, "moment": moment}
        if moment in (*OUTSIDE[:2], *ACTORS):
            trial.progresses()
            trial.process.send_signal(signal.SIGTERM)
            trial.process.wait(LONGEST)
            found |= {"goes_on": trial.process.returncode == 0 and "is started again" in trial.log.read_text()}
        try:
            found["seconds_until_gone"] = trial.until(lambda: not trial.members(), LONGEST)
        finally:
            trial.process.wait(GONE)
        found["left"] = trial.shared_memory(group) + [str(path.name) for path in trial.temporary.iterdir()]
        found["lost_seconds"], found["tracebacks"] = trial.lost(), trial.log.read_text().count("Traceback")
        return found | {"whole": not Checkpoints(folder / "checkpoints").latest().warning}
    finally:
        for pid in trial.members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        trial.process.wait()


def plan(count: int, runs: tuple[Run, ...] = RUNS) -> list[tuple[Run, str]]:
    """Return `count` kills, spread evenly over all runs and moments."""
    every = [(run, moment) for run in runs for moment in run.moments]
    return [every[i % len(every)] for i in range(count)]
