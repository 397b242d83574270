"""What users bring: chat templates and their ends, content in parts, tools, begun answers, odd files, reward functions
by the names of their parameters, answers that are cut, tokens that a model lacks, data that changes before a resume.

Tokenizers are a byte a token, with special tokens and templates like those of published models.
"""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from runners.errors import UsageError
from runners.lm.cli import parse
from runners.lm.launch import main
from runners.lm.model import fit_padding, load_model, turn_ends
from runners.lm.problem import Problem
from runners.lm.rows import read_rows
from runners.lm.sources import RowSource, accepted
from runners.lm.training import LMTraining, check_prompts

CHATML = (
    "{% if tools %}{{ '# Tools ' + tools | tojson }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINK = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n' }}")
GEMMA = (
    "{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
)
ASKED, SAID = {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}
BEGUN = {"role": "assistant", "content": "It is "}
START = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"


SPECIALS = ("<end>", "<|im_end|>", "<end_of_turn>")


def tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIALS))
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")
    made.chat_template = template
    return made


SHAPE = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)


def llama(size: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=64, eos_token_id=0, **SHAPE))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "byte"
    made = tokenizer()
    made.save_pretrained(folder)
    llama(len(made)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def write(tmp_path):
    def to_file(*rows, name: str = "rows.jsonl", start: str = "") -> str:
        path = tmp_path / name
        path.write_text(start + "\n".join(map(json.dumps, rows)), encoding="utf-8")
        return str(path)

    return to_file


def problem(rows: list, made: PreTrainedTokenizerFast, length: int = 64, **also) -> Problem:
    return Problem(RowSource(rows, rows, None, length), made, torch.device("cpu"), **also)


def learned(row: dict, made: PreTrainedTokenizerFast, name: str = "completion") -> list[str]:
    """The tokens that are learned of a row's answer."""
    answer = problem([row], made).answers([row["prompt"]], [row[name]])
    return made.convert_ids_to_tokens(answer.tokens[0][answer.mask[0]].tolist())


# Conversations


@pytest.mark.parametrize("template, start, end", [(CHATML, START, "<|im_end|>"), (GEMMA, None, "<end_of_turn>")])
def test_an_answer_ends_as_the_template_ends_a_turn(write, template, start, end):
    made = tokenizer(template)
    for row in (
        {"messages": [ASKED, SAID]},
        {"prompt": [ASKED], "completion": [SAID]},
        {"prompt": [ASKED], "completion": "2"},
    ):
        (plain,) = read_rows(write(row), made)
        assert plain["prompt"] == (start or "<start_of_turn>user\n1+1?<end_of_turn>\n<start_of_turn>assistant\n")
        assert learned(plain, made) == ["2", end]
    (end_id,) = turn_ends(made)
    assert made.convert_ids_to_tokens(end_id) == end and end_id in problem([plain], made).ends.tolist()
    assert turn_ends(tokenizer()) == [] == turn_ends(tokenizer("{{ raise_exception('no') }}"))
    (text,) = read_rows(write({"prompt": "1+1?", "completion": "2"}), made)
    assert learned(text, made) == ["2", "<end>"]  # which is no turn


def test_content_in_parts_is_its_text(write):
    def parts(turn: dict) -> dict:
        text = turn["content"]
        return turn | {"content": [{"type": "text", "text": text[:1]}, {"type": "text", "text": text[1:]}]}

    made = tokenizer(CHATML)
    rows = [{"messages": [ASKED, SAID]}, {"messages": [parts(ASKED), parts(SAID)]}]
    one, other = read_rows(write(*rows), made)
    assert one == other == {"prompt": START, "completion": "2<|im_end|>"}
    picture = ASKED | {"content": [{"type": "image", "url": "x"}]}
    with pytest.raises(UsageError, match="row 1 has a message with a part that is no text: {'type': 'image'"):
        read_rows(write({"messages": [picture, SAID]}), made)


@pytest.mark.parametrize("as_text", [False, True])
def test_the_template_is_shown_the_tools(write, as_text):
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    row = {"messages": [ASKED, SAID], "tools": json.dumps(tools) if as_text else tools}
    (plain,) = read_rows(write(row), tokenizer(CHATML))
    assert plain["prompt"] == "# Tools " + json.dumps(tools) + START and plain["completion"] == "2<|im_end|>"
    (plain,) = read_rows(write({"prompt": [ASKED], "tools": []}), tokenizer(CHATML))
    assert plain["prompt"] == START


def test_a_begun_answer_is_continued(write):
    made = tokenizer(CHATML)
    (row,) = read_rows(write({"prompt": [ASKED, BEGUN]}), made)
    assert row == {"prompt": START + "It is "}
    (row,) = read_rows(write({"prompt": [ASKED, BEGUN], "completion": [SAID]}), made)
    assert row == {"prompt": START + "It is ", "completion": "2<|im_end|>"}
    (row,) = read_rows(write({"prompt": [ASKED, BEGUN], "chosen": [SAID], "rejected": "3"}), made)
    assert row == {"prompt": START + "It is ", "chosen": "2<|im_end|>", "rejected": "3<|im_end|>"}


def test_a_thought_that_the_generation_prompt_opens_is_no_part_of_a_demonstration_s_prompt(write):
    made = tokenizer(THINK)
    (row,) = read_rows(write({"messages": [ASKED, SAID]}), made)
    assert row == {"prompt": START, "completion": "2<|im_end|>"}
    (row,) = read_rows(write({"prompt": [ASKED]}), made)
    assert row == {"prompt": START + "<think>\n"}


# Files


def test_a_byte_order_mark_is_no_part_of_a_file(write):
    rows = [{"prompt": "Größe\u2028: ", "completion": "naïve"}] * 2
    assert read_rows(write(*rows, start="\ufeff"), tokenizer()) == rows


@pytest.mark.parametrize("row", [{"prompt": "a \ud83d"}, {"prompt": "a", "completion": "\udc00"}])
def test_half_of_a_surrogate_pair_is_named_with_its_row(write, row):
    good = dict.fromkeys(row, "a")
    with pytest.raises(UsageError, match="row 2: .* has half of a surrogate pair"):
        read_rows(write(good, row), tokenizer())


def test_answers_that_are_cut_and_pairs_that_are_alike_are_counted():
    made = tokenizer()
    rows = [{"prompt": "q", "chosen": a, "rejected": b} for a, b in (("abcd", "abce"), ("ab", "ac"), ("x", "x"))]
    assert problem(rows, made, length=8).notes() == ["1 of 3 pairs are alike: nothing is learned from them"]
    assert problem(rows, made, length=3).notes() == [
        "2 of 6 answers are longer than --completion-length 3: cut",
        "2 of 3 pairs are alike, after 3 tokens: nothing is learned from them",
    ]
    assert problem([{"prompt": "q", "completion": "ab"}], made, length=3).notes() == []
    assert problem([{"prompt": "q"}], made).notes() == []


def test_a_row_that_is_too_long_is_named(model):
    rows = [{"prompt": "a"}, {"prompt": "a" * 60}, {"prompt": "b"}]
    made = tokenizer()
    with pytest.raises(UsageError, match="file, row 2 of 3: its prompt has 60 tokens and a completion 8; .* takes 64"):
        check_prompts("m", rows, "file", problem(rows, made, length=8), load_model(model))


def test_a_token_that_the_model_lacks_is_named(model):
    made = tokenizer()
    made.add_tokens(["<new>"])
    for row in ({"prompt": "<new>"}, {"prompt": "a", "completion": "b<new>"}):
        with pytest.raises(UsageError, match="file, row 1 has the token <new>, number 259; --model m knows 259"):
            check_prompts("m", [row], "file", problem([row], made, length=8), load_model(model))


def test_padding_that_the_model_lacks_is_replaced(model):
    made = tokenizer()
    made.add_special_tokens({"pad_token": "[PAD]"})
    fit_padding(made, load_model(model))
    assert made.pad_token == "<end>"
    made.add_special_tokens({"pad_token": "[PAD]"})
    fit_padding(made, llama(300))
    assert made.pad_token == "[PAD]"


FAST = "--method sft --rollouts 2 --prompts 4 --log-rollouts 1 --completion-length 8 --device cpu".split()


def test_a_run_resumes_with_the_data_that_it_began_with_alone(model, write):
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(20)]
    command = [*FAST, "--model", model, "--data", write(*rows)]

    def began() -> LMTraining:
        return LMTraining(parse(command)[0])

    state = began().get_state()
    began().set_state(state)
    for changed in (rows[:8], rows + rows, rows[:-1] + [{"prompt": "q19", "completion": "other"}]):
        write(*changed)
        with pytest.raises(UsageError, match="rows.jsonl has changed since this run began: start a new run"):
            began().set_state(state)


def test_weights_that_came_in_another_type_are_said(model, write, tmp_path, capsys):
    made = tokenizer()
    made.save_pretrained(tmp_path / "half")
    llama(len(made)).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    data = ["--data", write(*[{"prompt": "q", "completion": "a"}] * 4)]
    for name, said in (("half", True), ("byte", False)):
        folder = str(tmp_path / "half") if said else model
        main([*FAST, *data, "--model", folder, "--run-dir", str(tmp_path / f"run-{name}")])
        line = "the weights came in bfloat16: they are trained and saved in float32"
        assert (line in capsys.readouterr().out) == said


def test_a_model_of_pictures_and_texts_learns_from_texts(write, tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    made = tokenizer()
    text = dict(vocab_size=300, head_dim=8, num_key_value_heads=1, max_position_embeddings=64, sliding_window=16)
    vision = SiglipVisionConfig(image_size=28, patch_size=14, **SHAPE).to_dict()
    size = dict(mm_tokens_per_image=4, image_token_index=290, boi_token_index=291, eoi_token_index=292)
    config = Gemma3Config(text_config=SHAPE | text | {"eos_token_id": 0}, vision_config=vision, **size)
    made.save_pretrained(tmp_path / "gemma3")
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "gemma3")
    data = write(*[{"prompt": "q", "completion": "a"}] * 8)
    command = [*FAST, "--model", str(tmp_path / "gemma3"), "--data", data, "--learning-rate", "3e-2"]
    training = LMTraining(parse([*command, "--rollouts", "20"])[0])
    losses = [row["m_step/token_loss"] for row in training.run()]
    assert losses[-1] < 0.2 * losses[0]


# Reward functions


def judged(function, columns: dict | None = None) -> list[float]:
    row = {"prompt": "q?"} | (columns or {})
    source = RowSource([row], [row], function, 8)
    made = tokenizer()
    drawn = Problem(source, made, torch.device("cpu")).answers(["q?"] * 2, ["ab", "abc"])
    return Problem(source, made, torch.device("cpu")).rewards([row], drawn).tolist()


def test_reward_functions_are_called_by_the_names_of_their_parameters():
    def length(completions, **kwargs):
        return [float(len(text)) for text in completions]

    def solved(completions, solution, **kwargs):
        return [float(right in text) for right, text in zip(solution, completions, strict=True)]

    def turned(completions, prompts):
        return [float("?" in prompt) - float("?" in text) for prompt, text in zip(prompts, completions, strict=True)]

    assert judged(length) == [2, 3] == judged(length, {"solution": "c"})
    assert judged(solved, {"solution": "c"}) == [0, 1]
    assert judged(turned, {"solution": "c"}) == [1, 1]
    assert accepted(lambda completions, *, scale=2.0: [], {"prompts", "completions"}) == ["completions"]
    with pytest.raises(UsageError, match="the reward function asks for solution; there are completions, prompts"):
        judged(solved)


@pytest.mark.parametrize(
    "given, expected",
    [
        (np.array([True, False]), [1, 0]),
        ([3, np.int64(4)], [3, 4]),
        ([np.array([0.5]), torch.tensor(1.5)], [0.5, 1.5]),
        ([None, 2.0], [np.nan, 2]),
    ],
)
def test_numbers_of_any_kind_are_rewards(given, expected):
    np.testing.assert_array_equal(judged(lambda prompts, completions: given), expected)


@pytest.mark.parametrize(
    "given, says",
    [
        ([np.nan, 1.0], "nan is none; None is for completions that do not count"),
        ([np.inf, 1.0], "inf is none"),
        (["1.0", "1.0"], "'1.0' is a str"),
        (1.0, "not iterable"),
        ([1.0], "gave 1 rewards for 2"),
        ([np.ones(2), 1.0], "a list of numbers or None"),
    ],
)
def test_what_is_no_reward_is_refused(given, says):
    with pytest.raises(UsageError, match=says):
        judged(lambda completions: given)
