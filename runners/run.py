"""The course of a run, of agents and language models alike: folder, start or resume, training, evaluation, summary."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, strftime
from typing import Any, Protocol

import torch

from runners.errors import UsageError
from runners.machine.ranks import Ranks, join
from runners.machine.signals import Stopped, StopSignal
from runners.records.checkpoint import Checkpoints, fits
from runners.records.display import Display
from runners.records.files import held, remove_strays, write_atomically
from runners.records.metrics import CsvLog, Layout, Row, TensorBoardLog
from runners.records.provenance import git_commit, machine, package_versions


class Training(Protocol):
    """A run in progress, with everything that a checkpoint holds. Each rank has one; the first keeps the run's folder.

    All ranks call the same methods, but `show`, which only the first one calls.
    """

    ranks: Ranks
    device: torch.device
    best_at: int
    """Units done at the best evaluation so far; -1 before the first one."""

    @property
    def done(self) -> int:
        """Return the units of the budget that are used up: agent steps, or rollouts."""

    def introduce(self, run_dir: Path) -> list[str]:
        """Return lines for the terminal about what is trained, and where."""

    def prepare(self) -> None:
        """Do everything that precedes the first step."""

    def run(self, stop: StopSignal) -> Iterator[Row]:
        """Train to the end of the budget, yielding after each batch and soon after a stop signal: a row of metrics, or
        an empty one in between."""

    def finish(self, run_dir: Path | None) -> dict[str, Any]:
        """Evaluate the result, save it in `run_dir`, and return the training's part of the summary."""

    def show(self, summary: dict[str, Any], run_dir: Path, board: TensorBoardLog) -> None:
        """Report the end of the run on the terminal and to TensorBoard."""

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Job:
    """A run of `python -m runners.<runner>`, new or `resumed`, as its command line describes it."""

    runner: str
    title: str
    name: str
    """Beginning of the name of a folder under runs/, if `run_dir` is None."""
    settings: dict[str, Any]
    """Content of config.json: the options of each part of the configuration."""
    run_dir: str | None
    resumed: Path | None
    device: torch.device
    unit: str
    budget: int
    checkpoint_seconds: float
    patience: float
    """Seconds that a rank waits for the others."""
    fields: dict[str, str]
    """Metrics that the display shows, with their labels."""
    layout: Layout
    judged_by: str
    """Metric that TensorBoard's table of hyperparameters shows."""
    packages: tuple[str, ...]
    """Packages whose versions the summary names."""
    train: Callable[[Ranks, bool], Training]
    """Function that makes the training; its second argument is False if a state is to be set."""


def live(job: Job) -> int:
    """Run `job` from its start, or from where it was stopped, to its end, and return the exit code."""
    commit = git_commit()  # now, as the files may be edited while the run goes on
    with join(job.device, job.patience) as ranks, ExitStack() as lock:
        if job.resumed and not ranks.rank:
            lock.enter_context(held(job.resumed))  # before it is read: another process may still be saving
        training = job.train(ranks, job.resumed is None)
        loaded = Checkpoints(job.resumed / "checkpoints").latest() if job.resumed else None
        if loaded:
            with fits(loaded.path):
                training.set_state(loaded.state)
        if ranks.rank > 0:
            _follow(job, training)
            return 0
        if loaded and loaded.warning:
            print(f"warning: {loaded.warning}")
        run_dir = job.resumed or new_folder(job.run_dir, job.name)
        if not job.resumed:
            lock.enter_context(held(run_dir))
        _lead(job, training, run_dir, commit)
    return 0


def _follow(job: Job, training: Training) -> None:
    """Train as a rank other than the first, which writes nothing."""
    training.prepare()
    with StopSignal() as stop:
        with suppress(Stopped):
            _train(job, training, NoRecords(), stop)
            with stop.at_once():
                training.finish(None)
        training.ranks.wait_for_first()  # it evaluates alone, and torchrun would end it if another rank failed


def _lead(job: Job, training: Training, run_dir: Path, commit: str | None) -> None:
    """Train as the first rank, or the only one, which keeps the run's folder."""
    remove_strays(run_dir)
    if (ended := run_dir / "summary.json").exists() and training.done < job.budget:
        ended.rename(run_dir / f"summary_{training.done}.json")  # the run goes on, with more steps
    write_atomically(run_dir / "config.json", json.dumps(job.settings, indent=2).encode())
    print(*training.introduce(run_dir), f"watch: tensorboard --logdir {run_dir}", sep="\n")
    training.prepare()
    with TensorBoardLog(run_dir, training.done, job.layout) as board, StopSignal() as stop:
        try:
            _train(job, training, Records(job, run_dir, training.done, board), stop)
            with stop.at_once():  # if it is cut short, the resumed run repeats it
                _conclude(job, training, run_dir, board, commit)
        except Stopped:
            again = f"python -m runners.{job.runner} --resume {run_dir}"
            print(f"stopped at {job.unit} {training.done:,}; continue: {again}")
        training.ranks.wait_for_first()


def _train(job: Job, training: Training, records: "Records | NoRecords", stop: StopSignal) -> None:
    """Train to the end of the budget and save; raise Stopped, after saving, if a signal stopped the run before."""
    saved = -float("inf")  # saves the first batch at once, so that a killed run can be resumed
    with records.showing():
        for row in training.run(stop):
            records.write(training.done, row)
            best = training.best_at == training.done
            if best:
                records.save_best(training)
            due = best or monotonic() - saved >= job.checkpoint_seconds  # a resumed run must know its best score
            stopping, saving = training.ranks.any_each(stop.asked, due or stop.asked)
            if saving:
                records.save(training)
                saved = monotonic()
            if stopping:
                raise Stopped
    records.save(training)


def _conclude(job: Job, training: Training, run_dir: Path, board: TensorBoardLog, commit: str | None) -> None:
    """Evaluate the result, and write and show the summary."""
    summary = training.finish(run_dir)
    flat = {k: v for part in job.settings.values() for k, v in part.items() if isinstance(v, int | float | str)}
    board.hyperparameters(flat, (job.judged_by,))
    summary |= {
        "ranks": training.ranks.size,
        "versions": package_versions(job.packages),
        "git_commit": commit,
        "machine": {**machine(), "device": str(training.device)},
    }
    write_atomically(run_dir / "summary.json", json.dumps(summary, indent=2, allow_nan=False).encode())
    training.show(summary, run_dir, board)


class Records:
    """Records of a run: its table of metrics, TensorBoard's events, checkpoints and the display of its progress."""

    def __init__(self, job: Job, run_dir: Path, done: int, board: TensorBoardLog) -> None:
        self.board = board
        self.table = CsvLog(run_dir / "metrics.csv", done)
        self.checkpoints = Checkpoints(run_dir / "checkpoints")
        self.display = Display(job.budget, job.title, fields=job.fields)

    def showing(self) -> AbstractContextManager[Any]:
        return self.display

    def write(self, done: int, row: Row) -> None:
        if row:
            self.table.write(done, row)
            self.board.scalars(done, row)
            self.display.update(row)

    def save(self, training: Training) -> None:
        self.checkpoints.save_last(training.done, training.get_state())

    def save_best(self, training: Training) -> None:
        self.checkpoints.save_best(training.done, training.get_state())


class NoRecords:
    """Records of a rank other than the first, which writes nothing, but takes part in making the state."""

    def showing(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def write(self, done: int, row: Row) -> None:
        pass

    def save(self, training: Training) -> None:
        training.get_state()

    def save_best(self, training: Training) -> None:
        pass


def new_folder(asked: str | None, name: str) -> Path:
    """Make the folder of a new run: the one `asked` for, or one under runs/ with `name` and the time in its name."""
    if asked is not None:
        try:
            Path(asked).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--run-dir {asked} cannot be made a folder: {error.strerror}") from error
        return Path(asked)
    name = f"{name}-{strftime('%Y%m%d-%H%M%S')}".replace(":", "-")
    for number in itertools.count(1):
        run_dir = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            run_dir.mkdir(parents=True)
        except FileExistsError:
            continue
        return run_dir
