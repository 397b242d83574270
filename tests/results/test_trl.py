"""results/trl: both sides' rewards, data, commands and batches; runs and what is kept of them; the table."""

import importlib
import json
import os
import random
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from results import ROOT
from results.report import pages
from results.store import write_figures
from results.trl import __main__ as trl
from results.trl import comparison, dpo
from results.trl.catalogue import METHODS, TASKS, YARDSTICK, Method
from results.trl.data import Inputs, columns, prepare, taken
from results.trl.runs import arguments, run, score
from results.trl.table import HEADER, overview, table
from runners.errors import RunError, UsageError
from runners.lm.cli import parse
from runners.lm.model import load_model, load_tokenizer
from runners.lm.sources import find_task
from runners.lm.tasks import walks
from runners.lm.training import Training
from runners.records.provenance import machine

DRIVERS = Path(comparison.__file__).parent / "drivers"
BASES = tempfile.TemporaryDirectory()
CORE = max(os.sched_getaffinity(0))
INPUTS = Inputs(*(Path(f"/somewhere/{name}") for name in ("bases/base", "prompts.jsonl", "pairs.jsonl")), 9)
FAKE = """\
import json, os, sys
from pathlib import Path
if "dpo" in sys.argv and Path(sys.argv[0]).name == "breaks":
    sys.exit("no such loss")
flags = dict(zip(sys.argv, sys.argv[1:]))
folder = Path(flags["--run-dir"])
updates = 200 * int(flags.get("--updates", 1))
seen = {"cores": sorted(os.sched_getaffinity(0)), "path": "PYTHONPATH" in os.environ}
seen |= {"threads": os.environ["OMP_NUM_THREADS"], "arguments": sys.argv[1:]}
cost = {"rollouts": 200, "updates": updates, "cpu_seconds": 10.0, "wall_seconds": 11.0, "versions": {}}
(folder / "summary.json").write_text(json.dumps(cost | seen))
"""


@pytest.fixture
def driver(monkeypatch):
    """Of a module in drivers/, which are run with their folder on the path."""
    monkeypatch.syspath_prepend(str(DRIVERS))
    return importlib.import_module


def executable(path: Path) -> Path:
    path.write_text(f"#!{sys.executable}\n{FAKE}")
    path.chmod(0o755)
    return path


# Rewards


def test_the_reward_of_sorting_is_the_tasks(driver) -> None:
    reward, rng = driver("rewards").exact_match, np.random.default_rng(0)
    prompts, completions = zip(*find_task("sort").demonstrations(300, rng), strict=True)
    broken = [text[:-1] for text in completions[:50]] + [""] * 5 + [f"{text}0" for text in completions[55:]]
    for answers in (completions, broken):
        expected = find_task("sort").reward(prompts, answers)
        assert reward(prompts=prompts, completions=answers, completion_ids=None) == expected
        assert answers is broken or 0.3 < np.mean(expected) < 0.9


def test_the_reward_of_walks_is_the_tasks(driver) -> None:
    reward, rng = driver("rewards").optimality, np.random.default_rng(0)
    prompts, completions = map(list, zip(*find_task("walks").demonstrations(300, rng), strict=True))
    letters = random.Random(0)
    prompts += prompts[:100]
    completions += ["".join(letters.choices(walks.NAMES, k=length % 12)) for length in range(60)]
    completions += [text[1:] for text in completions[60:100]]
    rows = [columns("walks", prompt) for prompt in prompts]
    told = {name: [row[name] for row in rows] for name in rows[0]}
    expected = find_task("walks").reward(prompts, completions)
    assert reward(prompts=prompts, completions=completions, trainer_state=None, **told) == pytest.approx(expected)
    assert len(set(expected)) > 4


def test_every_task_has_a_reward(driver) -> None:
    assert set(driver("rewards").REWARDS) == set(TASKS)
    assert columns("sort", "12345678>") == {}


def test_drivers_do_not_import_the_project() -> None:
    rooms = ("agents", "envs", "networks", "results", "runners")
    for path in DRIVERS.glob("*.py"):
        for line in path.read_text().splitlines():
            assert not (line.startswith(("import ", "from ")) and line.split()[1].split(".")[0] in rooms), path


# Data


def test_both_sides_see_the_same_prompts_and_pairs_are_right_against_wrong(tmp_path) -> None:
    task = find_task("support.lm_task:TASK")
    inputs = prepare("support.lm_task:TASK", 1, 4, Path(BASES.name), tmp_path)
    training = Training(parse(["--task", "support.lm_task:TASK", "--base-dir", BASES.name, "--seed", "1"])[0])
    drawn = [row for _ in range(4) for row in training.problem.source.prompts(8, training.batches.rng)]
    assert [json.loads(line) for line in inputs.prompts.read_text().splitlines()] == drawn
    pairs = [json.loads(line) for line in inputs.pairs.read_text().splitlines()]
    assert len(pairs) == 4 * 32 and all(set(row) == {"prompt", "chosen", "rejected"} for row in pairs)
    assert all(task.reward([""] * 2, [row["chosen"], row["rejected"]]) == [1, 0] for row in pairs)
    assert set("".join(row["prompt"] for row in pairs)) == set("xy")
    assert inputs.model in Path(BASES.name).iterdir() and inputs.completion_length == 3
    found = score("support.lm_task:TASK", inputs.model)
    assert 0.1 < found["mean"] < 0.6 and found["greedy"] in (0, 1)


def test_held_out_prompts_are_left_out_where_there_are_others() -> None:
    rounds = [[{"prompt": name} for name in names] for names in ("abc", "ac", "de")]
    assert [row["prompt"] for row in taken(rounds, 4, set("a"))] == ["b", "c", "c", "d"]
    assert [row["prompt"] for row in taken(rounds, 4, set("abc"))] == ["a", "b", "c", "a"]


# Commands


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_both_sides_have_the_same_batches(method, task, driver) -> None:
    theirs = driver("flags")
    command = arguments(method, task, 3, 200, INPUTS, Path("/somewhere/run"))
    assert os.path.join(*["..", "somewhere", "run"]) in " ".join(command)
    if method.library == "TRL":
        assert Path(command[0]).name == "train.py" and (ROOT / command[0]).exists()
        options = theirs.flags().parse_args(command[1:])
        assert (options.method, options.learning_rate, options.updates) == (*list(asdict(method).values())[1:],)
        assert (options.rollouts, options.seed, options.completion_length) == (200, 3, 9)
        assert options.data.name == ("pairs.jsonl" if method.offline else "prompts.jsonl")
        assert options.reward == (None if method.offline else task)
        return
    assert command[:2] == ["-m", "runners.lm"]
    config, _ = parse(command[2:])
    options, data = config.learner, config.data
    assert (config.agent.method, options.learning_rate, options.updates) == (*list(asdict(method).values())[1:],)
    assert (options.rollouts, options.seed, options.threads, options.weight_decay) == (200, 3, 1, 0)
    assert (options.max_gradient_norm, data.sampling_temperature, data.completions) == (1, 1, theirs.COMPLETIONS)
    if method.offline:
        assert (data.prompts, config.agent.dpo_beta, data.completion_length) == (theirs.PAIRS, 0.1, 9)
        assert data.data.endswith("pairs.jsonl") and data.model.endswith("bases/base")
    else:
        assert (data.prompts, data.task) == (theirs.PROMPTS, task) and data.base_dir.endswith("somewhere/bases")


def test_names_of_folders_differ() -> None:
    assert len({method.name for method in METHODS}) == len(METHODS)
    assert YARDSTICK == Method("TRL", "grpo", 1e-4, updates=4)


def test_a_run_has_one_core_and_one_thread_and_not_this_projects_path(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    folder = tmp_path / "run"
    (folder / "left").mkdir(parents=True)
    summary = run([str(executable(tmp_path / "python")), "--run-dir", str(folder)], folder)
    assert (summary["cores"], summary["threads"], summary["path"]) == ([CORE], "1", False)
    assert not (folder / "left").exists()


def test_what_fails_is_told_with_its_last_words(tmp_path) -> None:
    with pytest.raises(RunError, match="exit code 3: no pad token"):
        run([sys.executable, "-c", "import sys; print('no pad token'); sys.exit(3)"], tmp_path / "run")


# What is kept


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Everything but the bookkeeping and the processes; how often data was prepared."""
    prepared = []

    def data(task, seed, rollouts, bases, folder):
        prepared.append(seed)
        folder.mkdir(parents=True, exist_ok=True)
        return INPUTS

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(comparison, "FOLDER", tmp_path / "runs")
    monkeypatch.setattr(comparison, "prepare", data)
    monkeypatch.setattr(comparison, "score", lambda task, model: {"mean": 0.5, "greedy": 0.75})
    monkeypatch.setattr(comparison, "install", lambda: executable(tmp_path / "trl"))
    monkeypatch.setattr(comparison, "sys", type("", (), {"executable": str(executable(tmp_path / "ours"))}))
    yield prepared
    signal.signal(signal.SIGTERM, handler)


def test_a_second_call_runs_what_is_missing(tmp_path, fakes, capsys) -> None:
    target = tmp_path / "new/sort.json"
    flags = ["--seeds", "1", "--json", str(target)]
    assert trl.main(flags) == 0
    first = json.loads(target.read_text())
    assert [run["method"] for run in first["runs"]] == [method.method for method in METHODS] and fakes == [0]
    first["runs"] = [run for run in first["runs"] if run["method"] != "rloo"]
    target.write_text(json.dumps(first))
    capsys.readouterr()
    assert trl.main(["--seeds", "2", *flags[2:]]) == 0
    second = json.loads(target.read_text())
    assert second["runs"][: len(METHODS) - 1] == first["runs"] and fakes == [0, 0, 1]
    later = [(run["method"], run["seed"]) for run in second["runs"][len(METHODS) - 1 :]]
    assert later == [("rloo", 0), *((method.method, 1) for method in METHODS)]
    assert capsys.readouterr().out.count("50 ms a batch") == len(METHODS) + 1
    assert trl.main(flags) == 0 and fakes == [0, 0, 1]
    assert json.loads(target.read_text()) == second | {"command": second["command"]}


def test_what_fails_is_told_and_tried_again(tmp_path, fakes, monkeypatch, capsys) -> None:
    target = tmp_path / "sort.json"
    flags = ["--seeds", "1", "--json", str(target)]
    monkeypatch.setattr(comparison, "install", lambda: executable(tmp_path / "trl"))
    sound = comparison.arguments
    monkeypatch.setattr(comparison, "arguments", lambda method, *rest: [*sound(method, *rest), method.library])
    (tmp_path / "breaks").write_text("")
    monkeypatch.setattr(comparison, "install", lambda: executable(tmp_path / "breaks"))
    with pytest.raises(RunError, match="3 runs failed, the first: trl-dpo-1x1e-05, seed 0: it ended with exit code 1"):
        trl.main(flags)
    assert "no such loss" in capsys.readouterr().out
    assert len(json.loads(target.read_text())["runs"]) == len(METHODS) - 3
    monkeypatch.setattr(comparison, "install", lambda: executable(tmp_path / "trl"))
    assert trl.main(flags) == 0
    assert len(json.loads(target.read_text())["runs"]) == len(METHODS)


def test_commands_are_kept_as_a_user_would_type_them(tmp_path, fakes) -> None:
    target = tmp_path / "sort.json"
    trl.main(["--seeds", "1", "--json", str(target)])
    for kept in json.loads(target.read_text())["runs"]:
        ours = kept["library"] == "GEMPI"
        assert kept["command"][0] == ("python" if ours else os.path.relpath(tmp_path / "trl", ROOT))
        assert kept["command"][1] == ("-m" if ours else "results/trl/drivers/train.py")


def test_a_file_of_another_comparison_is_refused(tmp_path) -> None:
    target = tmp_path / "sort.json"

    def opened(*flags: str) -> dict:
        return comparison.opened(comparison.parse_options(["--json", str(target), *flags]), ["new"])

    write_figures(target, opened() | {"runs": [{"seed": 0}], "command": ["old"]})
    assert opened() == {
        **{"command": ["python", "-m", "results.trl", "new"], "task": "sort", "rollouts": 200, "machine": machine()},
        "runs": [{"seed": 0}],
    }
    with pytest.raises(UsageError, match="has task sort, not walks"):
        opened("--task", "walks")
    with pytest.raises(UsageError, match="has rollouts 200, not 3"):
        opened("--rollouts", "3")
    target.write_text(json.dumps(json.loads(target.read_text()) | {"machine": machine() | {"cores": 999}}))
    with pytest.raises(UsageError, match="give another --json"):
        opened()


def test_a_run_of_another_length_is_none(tmp_path, fakes) -> None:
    with pytest.raises(RunError, match="it took 200 gradient steps, not 3"):
        trl.main(["--seeds", "1", "--rollouts", "3"])


# The losses of DPO


def by_hand(flags: dict[str, str]) -> dict[str, float]:
    """-log sigmoid(beta (log-ratio of the chosen - log-ratio of the rejected)), a text at a time, in float64."""
    policy, reference = (load_model(flags[name]).double() for name in ("--policy", "--model"))
    tokenizer = load_tokenizer(flags["--model"])

    def log_prob(model: torch.nn.Module, prompt: str, text: str) -> torch.Tensor:
        start, ids = (tokenizer(x)["input_ids"] for x in (prompt, prompt + text + tokenizer.eos_token))
        ids = torch.tensor([ids[: len(start) + int(flags["--completion-length"])]])
        every = model(ids).logits.log_softmax(2)[0, :-1].gather(1, ids[0, 1:, None])
        return every[len(start) - 1 :].sum()

    losses = []
    for row in map(json.loads, Path(flags["--data"]).read_text().splitlines()):
        chosen, rejected = (
            log_prob(policy, row["prompt"], row[name]) - log_prob(reference, row["prompt"], row[name])
            for name in ("chosen", "rejected")
        )
        losses.append(-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)))
    loss = torch.stack(losses).mean()
    gradients = torch.autograd.grad(loss, list(policy.parameters()))
    return {"loss": loss.item(), "gradient_norm": sum(g.square().sum() for g in gradients).sqrt().item()}


@pytest.mark.parametrize("wrong", [None, "loss", "gradient_norm"])
def test_the_check_of_dpo_by_hand(tmp_path, monkeypatch, wrong) -> None:
    def driver(command, folder):
        flags = dict(zip(command[2::2], command[3::2], strict=True))
        flags |= {name: ROOT / flags[name] for name in ("--model", "--data")}
        found = by_hand({name: str(value) for name, value in flags.items()})
        assert found["loss"] > 0.1 and found["gradient_norm"] > 0.01
        return found | ({wrong: found[wrong] + 1e-5} if wrong else {})

    monkeypatch.setattr(dpo, "run", driver)
    how = Path("python"), "support.lm_task:TASK", Path(BASES.name), tmp_path
    if wrong is None:
        assert dpo.check(*how).startswith("DPO on 32 pairs of support.lm_task:TASK: loss 0.")
        return
    with pytest.raises(RunError, match=f"the {wrong.replace('_', ' ')} differs by (1.0e-05|9.9e-06)"):
        dpo.check(*how)


# The table


def figures(*runs: tuple[Method, int, float, float]) -> dict:
    """Of runs: method, seed, sampled reward, processor seconds of 200 batches."""
    kept = [
        asdict(method)
        | {"seed": seed, "mean": mean, "greedy": mean, "before": {"mean": 0.5 + seed / 10, "greedy": 1.0}}
        | {"rollouts": 200, "cpu_seconds": cpu, "versions": {"trl": "1"}, "git_commit": f"{seed:x}" * 40}
        for method, seed, mean, cpu in runs
    ]
    about = {"command": ["python", "-m", "results.trl"], "task": "sort", "rollouts": 200}
    return about | {"machine": {"processor": "a chip", "cores": 2}, "runs": kept}


def cells(page: str, start: str) -> list[str]:
    row = next(line for line in page.splitlines() if line.startswith(start))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_table() -> None:
    """The machine is half as fast for seed 1: ratios are of the same seed's runs. A reward of 0 counts."""
    ours = METHODS[4]
    runs = [(YARDSTICK, 0, 0.9, 40), (YARDSTICK, 1, 0.8, 80), (ours, 0, 0.9, 20), (ours, 1, 0.0, 32), (ours, 2, 0.9, 9)]
    page = table(figures(*runs))
    assert cells(page, "| Library") == HEADER
    assert cells(page, "| – | base model")[4:8] == ["3", "0.600", "0.600 [0.500, 0.700]", "1.000"]
    grpo = ["TRL", "GRPO", "1e-4", "200 x 4", "2", "0.850", "0.850 [0.800, 0.900]", "0.850"]
    assert cells(page, "| TRL") == [*grpo, "300", "1.00 [1.00, 1.00]"]
    vmpo = ["GEMPI", "V-MPO", "1e-4", "200 x 4", "3", "0.600", "0.600 [0.000, 0.900]", "0.600"]
    assert cells(page, "| GEMPI") == [*vmpo, "100", "0.45 [0.40, 0.50]"]
    assert "a chip, 2 cores. Versions: trl 1. Commit: 0000000000, 1111111111, 2222222222." in page


def test_without_the_yardstick_there_is_no_ratio() -> None:
    assert cells(table(figures((METHODS[0], 0, 1.0, 10))), "| TRL")[-2:] == ["50", "–"]


def test_what_is_kept_is_shown_and_nothing_else(tmp_path) -> None:
    assert table(figures()) == overview(tmp_path) == ""
    (tmp_path / "results/pages").mkdir(parents=True)
    (tmp_path / "results/pages/trl.md").write_text("<!-- results:trl -->")
    (page,) = pages([], tmp_path).values()
    assert page == "Nothing measured yet by results.trl."
    (tmp_path / "results/data/trl").mkdir(parents=True)
    for name in ("sort", "walks"):
        told = figures((YARDSTICK, 0, 0.9, 40)) | {"task": name}
        (tmp_path / f"results/data/trl/{name}.json").write_text(json.dumps(told))
    (tmp_path / "results/data/trl/empty.json").write_text(json.dumps(figures()))
    (page,) = pages([], tmp_path).values()
    assert page.count("Measured by `python -m results.trl`.") == 2 == page.count("| TRL | GRPO |")
    assert page.index("Task `sort`") < page.index("Task `walks`")


# The command


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--rollouts", "0"], "--rollouts must be at least 1"),
        (["--task", "chess"], "chess"),
        (["--seed", "1"], "--seed"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, says) -> None:
    with pytest.raises(UsageError, match=says) as error:
        trl.main(flags)
    assert "\n" not in str(error.value)


def test_what_cannot_be_installed_is_one_line(monkeypatch) -> None:
    def fails(name, packages, folder):
        assert name == "trl" and any(line.startswith("trl==") for line in packages)
        raise RunError("could not be installed: no matching distribution")

    monkeypatch.setattr(comparison, "ensure", fails)
    with pytest.raises(RunError, match="^trl could not be installed: no matching distribution$"):
        trl.main(["--seeds", "1"])
