"""The figures of a comparison in its file, whole after every run, so that it can be stopped and gone on with."""

import json
from pathlib import Path
from typing import Any

from runners.errors import UsageError
from runners.records.files import write_atomically
from runners.records.provenance import machine

Figures = dict[str, Any]


def opened(path: Path | None, command: list[str], task: str, rollouts: int) -> Figures:
    """What `path` holds, or figures without runs; UsageError where it holds those of another comparison."""
    about = {"task": task, "rollouts": rollouts, "machine": machine()}
    if path is None or not path.exists():
        if path is not None:  # before minutes are spent
            path.parent.mkdir(parents=True, exist_ok=True)
        return {"command": command, **about, "runs": []}
    figures = json.loads(path.read_text())
    for name, value in about.items():
        if figures[name] != value:
            raise UsageError(f"{path} has runs of {name} {figures[name]}, not {value}: give another --json")
    return figures | {"command": command}


def add(figures: Figures, run: dict[str, Any], path: Path | None) -> None:
    """One more run, on the disk too."""
    figures["runs"].append(run)
    if path is not None:
        write_atomically(path, json.dumps(figures, indent=2).encode())
