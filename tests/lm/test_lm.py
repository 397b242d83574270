"""Language-model runs: tasks, the run folder, resuming, errors, and that the methods learn."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from networks.language import sample, token_log_probs
from runners.errors import RunError, UsageError
from runners.lm.base import base_model
from runners.lm.cli import parse
from runners.lm.config import DataConfig, LMConfig
from runners.lm.evaluation import evaluate
from runners.lm.launch import LAYOUT, main
from runners.lm.model import character_tokenizer, has_dropout, load_model, load_tokenizer, new_model, save_model
from runners.lm.problem import Problem
from runners.lm.sources import TaskSource, find_task
from runners.lm.tasks import sort, sort_weak, walks
from runners.lm.training import LMTraining
from runners.records.checkpoint import Checkpoints
from support import PYTHONPATH
from support.lm_task import TASK
from support.runs import empty_charts

TASK_NAME = "support.lm_task:TASK"
BASES = tempfile.TemporaryDirectory()
FAST = f"--task {TASK_NAME} --base-dir {BASES.name} --eval-prompts 64 --log-rollouts 1 --learning-rate 3e-3"
METHODS = ["vmpo", "awr", "rl-em", "dar", "at-dar", "dar-tr", "topk-dar", "rest-em", "ppo", "dpo", "sft"]


def train(method: str, rollouts: int, *flags: str) -> LMTraining:
    config, _ = parse([*FAST.split(), "--method", method, "--rollouts", str(rollouts), *flags])
    training = LMTraining(config)
    for _ in training.run():
        pass
    return training


# Tasks


def test_sorting_is_rewarded_and_nothing_else():
    prompts = ["31415926>", "00000000>", "31415926>", "31415926>"]
    assert sort.exact_match(prompts, ["11234569", "00000000", "1123456", "11234596"]) == [1, 1, 0, 0]


def test_half_of_the_demonstrations_are_wrong_at_most():
    rng = np.random.default_rng(0)
    right = np.mean(sort.exact_match(*zip(*sort.TASK.demonstrations(2000, rng), strict=True)))
    assert 0.5 <= right < 0.6  # a replaced digit can be the same one, and so can two swapped ones
    assert all(sort.exact_match(*zip(*sort_weak.TASK.demonstrations(100, rng), strict=True)))


def test_the_reward_of_walks_by_brute_force():
    """Breadth-first search over the walks themselves, from every start."""
    for start in map(int, walks.STARTS):
        frontier, steps = {start}, 0
        while walks.GOAL not in frontier:
            frontier = {b for a in frontier for b in range(walks.NODES) if walks.EDGES[a, b]}
            steps += 1
        assert steps == walks.FEWEST[start]
    rng = np.random.default_rng(0)
    for prompt, walk in walks.demonstrations(300, rng):
        nodes = [walks.NAMES.index(name) for name in prompt + walk]
        assert all(walks.EDGES[a, b] for a, b in zip(nodes, nodes[1:], strict=False)) and len(walk) <= 10
        shortest = walks.FEWEST[nodes[0]]
        want = (10 - len(walk)) / (10 - shortest) if nodes[-1] == walks.GOAL else 0
        assert walks.optimality([prompt], [walk]) == [pytest.approx(want)]


def test_walks_off_the_edges_or_past_the_goal_get_nothing():
    prompt, walk = next(
        (p, w) for p, w in walks.demonstrations(300, np.random.default_rng(0)) if w.endswith("a") and len(w) > 1
    )
    assert walks.optimality([prompt] * 4, [walk + "a", walk + "b", "", walk[:-1]]) == [0, 0, 0, 0]
    stranger = next(name for i, name in enumerate(walks.NAMES) if not walks.EDGES[walks.NAMES.index(prompt), i])
    assert walks.optimality([prompt], [stranger + "a"]) == [0]
    before_u = walks.NAMES[walks.EDGES[:, -1].argmax()]
    assert walks.optimality([before_u] * 2, ["ua", "?a"]) == [pytest.approx((10 - 2) / (10 - 2)), 0]


def test_base_models_train_on_other_prompts_than_the_held_out_ones():
    """Of 10^8 prompts, by whatever seed; nor are they those that RL draws."""
    held_out = {row["prompt"] for row in TaskSource(sort.TASK).held_out(512)}
    for seed in range(4):
        seen = set()

        def demonstrations(count, rng, seen=seen):
            found = sort.TASK.demonstrations(count, rng)
            seen |= {prompt for prompt, _ in found}
            return found

        task = replace(sort.TASK, demonstrations=demonstrations)
        problem = Problem(TaskSource(task), character_tokenizer(task.alphabet), torch.device("cpu"))
        base_model(problem, seed, dropout=0.0, trained=False)
        batches = LMTraining(parse(["--task", "sort", "--seed", str(seed), "--prompts", "500"])[0], fresh=False).batches
        drawn = {row["prompt"] for _ in range(2) for row in batches._prompts()}
        assert len(seen) > 1000 and len(drawn) > 990
        assert len(held_out & seen) < 2 and len(held_out & drawn) < 2 and len(seen & drawn) < 3


# Tokens and models


def test_texts_come_back_from_tokens():
    problem = Problem(TaskSource(TASK), character_tokenizer(TASK.alphabet), torch.device("cpu"))
    prompts, completions = problem.encode(["xyx", "y"]), problem.answers(["xyx", "y"], ["ab", "c"])
    assert problem.decode(completions) == ["ab", "c"]
    assert prompts.real.tolist() == [[True] * 3, [False, False, True]]
    assert completions.mask.tolist() == [[True] * 3, [True, True, False]]
    assert completions.tokens[0, -1] == completions.tokens[1, 1] == problem.tokenizer.eos_token_id


def test_a_completion_ends_at_its_first_end():
    problem = Problem(TaskSource(TASK), character_tokenizer(TASK.alphabet), torch.device("cpu"))
    completions = problem.answers(["x", "y"], ["a<end>b", "abcabc"])
    assert completions.mask.tolist() == [[True, True, False], [True] * 3]  # the second is cut, and has none
    assert problem.decode(completions) == ["a", "abc"]


def test_a_completion_goes_on_from_its_prompt():
    """Alone, such a tokenizer puts a space before it, as before every text."""
    words = {token: i for i, token in enumerate(["<unk>", "<pad>", "<end>", "\u2581", "1", "2", "+", "="])}
    inner = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>")
    problem = Problem(TaskSource(replace(TASK, completion_length=4)), tokenizer, torch.device("cpu"))
    completions = problem.answers(["1+1=", "2="], ["2", "2+2"])
    assert completions.tokens.tolist() == [[5, 2, 1, 1], [5, 6, 5, 2]] and completions.mask.sum(1).tolist() == [2, 4]
    assert tokenizer("2", add_special_tokens=False)["input_ids"] == [3, 5]


def test_a_model_may_end_its_turns_with_several_tokens():
    tokenizer = character_tokenizer(TASK.alphabet)
    a, b, end = tokenizer.convert_tokens_to_ids(["a", "b", "<end>"])
    problem = Problem(TaskSource(TASK), tokenizer, torch.device("cpu"), also=[end, b])
    assert problem.ends.tolist() == [end, b]
    completions = problem.answers(["x", "x"], ["aba", "aa"])
    assert completions.mask.tolist() == [[True, True, False], [True] * 3] and problem.decode(completions) == ["a", "aa"]

    class Says(torch.nn.Module):
        """a, then b, then a for ever."""

        def forward(self, input_ids, attention_mask, position_ids):
            nothing_else = torch.full((*input_ids.shape, len(tokenizer)), -torch.inf)
            says = torch.where(position_ids == 1, b, a)
            return SimpleNamespace(logits=nothing_else.scatter(2, says.unsqueeze(2), 0.0))

    drawn = sample(Says(), problem.encode(["x", "xy"]), 3, problem.ends, None)
    assert drawn.tokens.tolist() == [[a, b], [b, end]] and drawn.mask.sum(1).tolist() == [2, 1]


@pytest.mark.parametrize("template", ["<s> $A", "<s> $A <end>", "$A"])
def test_what_a_tokenizer_puts_around_a_prompt(template):
    """Its start stays, its end goes, and a start that is there already does not come twice."""
    tokenizer = character_tokenizer(TASK.alphabet)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    specials = [("<s>", tokenizer.bos_token_id), ("<end>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=specials)
    problem = Problem(TaskSource(TASK), tokenizer, torch.device("cpu"))
    start = [tokenizer.bos_token_id] if "<s>" in template else []
    letters = tokenizer.convert_tokens_to_ids(["x", "y"])
    assert problem.encode(["xy"]).tokens.tolist() == [start + letters]
    assert problem.encode(["<s>xy"]).tokens.tolist() == [[tokenizer.bos_token_id, *letters]]


def test_a_saved_model_is_loaded_by_transformers(tmp_path):
    tokenizer = character_tokenizer(TASK.alphabet)
    model = new_model(TASK, tokenizer, 3, 0.0).eval()
    Problem(TaskSource(TASK), tokenizer, torch.device("cpu")).encode(["x", "xy"])
    save_model(model, tokenizer, tmp_path / "model")
    again, its_tokenizer = load_model(str(tmp_path / "model")), load_tokenizer(str(tmp_path / "model"))
    ids = torch.tensor([[2, 3, 4, 5]])
    assert its_tokenizer.encode("xyab") == tokenizer.encode("xyab")
    saved = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    assert saved["truncation"] is None and saved["padding"] is None
    torch.testing.assert_close(again.eval()(ids).logits, model(ids).logits)


def test_a_damaged_model_is_refused_and_a_damaged_base_trained_anew(tmp_path, capsys):
    config = LMConfig(DataConfig(task=TASK_NAME, base_dir=str(tmp_path)))
    whole = LMTraining(config).model.state_dict()
    (folder,) = tmp_path.iterdir()
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 4
    weights.write_bytes(data)
    for load in (load_model, load_tokenizer):
        with pytest.raises(UsageError, match="model.safetensors is damaged") as error:
            load(str(folder))
        assert "\n" not in str(error.value)
    again = LMTraining(config).model.state_dict()
    assert all(torch.equal(whole[name], value) for name, value in again.items())
    assert f"{weights} is damaged" in capsys.readouterr().out
    load_model(str(folder))


def test_dropout_of_a_loaded_model(tmp_path):
    tokenizer = character_tokenizer(TASK.alphabet)
    save_model(new_model(TASK, tokenizer, 3, 0.0), tokenizer, tmp_path / "model")
    assert not has_dropout(load_model(str(tmp_path / "model")))
    assert has_dropout(load_model(str(tmp_path / "model"), 0.1))


def test_models_that_cannot_be_used_are_said_in_one_line(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path / "mamba")
    with pytest.raises(UsageError, match="takes no position_ids"):
        load_model(str(tmp_path / "mamba"))
    shape = dict(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(LlamaConfig(**shape, attention_dropout=0)).save_pretrained(tmp_path / "llama")
    assert has_dropout(load_model(str(tmp_path / "llama"), 0.1))


def test_attention_dropout_without_a_layer_of_it_is_seen():
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = dict(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    assert has_dropout(LlamaForCausalLM(LlamaConfig(**shape, attention_dropout=0.1)))
    assert not has_dropout(LlamaForCausalLM(LlamaConfig(**shape)))


# Learning


@pytest.mark.parametrize("method", [m for m in METHODS if m != "sft"])
def test_every_method_learns(method):
    training = train(method, 30, *(("--updates", "4") if method == "dpo" else ()))
    before = evaluate(training.config, training.problem, LMTraining(training.config).model)["mean"]
    after = evaluate(training.config, training.problem, training.model)["mean"]
    assert 0.2 < before < 0.5 and after > 0.8, (before, after)


def test_sft_fits_the_demonstrations():
    training = train("sft", 40)
    result = evaluate(training.config, training.problem, training.model)
    assert 0.2 < result["mean"] < 0.5  # a third of them say b


def test_a_row_of_your_own_learns():
    flags = "--divergence chi-square --temperature solved --filter all --trust-region penalty --gamma 0.1".split()
    training = train("gempi", 30, *flags)
    assert evaluate(training.config, training.problem, training.model)["mean"] > 0.8


@pytest.mark.parametrize("baseline", ["group", "leave-one-out", "batch", "average", "value", "token", "none"])
def test_every_baseline_learns(baseline):
    training = train("vmpo", 30, "--baseline", baseline)
    assert evaluate(training.config, training.problem, training.model)["mean"] > 0.8


@pytest.mark.parametrize(
    "flags",
    [
        "--method at-dar --e-step prompt --gae-lambda 0.9 --standardise-advantages",
        "--method awr --micro-batch 24",
        "--method ppo --ratio token",
    ],
)
def test_advantages_of_tokens_teach_other_methods(flags):
    _, method, *rest = flags.split()
    training = train(method, 30, "--baseline", "token", *rest)
    assert evaluate(training.config, training.problem, training.model)["mean"] > 0.8


def test_rewards_are_scaled_for_the_learner_alone():
    plain, scaled = (
        next(LMTraining(parse([*FAST.split(), "--rollouts", "1", "--reward-scale", scale])[0]).run())
        for scale in ("1", "10")
    )
    assert scaled["reward/train"] == plain["reward/train"] > 0
    assert scaled["e_step/advantage_rms"] == pytest.approx(10 * plain["e_step/advantage_rms"])


@pytest.mark.parametrize("method", ["vmpo", "ppo", "dar-tr"])
def test_with_dropout_the_policy_stands_at_pi_t_before_its_first_step(method):
    config, _ = parse([*FAST.split(), "--method", method, "--dropout", "0.3", "--rollouts", "1", "--updates", "1"])
    training = LMTraining(config)
    rows = [row for row in training.run() if row]
    assert has_dropout(training.model) and abs(rows[0]["m_step/kl"]) < 1e-7
    if method == "ppo":
        assert rows[0]["m_step/clipped"] == 0 and rows[0]["m_step/ratio_variance"] < 1e-9


@pytest.mark.parametrize("method", ["vmpo", "ppo", "dar-tr"])
def test_at_another_sampling_temperature_too(method):
    """What is drawn, fitted and compared is one policy, at that temperature."""
    flags = "--sampling-temperature 0.5 --rollouts 1 --updates 1".split()
    (row,) = [row for row in LMTraining(parse([*FAST.split(), "--method", method, *flags])[0]).run() if row]
    assert abs(row["m_step/kl"]) < 1e-7
    if method == "ppo":
        assert row["m_step/clipped"] == 0 and row["m_step/ratio_variance"] < 1e-9


@pytest.mark.parametrize(("limit", "clipped"), [("1e-3", True), ("1e6", False), ("0", False)])
def test_gradients_are_clipped(limit, clipped):
    training = train("vmpo", 1, "--updates", "1", "--max-gradient-norm", limit)
    norm = torch.cat([p.grad.flatten() for p in training.learner.trained]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-2) if clipped else norm > 1e-2


def test_the_masked_scheme_finds_a_distance_before_its_first_step():
    flags = "--method vmpo --dropout 0.3 --dropout-scheme masked --rollouts 1 --updates 1".split()
    training = LMTraining(parse([*FAST.split(), *flags])[0])
    assert next(row for row in training.run() if row)["m_step/kl"] > 1e-3


def test_parts_of_a_step_add_up_to_it():
    gradients = []
    for size in ("1024", "7"):
        training = train("vmpo", 1, "--updates", "1", "--micro-batch", size)
        gradients.append(torch.cat([p.grad.flatten() for p in training.model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_ppo_stops_where_its_kl_is_reached():
    flags = ("--target-kl", "1e-6", "--updates", "5", "--learning-rate", "1e-2")
    assert train("ppo", 4, *flags).learner.updates < 20


# Runs


def test_a_run_leaves_its_folder(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*FAST.split(), "--rollouts", "3", "--run-dir", str(run)]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["method"] == "vmpo" and summary["rollouts"] == 3 and summary["updates"] == 12
    for result in (summary["base"], summary["eval"]):
        assert 0 <= result["mean"] <= 1 and 0 <= result["greedy"] <= 1 and len(result["samples"]) == 8
    table = (run / "metrics.csv").read_text().splitlines()
    assert len(table) == 4 and "e_step/ess" in table[0] and "m_step/kl" in table[0]
    assert not empty_charts(LAYOUT, table[0].split(","))
    assert list(run.glob("events.*")) and load_model(str(run / "model"))
    assert "reward, sampled" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["vmpo", "dar", "ppo", "dpo"])
def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path, method):
    """To the bit, with dropout, moving average and value head among what is resumed."""
    flags = ["--dropout", "0.1"] + {"vmpo": ["--baseline", "token"], "dar": ["--baseline", "average"]}.get(method, [])
    whole = train(method, 6, *flags)
    halved = train(method, 3, *flags)
    folder = Checkpoints(tmp_path)
    folder.save_last(3, halved.get_state())
    resumed = LMTraining(whole.config, fresh=False)
    resumed.set_state(folder.latest().state)
    for _ in resumed.run():
        pass
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, value in whole.learner.agent.state_dict().items():
        assert torch.equal(value, resumed.learner.agent.state_dict()[name]), name


def test_the_rate_falls_to_nothing_over_the_rollouts():
    training = LMTraining(parse([*FAST.split(), "--rollouts", "4", "--anneal"])[0])
    rates = [training.learner.optimizer.param_groups[0]["lr"] for _ in training.run()]
    assert rates == pytest.approx([3e-3, 2.25e-3, 1.5e-3, 0.75e-3])


@pytest.mark.parametrize("method", ["vmpo", "sft"])
def test_a_run_that_diverges_ends_before_anything_saves_it(method):
    training = LMTraining(parse([*FAST.split(), "--method", method, "--rollouts", "2", "--patience-steps", "1"])[0])
    step = training.learner.train

    def diverging(*arguments):
        found = step(*arguments)
        for parameter in training.learner.trained:
            parameter.data.fill_(torch.nan)
        return found if method == "sft" else step(*arguments)

    training.learner.train = diverging
    with pytest.raises(RunError, match="training diverged: .*not finite: .*m_step"):
        list(training.run())


def test_a_killed_run_resumes_from_the_command_line(tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "runners.lm", *FAST.split(), "--rollouts", "100000", "--run-dir", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH}  # of TASK
    process = subprocess.Popen([*command, "--checkpoint-seconds", "0.2"], env=environment, stdout=subprocess.PIPE)
    while not list(run.glob("checkpoints/step_*")):
        assert process.poll() is None
    process.terminate()
    said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 0 and f"--resume {run}" in said
    rollouts = Checkpoints(run / "checkpoints").latest().step
    with pytest.raises(UsageError, match="leave out --updates"):
        main(["--resume", str(run), "--updates", "9"])
    assert main(["--resume", str(run), "--rollouts", str(rollouts + 2)]) == 0
    assert json.loads((run / "summary.json").read_text())["rollouts"] == rollouts + 2


def test_a_base_model_is_kept(tmp_path):
    config = LMConfig(DataConfig(task=TASK_NAME, base_dir=str(tmp_path)))
    first = LMTraining(config)
    (folder,) = tmp_path.iterdir()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    second = LMTraining(config)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--task sorting", "none of sort, sort-weak, walks"),
        ("--task no.such:TASK", "cannot be imported"),
        ("--task support.lm_task:prompts", "must be a runners.lm.tasks.task.Task"),
        ("--model no/such/folder", "cannot be loaded by transformers"),
        ("--method vmp", "--method"),
        ("--agent vmpo", "did you mean --method?"),
        ("--method awr --top-k 0.3", "--top-k has no effect on --method awr"),
        ("--completions 1", "--baseline group needs --completions of at least 2"),
        ("--method dpo --completions 1", "at least 2"),
        ("--dropout 1", "--dropout must lie in [0, 1)"),
        ("--learning-rate 0", "--learning-rate must be greater than 0"),
        ("--resume nowhere", "not the folder of a run"),
        ("--lora 4", "--lora needs --model"),
        ("--completion-length 9", "without --data: a task has its own"),
        ("--value-learning-rate 1", "without --baseline value or token"),
        ("--gae-lambda 0.9", "--gae-lambda has no effect on --method vmpo"),
        ("--baseline token --gae-lambda 1.1", "--gae-lambda must lie between 0 and 1"),
        ("--method ppo --baseline token", "--baseline token needs --ratio token"),
        ("--reward-scale 0", "--reward-scale must be greater than 0"),
        ("--method dpo --reward-scale 2", "--reward-scale has no effect with --method dpo"),
        ("--reward-scale 2 --standardise-advantages", "--reward-scale has no effect with --standardise-advantages"),
        ("--method sft --completions 4", "--completions has no effect with --method sft"),
        ("--method dpo --dropout-scheme masked", "--dropout-scheme has no effect with --method dpo"),
        ("--method awr --dual-learning-rate 1", "--dual-learning-rate has no effect with --method awr"),
        ("--method gempi --divergence renyi --anchors both", "closed form for one anchor only"),
        ("--method gempi --temperature warm", "--temperature"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(flags, says):
    with pytest.raises(UsageError) as error:
        main(flags.split())
    assert says in str(error.value) and "\n" not in str(error.value)


def test_in_bfloat16_the_model_computes_and_nothing_else():
    full, half = (train("vmpo", 30, "--precision", precision) for precision in ("float32", "bfloat16"))
    assert evaluate(half.config, half.problem, half.model)["mean"] > 0.8
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    prompts = full.problem.encode(TASK.prompts(8, np.random.default_rng(0)))
    drawn = sample(full.model, prompts, 3, full.problem.ends, torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = token_log_probs(full.model, prompts, *drawn[:2])
        full.model.bf16 = True
        rounded = token_log_probs(full.model, prompts, *drawn[:2])
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.02)


def test_the_same_seed_gives_the_same_run():
    a, b = (train("vmpo", 3) for _ in range(2))
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_task_is_found_by_name():
    assert find_task("walks") is walks.TASK and find_task(TASK_NAME) == TASK


def test_a_run_goes_on_where_its_generator_was_of_another_kind_of_device():
    """Of a GPU's generator there is nothing to restore; what follows is not what the run drew at its start."""
    training = LMTraining(parse([*FAST.split(), "--rollouts", "1"])[0])
    batches = training.batches
    beginning = batches.generator.get_state()
    state = batches.get_state() | {"generator": torch.zeros(16, dtype=torch.uint8)}
    batches.set_state(state)
    once = batches.generator.get_state()
    assert not torch.equal(once, beginning)
    batches.set_state(state)
    assert torch.equal(batches.generator.get_state(), once)
