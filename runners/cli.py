"""The command line of a training run: presets, flags by their papers' names, resuming."""

import argparse
import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import tyro

from runners.config import RunConfig, from_dict, to_dict
from runners.errors import RunError, UsageError, usage_errors
from runners.presets import PRESETS

MAY_CHANGE = frozenset(
    "steps actors device threads compile eval_episodes eval_policy video run_dir log_seconds checkpoint_seconds".split()
)
"""Settings that may differ from the saved ones when a run is resumed."""


def parse(suite: str, argv: list[str]) -> tuple[RunConfig, Path | None]:
    """The configuration that `argv` asks for, and the run folder to resume, if any."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--resume", nargs="?", const="")
    early.add_argument("--preset", nargs="?", default="small")
    early.add_argument("--agent", nargs="?", default="vmpo")
    decides, _ = early.parse_known_args(argv)
    if decides.resume is None:
        make = PRESETS.get((suite, decides.preset), PRESETS[suite, "small"])
        return _parse_flags(suite, make(decides.agent), argv), None

    if not decides.resume:
        raise UsageError("--resume takes the folder of a run")
    run_dir = Path(decides.resume)
    saved = load_config(run_dir)
    if saved.env.suite != suite:
        raise UsageError(f"{run_dir} is a run of runners.{saved.env.suite}: resume it with that")
    config = _parse_flags(suite, saved, _without(argv, "--resume"))
    changed = [name for name in _differing(to_dict(saved), to_dict(config)) if name not in MAY_CHANGE]
    if changed:
        flags = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise UsageError(f"a resumed run keeps its configuration: leave out {flags}, or start a new run")
    return config, run_dir


def load_config(run_dir: Path) -> RunConfig:
    """Of an existing run."""
    path = run_dir / "config.json"
    if not path.exists():
        raise UsageError(f"{run_dir} is not the folder of a run: it has no config.json")
    try:
        return from_dict(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is not a configuration that this version wrote: {error}") from error


def _parse_flags(suite: str, default: RunConfig, argv: list[str]) -> RunConfig:
    """tyro's reading of `argv`, its boxed complaints made into one line."""
    complaint = io.StringIO()
    try:
        with usage_errors(), contextlib.redirect_stderr(complaint):
            return tyro.cli(
                RunConfig,
                args=argv,
                default=default,
                prog=f"python -m runners.{suite}",
                description="Train an agent; --resume RUN_DIR continues a run with its saved configuration, "
                "--debug shows the traceback of an error. Defaults are those of the preset.",
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(one_line(complaint.getvalue())) from None


def one_line(box: str) -> str:
    """The sentence of a tyro error box: what stands between its first two rules, and the flag it suggests."""
    parts = re.split(r"\n[ │╭╰╮╯]*[-─]{5,}.*\n", "\n" + box)
    text = " ".join(parts[1].replace("│", " ").split()) if len(parts) > 1 else " ".join(box.split())
    near = re.search(r"(?:Perhaps you meant|Similar)[^\n]*\n\s*[│\s]*(--[\w-]+)", box)
    text = text.split(" Perhaps you meant")[0].rstrip(".")
    return f"{text}; did you mean {near[1]}?" if near else f"{text} (see --help)"


def _without(argv: list[str], flag: str) -> list[str]:
    """`argv` less `flag` and its value."""
    at = next(i for i, argument in enumerate(argv) if argument.partition("=")[0] == flag)
    return argv[:at] + argv[at + (1 if "=" in argv[at] else 2) :]


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of leaves in which two configurations differ."""
    names = []
    for key, value in a.items():
        if isinstance(value, dict):
            names += _differing(value, b[key])
        elif value != b[key]:
            names.append(key)
    return names
