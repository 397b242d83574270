"""Runs what is missing of an experiment, as many runs at a time as fit the cores: `python -m results.run NAME`.

Work goes to runs/<experiment>/<label>-seed<k>/; beside the folder lie the run's output (.log) and its command. A
finished run is skipped, a started one resumes from its checkpoints, one of another command is moved aside.
"""

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

from results.collect import collect, command_file, finished, same_command
from results.experiment import ROOT, RUNS, Experiment, Run, experiment_names, load
from runners.errors import Parser, main_guard, usage_errors

State = Literal["finished", "started", "changed", "missing"]
Say = Callable[[str], None]


def state(run: Run, folder: Path) -> State:
    """What `folder` holds: this run, a part of it, another command's run, or nothing that is worth keeping."""
    if finished(run, folder):
        return "finished"
    if not any([*folder.glob("checkpoints/step_*.safetensors"), *folder.glob("summary.json")]):
        return "missing"
    return "started" if same_command(run, folder) else "changed"


def arguments(run: Run, folder: Path) -> list[str]:
    """What follows `python -m` to begin or to continue the run in `folder`."""
    if state(run, folder) == "started":
        return [run.arguments[0], "--resume", str(folder)]
    return [*run.arguments, "--run-dir", str(folder)]


class Active(NamedTuple):
    run: Run
    folder: Path
    process: subprocess.Popen
    cores: list[int]
    began: float


def execute(experiment: Experiment, wanted: Sequence[Run], folder: Path, say: Say, done: Callable[[], object]) -> int:
    """Runs `wanted` in subfolders of `folder`, calls `done` as each ends; how many did not finish.

    Each run is pinned to cores of its own: two runs that both use two threads on two cores slow down to a crawl.
    """
    free = available_cores()
    needed = min(experiment.cores, len(free))
    waiting, active, failed = deque(wanted), [], 0
    try:
        while waiting or active:
            while waiting and len(free) >= needed:
                started = start(waiting.popleft(), folder, free[:needed], say)
                if started:
                    active.append(started)
                    free = free[needed:]
            time.sleep(0.1)
            for ended in [each for each in active if each.process.poll() is not None]:
                active.remove(ended)
                free += ended.cores
                failed += not report_end(ended, say)
                done()
    except BaseException:  # they have sessions of their own, and would go on
        stop(active, say)
        raise
    return failed


def start(run: Run, folder: Path, cores: list[int], say: Say) -> Active | None:
    """Begins or continues a run; None where another process has it in hand (it holds the lock on the log)."""
    folder = folder / run.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.log"), "a") as log:
        if not locked(log):
            say(f"skipped   {run.name}: already running elsewhere")
            return None
        found, command = state(run, folder), arguments(run, folder)
        if found == "changed":
            aside = folder.with_name(f"{folder.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
            folder.rename(aside)
            say(f"aside     {run.name}: a run of another command, kept as {aside.name}")
        elif found == "missing":
            shutil.rmtree(folder, ignore_errors=True)
        command_file(folder).write_text(f"{run.line}\n")
        pin = partial(os.sched_setaffinity, 0, cores)
        # A session of its own: Ctrl-C in the terminal then reaches the run once, through `stop`.
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=pin, start_new_session=True,
        )  # fmt: skip
    say(f"{'resumed' if found == 'started' else 'started':9} {run.name} on core {', '.join(map(str, cores))}")
    return Active(run, folder, process, cores, time.monotonic())


def report_end(ended: Active, say: Say) -> bool:
    """Says how a run ended; whether it finished."""
    run, folder, code = ended.run, ended.folder, ended.process.returncode
    took = f"{time.monotonic() - ended.began:.0f} s"
    if code == 0 and finished(run, folder):
        evaluation = json.loads((folder / "summary.json").read_text()).get("eval") or {}
        score = evaluation.get("mean")
        say(f"finished  {run.name} in {took}" + (f": {score:.4g} in evaluation" if score is not None else ""))
        return True
    log = folder.with_name(f"{folder.name}.log")
    last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "no output")
    why = f"exit code {code}" if code else "it left no summary.json"
    say(f"FAILED    {run.name} after {took} ({why}; {log}): {last.strip()[:200]}")
    return False


def stop(active: list[Active], say: Say) -> None:
    """Passes Ctrl-C on and waits for the runs to save; a second Ctrl-C ends them at once."""
    for each in active:
        each.process.send_signal(signal.SIGINT)
    if active:
        say(f"stopping  {', '.join(each.run.name for each in active)}: saving (again to kill)")
    try:
        for each in active:
            each.process.wait()
    except KeyboardInterrupt:
        for each in active:
            if each.process.poll() is None:
                os.killpg(each.process.pid, signal.SIGKILL)


def locked(log: TextIO) -> bool:
    """Takes the lock on an open log. The run inherits it, so that it lasts as long as the run, whoever started it."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def available_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def choose(experiment: Experiment, only: Sequence[str]) -> list[Run]:
    """The runs whose label or full name is in `only`, all if that is empty; ValueError for what names none."""
    unknown = [name for name in only if not any(name in (run.label, run.name) for run in experiment.runs)]
    if unknown:
        raise ValueError(f"{experiment.name} has no run {unknown[0]!r}; its labels: {', '.join(experiment.labels)}")
    return [run for run in experiment.runs if not only or run.label in only or run.name in only]


def main(argv: list[str]) -> int:
    parser = Parser(prog="python -m results.run", description="Run what is missing of an experiment.")
    parser.add_argument("name", help=f"one of {', '.join(experiment_names())}")
    parser.add_argument(
        "--only", metavar="LABEL", action="append", default=[], help="run this label, or label-seedK, alone"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and do nothing")
    options = parser.parse_args(argv)
    with usage_errors():
        experiment = load(options.name)
        chosen = choose(experiment, options.only)
    folder = RUNS / experiment.name
    if options.dry_run:
        for run in chosen:
            found = state(run, folder / run.name)
            rest = "" if found == "finished" else f": python -m {shlex.join(arguments(run, folder / run.name))}"
            print(f"{found:9} {run.name}{rest}")
        return 0

    missing = [run for run in chosen if state(run, folder / run.name) != "finished"]
    say(f"{experiment.name}: {len(chosen) - len(missing)} of {len(chosen)} runs finished, {len(missing)} to do")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if missing and experiment.prepare:
        experiment.prepare()
    failed = execute(experiment, missing, folder, say, done=lambda: collect(experiment))
    say(f"collected {collect(experiment)} of {len(experiment.runs)} runs; `python -m results.report` shows them")
    return 1 if failed else 0


def say(event: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {event}", flush=True)


if __name__ == "__main__":
    main_guard(main)
