"""Comparisons: runs of several sides, kept in a JSON file one by one, so that the next call makes those that miss."""

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from results import ROOT, jobs
from results.store import Figures, describe_measurement, read_figures, write_figures
from runners.errors import RunError, UsageError

Work = Callable[[Any, list[int], jobs.Stop], Figures]
Show = Callable[[Figures], str]


def opened(path: Path | None, module: str, argv: Sequence[str], settings: Figures) -> Figures:
    """Return the figures of a comparison with the runs that the file `path` holds.

    UsageError where these are of other settings or of another machine: they do not mix.
    """
    figures = describe_measurement(module, argv) | settings | {"runs": [], "failed": {}}
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)  # before minutes are spent on what could not be written
    if path and path.exists():
        kept = read_figures(path)
        for name in (*settings, "machine"):
            if kept[name] != figures[name]:
                raise UsageError(f"{path} has {name} {kept[name]}, not {figures[name]}: give another --json")
        figures |= {name: kept[name] for name in ("runs", "sides") if name in kept}
    return figures


def complete(
    figures: Figures, path: Path | None, wanted: dict[str, Any], work: Work, show: Show, cores: list[int], each: int = 1
) -> None:
    """Add to figures["runs"] what `work(item, its cores, stop)` returns for the named items `wanted`, in turn.

    The figures are written to `path` after each, and printed as `show` has them at the end. RunError then where
    a run failed; why stands in figures["failed"].
    """
    failed, names = figures["failed"], list(wanted)
    with closing(jobs.on_cores(lambda name, *place: work(wanted[name], *place), names, cores, each)) as ended:
        for name, future in ended:
            try:
                figures["runs"].append(future.result())
            except RunError as error:
                failed[name] = " ".join(str(error).split())
                print(f"{name}: {error}", flush=True)
            write_figures(path, figures)  # what is measured stays, whatever becomes of the rest
    if figures["runs"]:
        print(f"\n{show(figures)}")
    if failed:
        raise RunError(f"{len(failed)} failed, the first: {': '.join(next(iter(failed.items())))}")


def above_zero(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if not getattr(options, name) > 0:
            raise UsageError(f"--{name.replace('_', '-')} must be greater than 0, not {getattr(options, name)}")


def from_root(path: Path) -> str:
    return os.path.relpath(path, ROOT)
