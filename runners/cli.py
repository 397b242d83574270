"""The command line of a training run: presets, flags by their papers' names, resuming."""

import argparse
import contextlib
import io
import json
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import tyro

from agents.checks import flag
from agents.config import AgentName
from agents.gempi.config import CHOICES
from agents.gempi.trust_region import DualKL, GaussianDualKL
from agents.options import option_names
from envs.factory import prepare, steps_in_python
from envs.interface import Box
from runners.build import spec_of
from runners.config import RunConfig, cores, from_dict, to_dict
from runners.errors import RunError, UsageError, usage_errors
from runners.presets import preset_for
from runners.records.checkpoint import Checkpoints

MAY_CHANGE = frozenset(
    "steps actors learner_envs device threads compile log_seconds checkpoint_seconds video".split()
    + ["eval_episodes", "eval_steps", "eval_policy", "evaluations", "eval_from", "patience", "patience_steps"]
)
"""Settings that may differ from the saved ones when a run is resumed."""
NAME_FLAGS = {"atari": "game", "control": "env"}
"""Flag of an environment's name, by command."""
ELSEWHERE = {
    ("atari", "--env"): "--game",
    ("control", "--game"): "--env, or python -m runners.atari --game",
    ("lm", "--agent"): "--method",
}
"""Flags of other commands, each with what stands in its place here."""
CATEGORICAL = option_names(DualKL, ("initial", "epsilon"))
GAUSSIAN = option_names(GaussianDualKL) - option_names(DualKL)
"""Options of the trust region that have an effect on one kind of policy alone."""
DESCRIPTION = (
    "Train an agent. --resume RUN_DIR continues a run with its saved configuration. Defaults are those of the preset."
)
Options = TypeVar("Options")
Config = TypeVar("Config")


def parse(suite: str, argv: list[str]) -> tuple[RunConfig, Path | None]:
    """Return the configuration of a command line, and the folder of the run to resume, if any."""
    decides = peek(argv, preset="small", agent="vmpo", actors=None, env=None)
    if decides.resume is None:
        make = preset_for(suite, decides.env, decides.preset)
        default = suited(make, decides.agent if decides.agent in get_args(AgentName) else "vmpo", decides)
        config = parse_flags(RunConfig, suite, DESCRIPTION, argv, default)
        agent = config.agent
        refuse_named(argv, vars(agent).keys() - agent.options, f"on --agent {agent.agent} as it is")
        refuse_idle_training(argv, config)
        env, notes = prepare(config.env)
        print(*notes, sep="\n", end="\n" * bool(notes))
        config = replace(config, env=env)
        refuse_other_policy(argv, config)
        config = config if decides.actors else with_actors(config)
        run_dir = unfinished(config.training.run_dir)
        if run_dir is None:
            return config, None
        saved = load_config(run_dir, [suite], from_dict)
        refuse_another(run_dir, to_dict(saved), to_dict(config), MAY_CHANGE)
    else:
        run_dir, saved = resumed(decides, [suite], from_dict)
        config = parse_flags(RunConfig, suite, DESCRIPTION, without(argv, "--resume"), saved)
        refuse_changes(to_dict(saved), to_dict(config), MAY_CHANGE)
        refuse_idle_training(argv, config)
    refuse_fewer(run_dir, "steps", saved.training.steps, config.training.steps)
    if saved.training.anneal and config.training.steps != saved.training.steps:
        print(
            f"warning: this run's learning rate was annealed over {saved.training.steps:,} steps, now over "
            f"{config.training.steps:,}: it jumps to the new schedule's value (m_step/learning_rate in metrics)"
        )
    return config, run_dir


def with_actors(config: RunConfig) -> RunConfig:
    """Return `config` with an actor on each core but the learner's, if its environment steps in Python."""
    if not steps_in_python(config.env) or config.training.save_environments:
        return config
    envs = config.training.envs
    actors = max((n for n in range(1, min(envs, cores() - 1) + 1) if envs % n == 0), default=config.training.actors)
    return replace(config, training=replace(config.training, actors=actors))


def peek(argv: list[str], **names: str | None) -> argparse.Namespace:
    """Return the flags on which other defaults depend: `names` (with defaults), gempi's choices and --resume."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--resume", nargs="?", const="")
    for name in [*names, *CHOICES]:
        early.add_argument(f"--{flag(name)}", nargs="?", default=names.get(name))
    return early.parse_known_args(argv)[0]


def suited(make: Callable[..., Config], rule: str, decides: argparse.Namespace) -> Config:
    """Return the preset that `make` has for a learning rule and, for gempi, the choices of its row."""
    choices = {name: choice for name in CHOICES if (choice := getattr(decides, name)) and rule == "gempi"}
    try:
        return make(rule, **choices)
    except (KeyError, ValueError):  # the parser refuses an unknown choice
        return make(rule)


def resumed(
    decides: argparse.Namespace, runners: Sequence[str], read: Callable[[dict[str, Any]], Config]
) -> tuple[Path, Config]:
    """Return the folder that --resume names, and the configuration of its run, which must be one of `runners`."""
    if not decides.resume:
        raise UsageError("--resume takes the folder of a run")
    run_dir = Path(decides.resume)
    return run_dir, load_config(run_dir, runners, read)


def load_config(run_dir: Path, runners: Sequence[str], read: Callable[[dict[str, Any]], Config]) -> Config:
    """Return the configuration of a run of one of `runners`, which `read` makes from the content of config.json."""
    path = run_dir / "config.json"
    if not path.exists():
        raise UsageError(f"{run_dir} is not the folder of a run: it has no config.json")
    try:
        tree = json.loads(path.read_text())
        runner = "lm" if "data" in tree else tree["env"]["suite"]
        if runner not in runners:
            wanted = " or ".join(f"runners.{name}" for name in runners)
            raise UsageError(f"{run_dir} is a run of runners.{runner}, not of {wanted}")
        return read(tree)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is not a configuration that this version wrote: {error}") from error


def unfinished(asked: str | None) -> Path | None:
    """Return the folder `asked` for if it holds a run that can continue, else None; UsageError if its run has ended."""
    run_dir = Path(asked or "")
    if asked and (run_dir / "summary.json").exists():
        raise UsageError(
            f"{run_dir} holds a run that ended: continue it with --resume {run_dir}, or name another folder"
        )
    return run_dir if asked and any(run_dir.glob("checkpoints/step_*")) else None


def refuse_another(run_dir: Path, saved: dict[str, Any], asked: dict[str, Any], may_change: frozenset[str]) -> None:
    """Raise UsageError if the unfinished run in `run_dir` has other settings than the one that is asked for."""
    changed = _differing(saved, asked, may_change | {"run_dir"})
    if changed:
        raise UsageError(
            f"{run_dir} holds an unfinished run of another {_flags(changed)}: continue it with --resume {run_dir}, or"
            " name another folder"
        )


def refuse_changes(saved: dict[str, Any], asked: dict[str, Any], may_change: frozenset[str]) -> None:
    """Raise UsageError if settings of a resumed run differ that may not change."""
    changed = _differing(saved, asked, may_change)
    if changed:
        raise UsageError(f"a resumed run keeps its configuration: leave out {_flags(changed)}, or start a new run")


def refuse_fewer(run_dir: Path, unit: str, saved: int, asked: int) -> None:
    """Raise UsageError if the run in `run_dir` goes on with fewer steps, or rollouts, than it has taken.

    As many as are `saved` always pass: the last batch may exceed them, and a last evaluation that was cut is repeated.
    """
    done = Checkpoints(run_dir / "checkpoints").newest
    if asked != saved and asked < done:
        raise UsageError(f"{run_dir} has {done:,} {unit} already, more than --{unit} {asked}: leave it out")


def parse_flags(
    kind: type[Options], name: str, description: str, argv: list[str], default: Options | None = None
) -> Options:
    """Parse `argv` for `python -m runners.<name>` by tyro; its errors become UsageError in one line."""
    complaint = io.StringIO()
    try:
        with usage_errors(), contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                args=argv,
                default=tyro.MISSING_NONPROP if default is None else default,
                prog=f"python -m runners.{name}",
                description=f"{description} --debug shows the traceback of an error.",
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(one_line(complaint.getvalue(), name)) from None


def named(argv: list[str], options: Set[str]) -> list[str]:
    """Return those of the `options` that `argv` names, be it with the value that they have anyway, which a
    configuration alone could not tell from an option that was left out."""
    given = {argument.partition("=")[0].replace("_", "-") for argument in argv}
    return sorted(name for name in options if f"--{flag(name)}" in given)


def refuse_named(argv: list[str], idle: Set[str], why: str) -> None:
    """Raise UsageError if `argv` names an `idle` option; `why` says on what, or without what, it has no effect."""
    if found := named(argv, idle):
        raise UsageError(f"{_flags(found)} has no effect {why}: leave it out")


def refuse_idle_training(argv: list[str], config: RunConfig) -> None:
    """Raise UsageError if `argv` names an option of something that the run does not do."""
    agent, training = config.agent, config.training
    if agent.agent == "ppo" or not agent.row.has_duals:
        refuse_named(argv, {"dual_learning_rate"}, f"on --agent {agent.agent}, which has no dual variables")
    if not training.anneal:
        refuse_named(argv, {"anneal_from", "anneal_to"}, "without --anneal")
    if not training.evaluations:
        refuse_named(argv, {"eval_from"}, "without --evaluations")


def refuse_other_policy(argv: list[str], config: RunConfig) -> None:
    """Raise UsageError if `argv` names an option of the trust region of another kind of policy than the run has."""
    if named(argv, CATEGORICAL | GAUSSIAN):  # else no environment is made to know its actions
        gaussian = isinstance(spec_of(config).action, Box)
        idle, kind = (CATEGORICAL, "Gaussian") if gaussian else (GAUSSIAN, "categorical")
        refuse_named(argv, idle, f"on the {kind} policy of {config.env.name}")


def one_line(box: str, name: str) -> str:
    """Return a tyro error box of `runners.<name>` as one line: the text under its title, and the flag to take."""
    lines = [line.strip(" │╭╮╰╯") for line in box.strip().splitlines()[1:]]
    body: list[str] = []
    for line in lines:
        if line.strip("-─"):
            body.append(line)
        elif body:
            break
    text = re.sub(r"^Error parsing (?!-)\w+: ", "", " ".join(body).rstrip("."))
    near = [ELSEWHERE[name, given] for given in re.findall(r"--[\w-]+", text) if (name, given) in ELSEWHERE]
    near += re.findall(r"Perhaps you meant:?\s*(--[\w-]+)", " ".join(lines))
    return f"{text}; did you mean {near[0]}?" if near else f"{text} (see --help)"


def without(argv: list[str], flag: str) -> list[str]:
    """Return `argv` without `flag` and its value."""
    at = next(i for i, argument in enumerate(argv) if argument.partition("=")[0] == flag)
    return argv[:at] + argv[at + (1 if "=" in argv[at] else 2) :]


def _differing(a: dict[str, Any], b: dict[str, Any], may_differ: frozenset[str]) -> list[str]:
    """Return the leaves, by their flags, in which two configurations differ, without those that may."""
    names = []
    for key, value in a.items():
        if isinstance(value, dict):
            names += _differing(value, b[key], may_differ)
        elif value != b[key] and key not in may_differ:
            names.append(NAME_FLAGS[a["suite"]] if key == "name" else key)
    return names


def _flags(names: list[str]) -> str:
    return ", ".join(f"--{flag(name)}" for name in names)
