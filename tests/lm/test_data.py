"""Language-model runs on rows of a file: TRL's columns, reward functions, offline samples, preferences, LoRA."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from networks.language import token_log_probs
from runners.errors import UsageError
from runners.lm import training as training_module
from runners.lm.base import kept_base_model
from runners.lm.cli import parse
from runners.lm.evaluation import evaluate
from runners.lm.launch import main
from runners.lm.model import character_tokenizer
from runners.lm.problem import Problem
from runners.lm.rows import read_rows, require_path
from runners.lm.sources import RowSource, TaskSource
from runners.lm.training import LMTraining
from runners.machine.ranks import OneRank
from runners.records.checkpoint import Checkpoints
from support.lm_task import TASK

FAST = "--log-rollouts 1 --learning-rate 3e-3 --completion-length 3 --rollouts 30 --eval-prompts 64"
PROMPTS = TASK.prompts(80, np.random.default_rng(5))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A folder of a model that says a, b or c, each as often."""
    folder = tmp_path_factory.mktemp("models") / "base"
    problem = Problem(TaskSource(TASK), character_tokenizer(TASK.alphabet), torch.device("cpu"))
    kept_base_model(problem, 0, 0.0, folder)
    return str(folder)


@pytest.fixture
def write(tmp_path):
    def to_file(rows) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return to_file


def train(model: str, data: str, *flags: str) -> LMTraining:
    training = LMTraining(parse([*FAST.split(), "--model", model, "--data", data, *flags])[0])
    for _ in training.run():
        pass
    return training


def share_of_b(training: LMTraining) -> float:
    """How often the trained model says b to prompts it may have seen."""
    problem = Problem(TaskSource(TASK), training.problem.tokenizer, training.device)
    return evaluate(training.config, problem, training.model)["mean"]


def test_prompts_and_a_reward_function_with_columns(model, write):
    data = write({"prompt": prompt, "answer": "b"} for prompt in PROMPTS)
    training = train(model, data, "--reward", "support.lm_rewards:says")
    assert share_of_b(training) > 0.8
    assert len(training.problem.source.held_out(100)) == 8 and len(training.problem.source.rows) == 72


class SecondRank(OneRank):
    rank = 1


def test_other_ranks_resume_with_rows_of_their_own(model, write):
    """The state is the first rank's, and so are the rows that it was about to take."""
    data = write({"prompt": prompt, "answer": "b"} for prompt in PROMPTS)
    first = train(model, data, "--reward", "support.lm_rewards:says", "--rollouts", "1")
    state = first.get_state()
    again, other = (LMTraining(first.config, ranks, fresh=False) for ranks in (OneRank(), SecondRank()))
    again.set_state(state)
    other.set_state(state)
    coming = first.batches._prompts()
    assert again.batches._prompts() == coming != other.batches._prompts()


def test_completions_without_a_reward_do_not_count(model, write):
    data = write({"prompt": prompt, "answer": "b"} for prompt in ["x", "y"] * 20)
    training = LMTraining(
        parse([*FAST.split(), "--model", model, "--data", data, "--reward", "support.lm_rewards:says"])[0]
    )
    batch = training.batches.next()
    asked = training.problem.tokenizer.batch_decode(batch.prompts.tokens)
    assert {prompt for prompt, counts in zip(asked, batch.samples.mask.any(1), strict=True) if counts} == {"x"}
    assert (batch.samples.advantages[~batch.samples.mask.any(1)] == 0).all()
    assert np.isfinite(float(batch.metrics["reward/train"]))


@pytest.mark.parametrize(
    "method, baseline",
    [*((name, "batch") for name in ("topk-dar", "awr", "dar", "rl-em")), ("dar", "value"), ("dar", "token")],
)
def test_completions_with_rewards_are_learned_from_offline(model, write, method, baseline):
    rng = np.random.default_rng(0)
    rows = []
    for prompt in PROMPTS * 3:
        completion = str(rng.choice(list("abc")))
        rows.append({"prompt": prompt, "completion": completion, "reward": float(completion == "b")})
    flags = ("--method", method, "--baseline", baseline, "--prompts", "64")
    flags += ("--lambda-reference" if method == "rl-em" else "--lambda-behaviour", "0.3")
    assert share_of_b(train(model, write(rows), *flags)) > 0.7


def test_preferences_are_rewards_for_em_methods_and_pairs_for_dpo(model, write):
    data = write({"prompt": prompt, "chosen": "b", "rejected": "a"} for prompt in PROMPTS)
    assert share_of_b(train(model, data, "--method", "topk-dar", "--baseline", "batch")) > 0.7
    assert share_of_b(train(model, data, "--method", "dpo", "--rollouts", "60")) > 0.8


def test_dpo_reads_pairs_in_turn(model, write):
    data = write({"prompt": prompt, "chosen": "bc", "rejected": "a"} for prompt in PROMPTS)
    training = LMTraining(parse([*FAST.split(), "--model", model, "--data", data, "--method", "dpo"])[0])
    batch = training.batches.next()
    assert training.problem.decode(batch.completions)[:4] == ["bc", "a", "bc", "a"]
    assert torch.equal(batch.prompts.tokens[::2], batch.prompts.tokens[1::2])
    want = token_log_probs(training.model.eval(), batch.prompts, *batch.completions[:2])
    torch.testing.assert_close(batch.samples.reference, want.detach())


def test_stored_log_probabilities_are_pi_t(model, write):
    stored = [-0.5, -0.25]
    rows = [{"prompt": p, "completion": "b", "reward": 1.0, "log_probs": stored} for p in PROMPTS]
    training = LMTraining(parse([*FAST.split(), "--model", model, "--data", write(rows), "--baseline", "batch"])[0])
    behaviour = training.batches.next().samples.behaviour
    assert behaviour[0].tolist() == stored
    assert training.policies._models() == [training.model]  # nobody asks for the start, which would be another copy
    rows[0]["log_probs"] = [-0.5]
    with pytest.raises(UsageError, match="1 log_probs for 2 tokens"):
        LMTraining(parse([*FAST.split(), "--model", model, "--data", write(rows)])[0])


def test_sft_on_messages(model, write):
    tokenizer = character_tokenizer(TASK.alphabet)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}x{% endif %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}x{% endif %}"
    )
    turns = [{"role": "user", "content": "yy"}, {"role": "assistant", "content": "b"}]
    (row,) = read_rows(write([{"messages": turns, "prompt": "yy"}]), tokenizer)
    assert row == {"prompt": "yyx", "completion": "b"}
    worse = [turns[0], {"role": "assistant", "content": "a"}]
    (row,) = read_rows(write([{"prompt": "yy", "chosen": turns, "rejected": worse}]), tokenizer)
    assert row == {"prompt": "yyx", "chosen": "b", "rejected": "a"}
    (row,) = read_rows(write([{"prompt": turns[:1], "chosen": turns[1:], "rejected": worse[1:]}]), tokenizer)
    assert row == {"prompt": "yyx", "chosen": "b", "rejected": "a"}
    other = [{"role": "user", "content": "x"}, turns[1]]
    for wrong, says in (
        ({"messages": turns + turns[:1]}, "the last turn of completion must be the assistant's"),
        ({"chosen": turns, "rejected": other}, "chosen and rejected must be one turn each"),
        ({"prompt": turns[:1], "chosen": turns, "rejected": worse}, "must be one turn each"),
        ({"messages": [turns[0], {"role": "assistant"}]}, "not role and content"),
        ({"messages": None}, "two messages at least"),
    ):
        with pytest.raises(UsageError, match=says):
            read_rows(write([wrong]), tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(UsageError, match="row 1 has messages that the model's chat template refuses: no system turns"):
        read_rows(write([{"messages": turns}]), tokenizer)


def test_sft_on_completions(model, write):
    data = write({"prompt": prompt, "completion": "b"} for prompt in PROMPTS)
    assert share_of_b(train(model, data, "--method", "sft")) > 0.8


def test_lora_trains_its_matrices_alone_and_keeps_the_start(model, write):
    """It learns to say two letters; which, the embedding decides, whose letters are alike and which is not trained."""
    pytest.importorskip("peft")
    data = write({"prompt": prompt} for prompt in PROMPTS)
    flags = "--reward support.lm_rewards:is_long --lora 4 --method gempi --anchors both --temperature fixed"
    flags = [*flags.split(), "--trust-region", "none", "--lambda-behaviour", "0.2", "--learning-rate", "1e-2"]
    before = LMTraining(parse([*FAST.split(), "--model", model, "--data", data, *flags])[0])
    training = train(model, data, *flags)
    trained = sum(p.numel() for p in training.learner.trained)
    assert 0 < trained < sum(p.numel() for p in training.model.parameters())
    batch = before.batches.next()
    with training.policies.start() as start:
        kept = token_log_probs(start.eval(), batch.prompts, *batch.completions[:2])
        at_first = evaluate(training.config, training.problem, start)["mean"]
    torch.testing.assert_close(kept, batch.samples.reference)
    at_last = evaluate(training.config, training.problem, training.model)["mean"]
    assert at_first < 0.3 and at_last > 0.8, (at_first, at_last)
    resumed = LMTraining(training.config, fresh=False)
    resumed.set_state(training.get_state())
    torch.testing.assert_close(
        token_log_probs(resumed.model.eval(), batch.prompts, *batch.completions[:2]),
        token_log_probs(training.model.eval(), batch.prompts, *batch.completions[:2]),
    )


def test_an_adapter_is_a_model_to_start_from(model, write, tmp_path):
    """And an adapter of that one again."""
    pytest.importorskip("peft")
    data = write({"prompt": prompt} for prompt in PROMPTS)
    flags = [*FAST.split(), "--data", data, "--reward", "support.lm_rewards:is_long", "--rollouts", "3"]
    for start, run in ((model, tmp_path / "first"), (str(tmp_path / "first" / "model"), tmp_path / "second")):
        assert main([*flags, "--model", start, "--lora", "4", "--run-dir", str(run)]) == 0
        assert not (run / "model" / "model.safetensors").exists()
        adapted = LMTraining(parse([*flags, "--model", start, "--lora", "4"])[0])
        adapted.set_state(Checkpoints(run / "checkpoints").latest().state)
        merged = LMTraining(parse([*flags, "--model", str(run / "model")])[0])
        batch = adapted.batches.next()
        torch.testing.assert_close(
            token_log_probs(merged.model.eval(), batch.prompts, *batch.completions[:2]),
            token_log_probs(adapted.model.eval(), batch.prompts, *batch.completions[:2]),
        )
        assert len(merged.learner.trained) == len(list(merged.model.parameters()))


@pytest.mark.parametrize(
    ("row", "flags"),
    [
        ({"completion": "b"}, "--method sft"),
        ({"chosen": "b", "rejected": "a"}, "--method dpo"),
        ({"completion": "b", "reward": 1.0}, "--method awr --baseline none"),
    ],
)
def test_without_a_reward_function_a_run_is_judged_by_the_likelihood_of_its_data(model, write, tmp_path, row, flags):
    data = write({"prompt": prompt, **row} for prompt in PROMPTS)
    run = tmp_path / "run"
    assert main([*FAST.split(), "--model", model, "--data", data, "--run-dir", str(run), *flags.split()]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["base"]["mean"] < summary["eval"]["mean"] < 0 and summary["eval"]["greedy"] is None
    assert "log-probability" in summary["eval"]["protocol"]


@pytest.mark.parametrize("baseline", ["group", "value", "token"])
def test_rewards_that_are_not_known(model, write, tmp_path, baseline):
    """Where none is, there is nothing to learn and no score; the run ends well all the same."""
    data = write({"prompt": "y", "answer": "b"} for _ in range(20))
    run, flags = tmp_path / "run", ["--reward", "support.lm_rewards:says", "--rollouts", "2", "--baseline", baseline]
    assert main([*FAST.split(), "--model", model, "--data", data, "--run-dir", str(run), *flags]) == 0
    assert json.loads((run / "summary.json").read_text())["eval"]["mean"] is None


def test_rows_come_back_before_any_comes_twice():
    source = RowSource([{"prompt": str(i)} for i in range(10)], [{"prompt": "h"}], None, 3)
    rng = np.random.default_rng(0)
    drawn = [row["prompt"] for _ in range(5) for row in source.prompts(4, rng)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == [str(i) for i in range(10)] and drawn[:10] != drawn[10:]
    again = RowSource(source.rows, [{"prompt": "h"}], None, 3)
    source.prompts(3, rng)
    again.set_state(source.get_state())
    assert again.prompts(7, rng) == source.prompts(7, rng)


def test_demonstrations_of_like_length_come_together():
    lengths = np.random.default_rng(1).integers(1, 100, 50)
    rows = [{"prompt": "p", "completion": "c" * n} for n in lengths]
    source = RowSource(rows, rows[:1], None, 3)
    rng = np.random.default_rng(0)
    batches = [[len(row["completion"]) for row in source.demonstrations(4, rng)] for _ in range(25)]
    drawn = sum(batches, [])
    assert sorted(drawn[:50]) == sorted(drawn[50:]) == sorted(lengths)
    for epoch in (batches[:12], batches[13:]):  # the batch between is of both
        assert np.mean([max(batch) - min(batch) for batch in epoch]) < 15, "of 100, where chance would give 60"
        assert epoch != sorted(epoch)


def test_held_out_rows_have_what_they_are_judged_by(model, tmp_path):
    pairs, prompts = tmp_path / "pairs.jsonl", tmp_path / "prompts.jsonl"
    pairs.write_text('{"prompt": "x", "chosen": "b", "rejected": "a"}\n' * 3)
    prompts.write_text('{"prompt": "x"}\n' * 3)
    flags = [*FAST.split(), "--model", model, "--data", str(pairs), "--eval-data", str(prompts), "--method", "dpo"]
    with pytest.raises(UsageError, match="--eval-data has no column chosen, which"):
        LMTraining(parse(flags)[0])
    LMTraining(parse([*flags, "--reward", "support.lm_rewards:is_long"])[0])
    prompts.write_text('{"prompt": "x", "chosen": "b"}\n' * 3)
    with pytest.raises(UsageError, match="column chosen, which needs rejected"):
        LMTraining(parse(flags)[0])
    offline = tmp_path / "offline.jsonl"
    offline.write_text('{"prompt": "x", "completion": "b", "reward": 1}\n' * 3)
    prompts.write_text('{"prompt": "x", "completion": "b"}\n' * 3)
    data = ["--data", str(offline), "--eval-data", str(prompts)]
    LMTraining(parse([*FAST.split(), "--model", model, *data])[0])  # its likelihood is what they are judged by


@pytest.mark.parametrize(
    ("lines", "flags", "says"),
    [
        (["{"], "", "line 1 is not JSON"),
        (["[1]"], "", "line 1 must be an object"),
        (['{"completion": "b"}'] * 3, "", "row 1 has no prompt"),
        (['{"prompt": "x"}', '{"prompt": "x", "completion": "b"}'], "", "row 2 has the columns"),
        (['{"prompt": "x", "completion": 3}'] * 3, "", "row 1: completion must be a text"),
        (['{"prompt": "x", "completion": "b", "reward": "high"}'] * 3, "", "reward must be a number"),
        (
            ['{"prompt": "xxxxxxxx"}'] * 3,
            "--reward support.lm_rewards:is_long",
            "row 1 of 3: its prompt has 8 tokens and a completion 3",
        ),
        (['{"prompt": "x"}'], "", "at least two rows"),
        (['{"prompt": "x"}'] * 3, "", "need --reward"),
        (['{"prompt": "x"}'] * 3, "--reward support.lm_rewards:nothing", "cannot be imported"),
        (['{"prompt": "x"}'] * 3, "--reward support.lm_rewards:too_few", "1 rewards for"),
        (['{"prompt": "x"}'] * 3, "--method sft", "columns prompt and completion"),
        (['{"prompt": "x", "completion": "b", "reward": 1}'] * 3, "--baseline group", "take batch"),
        (['{"prompt": "x", "completion": "b", "reward": 1}'] * 3, "--completions 3", "--completions has no effect"),
        (['{"prompt": "x", "reward": 1}'] * 3, "", "column reward, which needs completion"),
        (['{"prompt": "x", "chosen": "b"}'] * 3, "", "column chosen, which needs rejected"),
        (['{"prompt": "x", "completion": "b", "reward": 1, "log_probs": [NaN]}'] * 3, "", "log_probs must be a list"),
        (['{"prompt": "x", "completion": "b", "reward": 1, "log_probs": null}'] * 3, "", "log_probs must be a list"),
        (['{"prompt": "x"}'] * 3, "--reward support.lm_rewards:is_long --completions 1", "--completions of at least 2"),
        (['{"prompt": "x"}'] * 3, "--reward support.lm_rewards:words", "a list of numbers or None"),
        (['{"prompt": "x"}'] * 3, "--reward support.lm_rewards:forgets_to_return", "a list of numbers or None"),
        (['{"prompt": "x", "completion": "b", "reward": 1}'] * 3, "--method ppo --baseline batch", "prompts alone"),
    ],
)
def test_data_that_cannot_be_used_is_said_in_one_line(model, tmp_path, lines, flags, says):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    command = [*FAST.split(), "--model", model, "--data", str(path), "--run-dir", str(tmp_path / "run")]
    with pytest.raises(UsageError) as error:
        main([*command, *flags.split()])
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--data nowhere.jsonl", "--data needs --model"),
        ("--reward support.lm_rewards:says", "go with --data"),
        ("--lora -1", "--lora must not be negative"),
    ],
)
def test_flags_that_do_not_go_together(flags, says):
    with pytest.raises(UsageError, match=says):
        main(flags.split())


ROWS = [{"prompt": "a>", "completion": "b"}, {"prompt": "b>", "completion": "a"}]


@pytest.fixture
def library(monkeypatch):
    """What the datasets library offers, of which runs with .jsonl files alone need nothing."""

    def load_dataset(name: str, split: str) -> list[dict]:
        if (name, split) != ("org/rows", "train"):
            raise ValueError(f"no dataset {name}")
        return ROWS

    def load_from_disk(name: str):
        return {"splits": {"train": ROWS, "test": []}, "rows": ROWS, "test only": {"test": ROWS}}[Path(name).name]

    monkeypatch.setitem(
        sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, load_from_disk=load_from_disk)
    )


@pytest.mark.parametrize("name", ["splits", "rows", "org/rows"])
def test_rows_of_a_dataset(name, library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("splits", "rows"):
        Path(folder).mkdir()
    assert read_rows(name, character_tokenizer(TASK.alphabet)) == ROWS


@pytest.mark.parametrize("name", ["test only", "org/others"])
def test_a_dataset_that_cannot_be_read_is_one_line(name, library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("test only").mkdir()
    with pytest.raises(UsageError, match=f"{name} is no .jsonl file, nor can datasets load its split train") as error:
        read_rows(name, character_tokenizer(TASK.alphabet))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["/nowhere.jsonl", "rows.csv", "data/rows.parquet", "./rows", "no/such/folder"])
@pytest.mark.parametrize("option", ["--data", "--eval-data"])
def test_data_that_is_nowhere_is_said_before_a_model_is_fetched(option, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_module, "load_tokenizer", lambda _: pytest.fail("fetched"))
    with pytest.raises(UsageError, match=f"^{option} {name} cannot be read: there is no such file or folder$"):
        main(["--model", "gpt2", "--data", "org/rows", option, name])
    for known in ("rows", "org/rows-v1.5"):
        require_path(option, known)


def test_datasets_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install -e '.\[lm\]'"):
        read_rows("org/rows", character_tokenizer(TASK.alphabet))
