"""Experiments: runs (a command and a seed each), the cores that a run takes, and the bar it is held to."""

import difflib
import importlib
import pkgutil
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from results import experiments


@dataclass(frozen=True)
class Run:
    """One training run: `python -m <command> --seed <seed>`. Runs that share a label differ in nothing but the seed."""

    label: str
    seed: int
    command: str

    @property
    def name(self) -> str:
        """Name of the run's folder: letters, digits, dots and hyphens."""
        return re.sub(r"[^\w.]+", "-", f"{self.label}-seed{self.seed}")

    @property
    def arguments(self) -> list[str]:
        """Arguments after `python -m`."""
        return [*shlex.split(self.command), "--seed", str(self.seed)]

    @property
    def line(self) -> str:
        """The whole command, as a user would type it. A folder that was made by another line is not this run's."""
        return f"python -m {shlex.join(self.arguments)}"

    @property
    def env(self) -> str | None:
        """The game, environment or task that the command names."""
        named = re.search(r"--(?:env|game|task|data)[ =](\S+)", self.command)
        return named[1] if named else None


class Unit(NamedTuple):
    """Unit of a run's budget, called so in metrics.csv; the metric of learning curves, and what that is a mean of."""

    name: str
    progress: str
    window: str


class Trace(NamedTuple):
    """Metric that is plotted over a run's course, and the range `low` to `high` that it is meant to lie in."""

    metric: str
    title: str
    low: float | None = None
    high: float | None = None


STEPS = Unit("steps", "return/train", "last 100 training episodes")
ROLLOUTS = Unit("rollouts", "reward/train", "last 5 rollouts")


@dataclass(frozen=True)
class Experiment:
    """A question, the runs that answer it, and the figure (`metric`, higher is better) that they are compared by."""

    name: str
    title: str
    question: str
    runs: tuple[Run, ...]
    cores: int = 1
    metric: str = "return"
    unit: Unit = STEPS
    bar: float | None = None
    diagnostics: tuple[str, ...] = ()
    """Metrics that the table shows beside the score: of each run the median over its rows of metrics."""
    traces: tuple[Trace, ...] = ()
    """Metrics that have a plot of their own, a line a run."""
    prepare: Callable[[], None] | None = None
    """Function that makes the files which the commands refer to, where they are not there yet."""

    def __post_init__(self):
        names = [run.name for run in self.runs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"experiment {self.name}: label and seed must be unique, found twice: {', '.join(twice)}")
        if not self.runs or self.cores < 1:
            raise ValueError(f"experiment {self.name}: needs at least one run and at least one core a run")

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in order of first appearance."""
        return tuple(dict.fromkeys(run.label for run in self.runs))

    def planned(self, label: str) -> int:
        """Return the number of runs that a label has."""
        return sum(run.label == label for run in self.runs)


def all_experiments() -> dict[str, Experiment]:
    """Return every experiment of `results/experiments/` by its name."""
    found: dict[str, Experiment] = {}
    for module in pkgutil.iter_modules(experiments.__path__):
        for experiment in importlib.import_module(f"{experiments.__name__}.{module.name}").EXPERIMENTS:
            if experiment.name in found:
                raise ValueError(f"results/experiments/{module.name}.py: another file has experiment {experiment.name}")
            found[experiment.name] = experiment
    return dict(sorted(found.items()))


def load(name: str) -> Experiment:
    """Return the experiment called `name`; ValueError, one line with the nearest names, where there is none."""
    known = all_experiments()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise ValueError(f"no experiment is called {name!r}; nearest: {', '.join(near)}")
    return known[name]
