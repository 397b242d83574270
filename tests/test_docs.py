"""The documents: commands are read by the parsers that they are for, and the quick ones run; names, links, figures and
metrics are those of the code and the data; the site builds."""

import argparse
import csv
import importlib
import json
import re
import runpy
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch.distributed.run

from agents.gempi.methods import METHODS
from agents.sequences.config import SequenceConfig
from envs.interface import EnvError
from runners import cli, evaluate
from runners.config import to_dict
from runners.errors import Parser, UsageError
from runners.lm import cli as lm
from runners.lm.config import LMConfig
from runners.lm.config import to_dict as lm_to_dict
from runners.presets import PRESETS
from support import ROOT

GENERATED = ROOT / "docs/results"
"""Pages that `python -m results.report` writes, from commands that ran."""
WRITTEN = [ROOT / "README.md", *sorted(p for p in ROOT.glob("docs/**/*.md") if GENERATED not in p.parents)]
PROGRAMS = ("python", "torchrun", "pip", "pytest", "mkdocs")


def blocks(text: str) -> Iterator[str]:
    """Lines of code blocks, fenced or indented."""
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def commands_of(text: str) -> Iterator[str]:
    """Every command of a page, in a code block or in the text, without its comment."""
    prose = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", prose)]
    for line in [*blocks(text), *inline]:
        words = shlex.split(line, comments=True) if line.startswith(PROGRAMS) else []
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            if words[0] in PROGRAMS and (end > 1 or words[0] == "pytest"):
                yield shlex.join(words[:end])
            words = words[end + 1 :]


COMMANDS = list(dict.fromkeys(command for page in WRITTEN for command in commands_of(page.read_text())))
IN_TURN = [
    "python -m runners.control --env CartPole-v1 --steps 10000 --run-dir runs/first",
    "python -m runners.control --resume runs/first --steps 20000",
    "python -m runners.evaluate runs/first --episodes 20 --policy both",
]
CUT_SHORT = {
    "python -m runners.control --env CartPole-v1 --agent ppo --core lstm": "--steps 20000",
    "python -m runners.control --env CartPole-v1 --core feedforward --agent gempi --divergence chi-square"
    " --filter all": "--steps 20000",
    "python -m runners.lm --method vmpo --task sort": "--rollouts 20",
}
"""Commands that run as written, but for so many steps."""


# Commands


class Parsed(Exception):
    """A command line was read; `rest`: the flags of the run that it is about."""

    def __init__(self, rest: list[str]) -> None:
        super().__init__("parsed")
        self.rest = rest


def parse_known_and_stop(parser: Parser, args=None, namespace=None):
    raise Parsed(argparse.ArgumentParser.parse_known_args(parser, args, namespace)[1])


def parse_and_stop(parser: Parser, args=None, namespace=None):
    _, rest = argparse.ArgumentParser.parse_known_args(parser, args, namespace)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    raise Parsed([])


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with what the commands refer to: a package of one's own."""
    register = 'gymnasium.register("MyEnv-v0", entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv")'
    (tmp_path / "my_package.py").write_text(f"import gymnasium\n\n{register}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def existing_run(folder: str, kind: str) -> None:
    config = lm_to_dict(LMConfig(agent=SequenceConfig())) if kind == "lm" else to_dict(PRESETS[kind, "small"]("vmpo"))
    Path(folder).mkdir(parents=True)
    (Path(folder) / "config.json").write_text(json.dumps(config))


def read_run(kind: str, argv: list[str]) -> None:
    if "--resume" in argv:
        existing_run(argv[argv.index("--resume") + 1], kind)
    lm.parse(argv) if kind == "lm" else cli.parse(kind, argv)


def read_module(name: str, argv: list[str]) -> None:
    """Read the flags of `python -m name` as it would itself."""
    room, _, kind = name.partition(".")
    if kind in ("atari", "control", "lm"):
        return read_run(kind, argv)
    if name == "runners.evaluate":
        assert cli.parse_flags(evaluate.Options, "evaluate", "", argv).run_dir
        return None
    assert room == "results", name
    spec = importlib.util.find_spec(name)
    assert spec, f"there is no module {name}"
    module = importlib.import_module(f"{name}.__main__" if spec.submodule_search_locations else name)
    if name == "results.run":
        return module.main([*argv, "--dry-run"])
    stop = {"parse_known_args": parse_known_and_stop, "parse_args": parse_and_stop}
    with patch.multiple(Parser, **stop), pytest.raises(Parsed) as parsed:
        module.main(argv)
    if parsed.value.rest:
        read_run("control" if "--env" in parsed.value.rest else "atari", parsed.value.rest)
    return None


def extras() -> dict[str, list[str]]:
    with patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs["extras_require"]


def read_command(words: list[str]) -> None:
    program, *argv = words
    if program == "torchrun":
        options = torch.distributed.run.get_args_parser().parse_args(argv)
        assert options.module
        return read_module(options.training_script, options.training_script_args)
    if program == "python":
        if argv[:2] == ["-m", "cProfile"]:
            argv = argv[argv.index("-m", 1) :]
        assert argv[0] == "-m"
        return read_module(argv[1], argv[2:])
    if program == "pip":
        name = re.fullmatch(r"install -e \.(?:\[(\w+)\])?", " ".join(argv))
        assert name and (not name[1] or name[1] in extras())
        return None
    assert words in (["pytest"], ["mkdocs", "serve"], ["mkdocs", "build", "--strict"])
    return None


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_read_by_its_parser(command, workplace):
    read_command(shlex.split(command))


def test_a_wrong_command_is_not(workplace):
    """The parsers above do refuse: a flag, a name and a module that do not exist."""
    for command in (
        "python -m runners.atari --no-such-flag 1",
        "python -m runners.control --env CartPoll-v1",
        "torchrun --nproc-per-node 2 -m runners.atari --gam Pong",
        "python -m results.run no_such_experiment",
        "python -m results.report --chek",
        "python -m results.no_such_module",
        "pip install -e '.[no_such_extra]'",
    ):
        with pytest.raises((UsageError, EnvError, AssertionError, SystemExit)):
            read_command(shlex.split(command))


def run_here(command: str) -> None:
    """In the working folder, with this project's code."""
    program, *argv = shlex.split(command)
    assert program == "python"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *argv], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("command", CUT_SHORT)
def test_a_command_runs(command, workplace):
    assert command in COMMANDS
    run_here(f"{command} {CUT_SHORT[command]}")


@pytest.mark.slow
def run_script(folder: Path, script: str) -> dict:
    (folder / "script.py").write_text(script)
    return runpy.run_path(str(folder / "script.py"))


def test_train_resume_and_evaluate(workplace):
    for command in IN_TURN:
        assert command in COMMANDS
        run_here(command)
    result = json.loads((workplace / "runs/first/evaluation.json").read_text())
    assert result["episodes"] == 20 and result["step"] >= 20000
    played, weighed = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/runs.md").read_text(), re.DOTALL | re.MULTILINE
    )
    found = run_script(workplace, played)
    assert found["step"].observation.shape == (4, 4) and found["checkpoint"].step >= 20000
    found = run_script(workplace, weighed)
    assert (found["step"].weights > 0).sum() == 32 and found["step"].weights.sum().item() == pytest.approx(1)
    assert found["vmpo"].temperature.positives[0].raw.grad.isfinite()


def test_the_two_commands_come_first():
    text = (ROOT / "README.md").read_text()
    lines = list(blocks(text))
    assert lines[0].startswith("pip install -e . && python -m runners.atari --agent vmpo --core gtrxl ")
    assert lines[1].startswith("pip install -e '.[test]' && pytest ")


# Sizes, links and names


def test_pages_are_short():
    assert (ROOT / "README.md").stat().st_size <= 12_000
    for page in ROOT.glob("docs/**/*.md"):
        assert page.stat().st_size < 40_000, page


def slug(title: str) -> str:
    plain = re.sub(r"[^\w\s-]", "", title.lower())
    return re.sub(r"[\s]+", "-", plain.strip())


def anchors(page: Path) -> set[str]:
    return {slug(title) for title in re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    found = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text())
    for target in (one or other for one, other in found):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if GENERATED in path.parents and not GENERATED.exists():
            continue
        assert path.exists(), f"{page.name} links to {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name} links to {target}"


def test_files_that_are_named_exist():
    """In the text, and in the drawings of the flow, where a module stands without its .py."""
    for page in WRITTEN:
        text = page.read_text()
        for name in re.findall(r"`((?:agents|networks|envs|runners|results|tests)/[\w/]+\.\w+)`", text):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
        for name in re.findall(r"^ {4}(?:Adam +-> )?((?:agents|networks|envs|runners)/[\w/]*\w)", text, re.MULTILINE):
            assert (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists(), f"{page.name}: {name}"


def test_the_errata_s_tests_exist():
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    text = (ROOT / "docs/errata.md").read_text()
    named = re.findall(r"`(test_\w+)`(?: in `(tests/[\w/]+\.py)`)?", text)
    assert len(named) > 15
    for name, file in named:
        assert f"def {name}(" in sources[file or "tests/test_errata.py"], name
    own = set(re.findall(r"^def (test_\w+)", sources["tests/test_errata.py"], re.MULTILINE))
    assert own <= {name for name, _ in named}


def known_flags(capsys) -> set[str]:
    for read in (
        lambda: cli.parse("atari", ["--help"]),
        lambda: cli.parse("control", ["--help"]),
        lambda: lm.parse(["--help"]),
        lambda: cli.parse_flags(evaluate.Options, "evaluate", "", ["--help"]),
    ):
        with pytest.raises(SystemExit):
            read()
    sources = [path.read_text() for path in ROOT.glob("results/**/*.py")]
    known = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
    known |= {flag for source in sources for flag in re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", source)}
    return known | {"--help", "--debug", "--resume", "--logdir"}


def test_flags_that_are_named_exist(capsys):
    known = known_flags(capsys)
    for page in WRITTEN:
        text = re.sub(r"^    .*$", "", page.read_text(), flags=re.MULTILINE)
        for code in re.findall(r"`([^`\n]+)`", text):
            for flag in re.findall(r"(?<!\S)--[a-z][\w-]*(?![\w*-])", code):
                assert flag in known, f"{page.name}: {flag}"


def test_every_metric_is_explained():
    """Every name with a slash that the code logs, those that are made of parts too."""
    page = (ROOT / "docs/runs.md").read_text()
    groups = "return|reward|e_step|m_step|value|memory|speed"
    explained = set(re.findall(rf"`((?:{groups})/[\w*]+)`", page))
    patterns = [re.compile(name.replace("*", r"\w+")) for name in explained | {r"m_step/kl_*", r"m_step/alpha_*"}]
    logged, made = set(), set()
    for room in ("agents", "networks", "runners"):
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text()
            logged |= set(re.findall(rf"(?<!f)\"((?:{groups})/\w+)\"", text))
            made |= set(re.findall(rf"f\"((?:{groups})/[^\"]+)\"", text))
    assert len(logged) > 30
    assert not [name for name in sorted(logged) if not any(pattern.fullmatch(name) for pattern in patterns)]
    assert made == {
        "e_step/kl_{name}",
        "e_step/lambda_{name}",
        "m_step/alpha{suffix}",
        "m_step/kl{suffix}",
        "memory/gate_{name}_{i + 1}",
        "memory/{name}_rms",
        "return/{task}",
    }
    literal = {name for name in explained if "*" not in name and name != "return/GAME"}
    assert literal - logged == {"memory/c_rms"}  # of {name}_rms


def test_the_readme_points_at_the_rows():
    lines = (ROOT / "agents/gempi/methods.py").read_text().splitlines()
    links = re.findall(r"\[`([\w-]+)`\]\(agents/gempi/methods\.py#L(\d+)\)", (ROOT / "README.md").read_text())
    assert {name for name, _ in links} == METHODS.keys()
    for name, line in links:
        assert lines[int(line) - 1].startswith(f'    "{name}": Row(')


# Figures


def test_the_readme_s_figures_are_those_of_the_data():
    figures = r"\| (-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\] \| (\d+) \| `(\w+)`: `([^`]+)` \|"
    rows = re.findall(figures, (ROOT / "README.md").read_text())
    assert len(rows) >= 15
    for mean, least, greatest, seeds, experiment, label in rows:
        with open(ROOT / f"results/data/{experiment}/summary.csv", newline="") as file:
            scores = [float(row["eval_mean"]) for row in csv.DictReader(file) if row["label"] == label]
        assert len(scores) == int(seeds), label
        assert [mean, least, greatest] == [f"{x:.3f}" for x in (statistics.mean(scores), min(scores), max(scores))]


# The site


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "chi-square" in (tmp_path / "site/api/agents/index.html").read_text()
