"""Run what is missing of an experiment, as many runs at a time as fit the cores: `python -m results.run NAME`.

Work goes to runs/<experiment>/<label>-seed<k>/; beside the folder lie the run's output (.log) and its command. A
finished run is skipped, a started one resumes from its checkpoints, one of another command is moved aside.
"""

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from results import RUNS, jobs
from results.experiment import Experiment, Run, all_experiments, load
from results.store import collect, command_file, finished, read_figures, same_command
from runners.errors import Parser, main_guard, usage_errors


def state(run: Run, folder: Path) -> str:
    """Return what `folder` holds: this run, a part of it, another command's run, or nothing worth keeping."""
    if finished(run, folder):
        return "finished"
    if not any([*folder.glob("checkpoints/step_*.safetensors"), *folder.glob("summary.json")]):
        return "missing"
    return "started" if same_command(run, folder) else "changed"


def arguments(run: Run, folder: Path) -> list[str]:
    """Return what follows `python -m` to begin or to continue the run in `folder`."""
    if state(run, folder) == "started":
        return [run.arguments[0], "--resume", str(folder)]
    return [*run.arguments, "--run-dir", str(folder)]


def execute(experiment: Experiment, wanted: Sequence[Run], folder: Path, done: Callable[[], object]) -> int:
    """Run `wanted` in subfolders of `folder`, call `done` as each ends, and return how many did not finish."""

    def work(run: Run, cores: list[int], stop: jobs.Stop) -> bool:
        return train(run, folder / run.name, cores, stop)

    failed = 0
    with closing(jobs.on_cores(work, wanted, jobs.available_cores(), experiment.cores)) as runs:
        for _, ended in runs:
            failed += not ended.result()
            done()
    return failed


def train(run: Run, folder: Path, cores: list[int], stop: jobs.Stop) -> bool:
    """Begin or continue a run on `cores` and wait for its end; return whether it finished, or is in other hands."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    with open(log, "a") as output:
        if not jobs.locked(output):
            say(f"skipped   {run.name}: already running elsewhere")
            return True
        found, command = state(run, folder), arguments(run, folder)
        if found == "changed":
            aside = folder.with_name(f"{folder.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
            folder.rename(aside)
            say(f"aside     {run.name}: a run of another command, kept as {aside.name}")
        elif found == "missing":
            shutil.rmtree(folder, ignore_errors=True)
        command_file(folder).write_text(f"{run.line}\n")
        process, began = jobs.start(["python", "-m", *command], cores, output), time.monotonic()
    say(f"{'resumed' if found == 'started' else 'started':9} {run.name} on core {', '.join(map(str, cores))}")
    code = jobs.wait(process, stop, lambda: say(f"stopping  {run.name}: saving (again to kill)"))
    if stop.asked:
        return False
    took = f"{time.monotonic() - began:.0f} s"
    if code or not finished(run, folder):
        why = jobs.failure(code, log) if code else f"it left no summary.json: {jobs.last_line(log)}"
        say(f"FAILED    {run.name} after {took}: {why}")
        return False
    score = (read_figures(folder / "summary.json").get("eval") or {}).get("mean")
    say(f"finished  {run.name} in {took}" + (f": {score:.4g} in evaluation" if score is not None else ""))
    return True


def choose(experiment: Experiment, only: Sequence[str]) -> list[Run]:
    """Return the runs whose label or full name is in `only`, all if it is empty; ValueError for what names none."""
    unknown = [name for name in only if not any(name in (run.label, run.name) for run in experiment.runs)]
    if unknown:
        raise ValueError(f"{experiment.name} has no run {unknown[0]!r}; its labels: {', '.join(experiment.labels)}")
    return [run for run in experiment.runs if not only or run.label in only or run.name in only]


def main(argv: list[str]) -> int:
    parser = Parser(prog="python -m results.run", description="Run what is missing of an experiment.")
    parser.add_argument("name", help=f"one of {', '.join(all_experiments())}")
    parser.add_argument("--only", metavar="LABEL", action="append", default=[], help="only this label, or label-seedK")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and do nothing")
    options = parser.parse_args(argv)
    with usage_errors():
        experiment = load(options.name)
        chosen = choose(experiment, options.only)
    folder = RUNS / experiment.name
    if options.dry_run:
        for run in chosen:
            found, rest = state(run, folder / run.name), shlex.join(arguments(run, folder / run.name))
            print(f"{found:9} {run.name}" + (f": python -m {rest}" if found != "finished" else ""))
        return 0

    missing = [run for run in chosen if state(run, folder / run.name) != "finished"]
    say(f"{experiment.name}: {len(chosen) - len(missing)} of {len(chosen)} runs finished, {len(missing)} to do")
    if missing and experiment.prepare:
        experiment.prepare()
    failed = execute(experiment, missing, folder, done=lambda: collect(experiment))
    say(f"collected {collect(experiment)} of {len(experiment.runs)} runs; `python -m results.report` shows them")
    return 1 if failed else 0


def say(event: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {event}", flush=True)


if __name__ == "__main__":
    main_guard(main)
