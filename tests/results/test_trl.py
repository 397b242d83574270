"""results/trl: rewards, data, commands and batches of both sides; what is kept of runs; the table; the loss of DPO."""

import argparse
import importlib
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from results import ROOT
from results.report import pages
from results.trl import __main__ as trl
from results.trl import comparison
from results.trl.catalogue import METHODS, TASKS, YARDSTICK, Method
from results.trl.comparison import command_of, run, score
from results.trl.data import Inputs, prepare, taken
from results.trl.table import HEADER, table
from runners.errors import RunError, UsageError
from runners.lm.cli import parse
from runners.lm.model import load_model, load_tokenizer
from runners.lm.sources import find_task
from runners.lm.training import LMTraining

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
    """The module of TRL's side, with stand-ins for what its environment alone has."""
    for name in ("trl", "datasets", "transformers"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.delitem(sys.modules, "results.trl.driver", raising=False)
    yield importlib.import_module("results.trl.driver")
    sys.modules.pop("results.trl.driver")


def executable(path: Path) -> Path:
    path.write_text(f"#!{sys.executable}\n{FAKE}")
    path.chmod(0o755)
    return path


# Rewards


@pytest.mark.parametrize("name", TASKS)
def test_a_reward_of_trl_is_the_tasks(driver, name) -> None:
    """TRL hands over whatever else it knows as keywords."""
    task = find_task(name)
    prompts, completions = zip(*task.demonstrations(50, np.random.default_rng(0)), strict=True)
    completions = [*completions[:25], *(text[:-1] for text in completions[25:])]
    found = driver.reward(name)(prompts=prompts, completions=completions, completion_ids=None, trainer_state=None)
    assert found == task.reward(prompts, completions) and len(set(found)) > 1


def test_the_driver_imports_nothing_of_the_project_but_tasks() -> None:
    for line in (ROOT / "results/trl/driver.py").read_text().splitlines():
        words = line.split()
        if line.startswith(("import ", "from ")):
            assert words[1].split(".")[0] not in ("agents", "envs", "networks", "results", "runners"), line
        elif "import_module" in line:
            assert "runners.lm.tasks." in line


# Data


def test_both_sides_see_the_same_prompts_and_pairs_are_right_against_wrong(tmp_path) -> None:
    task = find_task("support.lm_task:TASK")
    inputs = prepare("support.lm_task:TASK", 1, 4, Path(BASES.name), tmp_path)
    training = LMTraining(parse(["--task", "support.lm_task:TASK", "--base-dir", BASES.name, "--seed", "1"])[0])
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
    def draw():
        rounds = iter(("abc", "ac", "de"))
        return lambda: [{"prompt": name} for name in next(rounds)]

    assert [row["prompt"] for row in taken(draw(), 4, set("a"))] == ["b", "c", "c", "d"]
    assert [row["prompt"] for row in taken(draw(), 4, set("abc"))] == ["a", "b", "c", "a"]


# Commands


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_both_sides_have_the_same_batches(method, task, driver) -> None:
    command = command_of(method, task, 3, 200, INPUTS, Path("/somewhere/run"), ROOT / "runs/trl/python")
    assert os.path.join(*["..", "somewhere", "run"]) in " ".join(command)
    if method.library == "TRL":
        assert command[:3] == ["runs/trl/python", "-m", "results.trl.driver"]
        options = driver.flags().parse_args(command[3:])
        assert (options.method, options.learning_rate, options.updates) == (*list(asdict(method).values())[1:],)
        assert (options.rollouts, options.seed, options.completion_length) == (200, 3, 9)
        assert options.data.name == ("pairs.jsonl" if method.offline else "prompts.jsonl") and options.task == task
        return
    assert command[:3] == ["python", "-m", "runners.lm"]
    config, _ = parse(command[3:])
    options, data = config.learner, config.data
    assert (config.agent.method, options.learning_rate, options.updates) == (*list(asdict(method).values())[1:],)
    assert (options.rollouts, options.seed, options.threads, options.weight_decay) == (200, 3, 1, 0)
    assert (options.max_gradient_norm, data.sampling_temperature, data.completions) == (1, 1, driver.COMPLETIONS)
    if method.offline:
        assert (data.prompts, config.agent.dpo_beta, data.completion_length) == (driver.PAIRS, 0.1, 9)
        assert data.data.endswith("pairs.jsonl") and data.model.endswith("bases/base")
    else:
        assert (data.prompts, data.task) == (driver.PROMPTS, task) and data.base_dir.endswith("somewhere/bases")


def test_names_of_folders_differ() -> None:
    assert len({method.name for method in METHODS}) == len(METHODS)
    assert YARDSTICK == Method("TRL", "grpo", 1e-4, updates=4)


def test_a_run_has_one_core_and_one_thread_and_not_this_projects_path(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    folder = tmp_path / "run"
    (folder / "left").mkdir(parents=True)
    summary = run([str(executable(tmp_path / "python")), "--run-dir", str(folder)], folder, [CORE])
    assert (summary["cores"], summary["threads"], summary["path"]) == ([CORE], "1", False)
    assert not (folder / "left").exists()


def test_what_fails_is_told_with_its_last_words(tmp_path) -> None:
    with pytest.raises(RunError, match="exit code 3: no pad token"):
        run(["python", "-c", "import sys; print('no pad token'); sys.exit(3)"], tmp_path / "run", [CORE])


# What is kept


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Everything but the bookkeeping and the processes; how often data was prepared."""
    prepared = []

    def data(task, seed, rollouts, bases, folder):
        prepared.append(seed)
        folder.mkdir(parents=True, exist_ok=True)
        return INPUTS

    command = comparison.command_of

    def faked(method, *rest):
        """Return the command of either side with an executable in the place of its Python."""
        words = command(method, *rest)
        return [str(executable(tmp_path / "ours")), *words[1:]] if words[0] == "python" else words

    monkeypatch.setattr(comparison, "FOLDER", tmp_path / "runs")
    monkeypatch.setattr(comparison, "prepare", data)
    monkeypatch.setattr(comparison, "score", lambda task, model: {"mean": 0.5, "greedy": 0.75})
    monkeypatch.setattr(comparison, "ensure", lambda *_: executable(tmp_path / "trl"))
    monkeypatch.setattr(comparison, "command_of", faked)
    return prepared


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
    monkeypatch.setattr(comparison, "ensure", lambda *_: executable(tmp_path / "breaks"))
    with pytest.raises(RunError, match="3 failed, the first: trl-dpo-1x1e-05, seed 0: it ended with exit code 1"):
        trl.main(flags)
    assert "no such loss" in capsys.readouterr().out
    assert len(json.loads(target.read_text())["runs"]) == len(METHODS) - 3
    monkeypatch.setattr(comparison, "ensure", lambda *_: executable(tmp_path / "trl"))
    assert trl.main(flags) == 0
    assert len(json.loads(target.read_text())["runs"]) == len(METHODS)


def test_a_file_of_another_comparison_is_refused(tmp_path, fakes) -> None:
    target = tmp_path / "sort.json"
    flags = ["--seeds", "1", "--json", str(target)]
    assert trl.main(flags) == 0
    with pytest.raises(UsageError, match="has task sort, not walks"):
        trl.main([*flags, "--task", "walks"])
    with pytest.raises(UsageError, match="has rollouts 200, not 3"):
        trl.main([*flags, "--rollouts", "3"])
    kept = json.loads(target.read_text())
    target.write_text(json.dumps(kept | {"machine": kept["machine"] | {"cores": 999}}))
    with pytest.raises(UsageError, match="give another --json"):
        trl.main(flags)


def test_a_run_of_another_length_is_none(tmp_path, fakes) -> None:
    with pytest.raises(RunError, match="it took 200 gradient steps, not 3"):
        trl.main(["--seeds", "1", "--rollouts", "3"])


# The losses of DPO


def by_hand(policy: Path, inputs: Inputs) -> dict[str, float]:
    """-log sigmoid(beta (log-ratio of the chosen - log-ratio of the rejected)), a text at a time, in float64."""
    policy, reference = (load_model(str(path)).double() for path in (policy, inputs.model))
    tokenizer = load_tokenizer(str(inputs.model))

    def log_prob(model: torch.nn.Module, prompt: str, text: str) -> torch.Tensor:
        start, ids = (tokenizer(x)["input_ids"] for x in (prompt, prompt + text + tokenizer.eos_token))
        ids = torch.tensor([ids[: len(start) + inputs.completion_length]])
        every = model(ids).logits.log_softmax(2)[0, :-1].gather(1, ids[0, 1:, None])
        return every[len(start) - 1 :].sum()

    losses = []
    for row in map(json.loads, inputs.pairs.read_text().splitlines()):
        chosen, rejected = (
            log_prob(policy, row["prompt"], row[name]) - log_prob(reference, row["prompt"], row[name])
            for name in ("chosen", "rejected")
        )
        losses.append(-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)))
    return loss_and_norm(torch.stack(losses).mean(), policy)


def by_trl(policy: Path, inputs: Inputs, folder: Path) -> dict[str, float]:
    """The driver's trainer on all pairs in one batch."""
    pytest.importorskip("trl")
    driver = importlib.import_module("results.trl.driver")
    given = {"method": "dpo", "task": "sort", "model": inputs.model, "data": inputs.pairs, "run_dir": folder}
    given |= {"rollouts": 1, "updates": 1, "seed": 0, "learning_rate": 1e-5}
    trainer = driver.make(argparse.Namespace(**given, completion_length=inputs.completion_length))
    trainer.model.load_state_dict(load_model(str(policy)).state_dict())
    batch = trainer.data_collator(list(trainer.train_dataset))
    return loss_and_norm(trainer.compute_loss(trainer.model, batch), trainer.model)


def loss_and_norm(loss: torch.Tensor, model: torch.nn.Module) -> dict[str, float]:
    gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    return {"loss": loss.item(), "gradient_norm": sum(g.square().sum() for g in gradients).sqrt().item()}


@pytest.mark.parametrize("theirs", ["by hand", "TRL"])
def test_the_loss_of_dpo_is_that_of_others(tmp_path, theirs) -> None:
    """The policy is the base model of random seed 1, the reference that of seed 0. With TRL where it is installed."""
    inputs, policy = (
        prepare("support.lm_task:TASK", seed, 1, Path(BASES.name), tmp_path / str(seed)) for seed in (0, 1)
    )
    expected = by_hand(policy.model, inputs) if theirs == "by hand" else by_trl(policy.model, inputs, tmp_path)
    pairs = str(inputs.pairs)
    flags = ["--model", str(inputs.model), "--data", pairs, "--eval-data", pairs, "--prompts", "32", "--device", "cpu"]
    flags += ["--completion-length", str(inputs.completion_length)]
    training = LMTraining(parse(["--method", "dpo", *flags])[0])
    training.model.load_state_dict(load_model(str(policy.model)).state_dict())
    batch = training.batches.next()
    metrics = training.learner.train(batch, training.learner.plan(batch.samples, 1))
    found = {"loss": metrics["m_step/policy_loss"].item(), "gradient_norm": metrics["m_step/gradient_norm"].item()}
    assert found == pytest.approx(expected, rel=1e-6) and found["loss"] > 0.1 and found["gradient_norm"] > 0.01


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


def test_without_the_yardstick_there_is_no_ratio() -> None:
    assert cells(table(figures((METHODS[0], 0, 1.0, 10))), "| TRL")[-2:] == ["50", "–"]


def test_what_is_kept_is_shown_and_nothing_else(tmp_path) -> None:
    (tmp_path / "results/pages").mkdir(parents=True)
    (tmp_path / "results/pages/trl.md").write_text((ROOT / "results/pages/trl.md").read_text())
    (page,) = pages([], tmp_path).values()
    assert page.endswith("Nothing measured yet by `python -m results.trl`.\n")
    (tmp_path / "results/data/trl").mkdir(parents=True)
    runs = [(YARDSTICK, seed, 0.9, 40) for seed in (0, 1)]
    for name in ("sort", "walks"):
        (tmp_path / f"results/data/trl/{name}.json").write_text(json.dumps(figures(*runs) | {"task": name}))
    (tmp_path / "results/data/trl/empty.json").write_text(json.dumps(figures()))
    (page,) = (" ".join(text.split()) for text in pages([], tmp_path).values())
    assert page.count("Measured by `python -m results.trl`.") == 2 == page.count("| TRL | GRPO |")
    assert page.index("Task `sort`") < page.index("Task `walks`")
    assert "a chip, 2 cores. Versions: trl 1. Commit: 0000000000, 1111111111." in page


# The command


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seeds", "0"], "--seeds must be greater than 0"),
        (["--rollouts", "0"], "--rollouts must be greater than 0"),
        (["--task", "chess"], "chess"),
        (["--seed", "1"], "--seed"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, says) -> None:
    with pytest.raises(UsageError, match=says) as error:
        trl.main(flags)
    assert "\n" not in str(error.value)
