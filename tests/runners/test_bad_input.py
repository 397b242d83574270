"""Whatever is written on a command line or in a config.json: it is taken, and runs, or is refused in one line."""

import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from agents.checks import flag
from agents.config import AgentConfig
from agents.sequences.config import SequenceConfig
from envs.interface import EnvError
from networks.config import NetworkConfig
from runners import cli
from runners.config import RunConfig, TrainingConfig, from_dict, to_dict
from runners.errors import RunError, UsageError, describe
from runners.lm import cli as lm_cli
from runners.lm.config import DataConfig, LearnerConfig, LMConfig
from runners.lm.config import from_dict as lm_from_dict
from runners.lm.config import to_dict as lm_to_dict
from runners.lm.training import LMTraining
from runners.presets import PRESETS
from runners.training import AgentTraining

CASES = settings(max_examples=170, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "8",
    "0.5",
    "1.5",
    "1e-3",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "99999999999999999999",
    "0x10",
]
WORDS = ["", "x", "true", "None", "\U0001f600", "-", "--", "a b", "../..", "vmpo", "lstm", "auto"]
KINDS = {
    "atari": (TrainingConfig, AgentConfig, NetworkConfig),
    "control": (TrainingConfig, AgentConfig, NetworkConfig),
    "lm": (LearnerConfig, SequenceConfig, DataConfig),
}
LEFT_OUT = ("run_dir", "data", "model", "eval_data", "reward", "reference", "task", "base_dir")
"""Options that name files and modules: an honest one would be read."""


def fields(runner: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in KINDS[runner]:
        hints = get_type_hints(kind)
        found |= {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init and f.name not in LEFT_OUT}
    return found


@st.composite
def command_lines(draw: st.DrawFn, runner: str) -> list[str]:
    argv: list[str] = []
    known = fields(runner)
    for name in draw(st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True)):
        kind = known[name]
        if kind is bool:
            argv.append(draw(st.sampled_from([f"--{flag(name)}", f"--no-{flag(name)}"])))
            continue
        choices = list(get_args(kind)) if get_origin(kind) is Literal else []
        value = draw(st.sampled_from([*map(str, choices), *NUMBERS, *WORDS]))
        argv += [f"--{flag(name)}", value]
    return argv


def parse(runner: str, argv: list[str]) -> RunConfig | LMConfig:
    return (lm_cli.parse(argv) if runner == "lm" else cli.parse(runner, argv))[0]


@pytest.mark.parametrize("runner", KINDS)
def test_any_command_line_is_taken_or_refused_in_a_line_that_names_an_option(runner: str) -> None:
    taken, refused = [], []

    @CASES
    @given(command_lines(runner))
    def check(argv: list[str]) -> None:
        try:
            parse(runner, argv)
            taken.append(argv)
        except UsageError as error:
            refused.append(argv)
            code, line = describe(error)
            assert code == 2 and line and "\n" not in line and "Traceback" not in line
            assert any(part in line for part in argv if part.startswith("--")) or "--" in line, (argv, line)

    check()
    assert len(taken) > 10 and len(refused) > 100


SMALL = {
    "control": "--env CartPole-v1 --envs 4 --unroll 8 --minibatches 2 --embedding 16 --mlp-size 16 --heads 2"
    " --key-size 4 --precision float32 --log-seconds 0 --actors 0",
    "lm": "--task support.lm_task:TASK --prompts 4 --completions 2 --eval-prompts 4 --updates 2",
}
OF_THE_MACHINE = {"compile", "device", "actors", "learner_envs", "shard", "threads", "precision", "patience"}
OF_THE_MACHINE |= {"preset", "steps", "rollouts"}
"""Options that make a run long, or that ask for what a machine may lack."""


def plausible(runner: str) -> dict[str, list[list[str]]]:
    """Return for each option what may be written of it: values of the kind and about the size of its default."""
    known, parts, found = fields(runner), vars(parse(runner, SMALL[runner].split())).values(), {}
    defaults = {name: value for part in parts if dataclasses.is_dataclass(part) for name, value in vars(part).items()}
    for name in sorted(known.keys() - OF_THE_MACHINE):
        kind, default, option = known[name], defaults.get(name), f"--{flag(name)}"
        many = len(default) if isinstance(default, tuple) else 1
        size = default if type(default) in (int, float) else 1
        if kind is bool:
            found[name] = [[option], [f"--no-{flag(name)}"]]
            continue
        if get_origin(kind) is Literal:
            values = list(get_args(kind))
        elif kind is int or many > 1:
            values = [1, 2, 3, 4, 0, 2 * size, max(1, size // 2)]
        else:
            values = [1, 0.5, 0.1, 1e-3, 2, 10, 0, 2 * size]
        found[name] = [[option, *[str(value)] * many] for value in values]
    return found


@st.composite
def plausible_command_lines(draw: st.DrawFn, options: dict[str, list[list[str]]]) -> list[str]:
    """A method, and up to four options."""
    method = "method" if "method" in options else "agent"
    names = draw(st.lists(st.sampled_from(sorted(options.keys() - {method})), max_size=4, unique=True))
    return sum((draw(st.sampled_from(options[name])) for name in [method, *names]), [])


@pytest.mark.slow
@pytest.mark.parametrize("runner", SMALL)
def test_a_command_line_that_is_taken_runs(runner: str, tmp_path: Path) -> None:
    """Two batches of it, or what it is made of is refused, such as a torso that reads pictures where there are none."""
    train, more, ran, options = AgentTraining, [], set(), plausible(runner)
    if runner == "lm":
        train, more = LMTraining, ["--base-dir", str(tmp_path)]

    @settings(CASES, max_examples=25)
    @given(plausible_command_lines(options))
    def check(argv: list[str]) -> None:
        try:
            training = train(parse(runner, [*SMALL[runner].split(), *more, *argv]))
        except (UsageError, EnvError) as error:
            assert "--" in str(error), (argv, error)
            assume(False)
        training.prepare()
        loop = training.run()
        next(loop), next(loop)
        training.get_state()
        loop.close()
        ran.add(tuple(argv))

    check()
    assert len(ran) > 20


@st.composite
def configurations(draw: st.DrawFn, tree: dict[str, Any]) -> Any:
    """A config.json with up to three values of another kind, names that nobody knows, or parts left out."""
    tree = json.loads(json.dumps(tree))
    strange = st.sampled_from([None, True, -1, 0, 3, 0.5, "x", "nan", [], [1], {}, {"a": 1}, 10**30, 1e300])
    for _ in range(draw(st.integers(1, 3))):
        part = draw(st.sampled_from(sorted(tree))) if tree else ""
        if not isinstance(tree.get(part), dict) or not tree[part]:
            continue
        name = draw(st.sampled_from([*sorted(tree[part]), "unknown"]))
        match draw(st.sampled_from(["value", "value", "value", "without", "part"])):
            case "value":
                tree[part][name] = draw(strange)
            case "without":
                tree[part].pop(name, None)
            case "part":
                tree[part] = draw(strange)
    return tree


@pytest.mark.parametrize("runner", ["atari", "lm"])
def test_any_config_json_is_read_or_refused_in_a_line_that_names_it(runner: str) -> None:
    whole = lm_to_dict(LMConfig()) if runner == "lm" else to_dict(PRESETS["atari", "small"]("vmpo"))
    read = lm_from_dict if runner == "lm" else from_dict

    @CASES
    @given(configurations(whole))
    def check(tree: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(tree))
            try:
                cli.load_config(Path(folder), [runner], read)
            except (UsageError, RunError) as error:
                assert folder in str(error) and "\n" not in describe(error)[1]

    check()
    for text in ("", "{", "[]", "null", "3", '"x"', "\x00", math.nan):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(str(text))
            with pytest.raises(RunError, match="is not a configuration"):
                cli.load_config(Path(folder), [runner], read)
