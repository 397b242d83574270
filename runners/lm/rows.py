"""Rows of a file, with the columns of TRL.

A row is a dict. `prompt` alone is for completions that are drawn, and judged by a reward function;
`prompt, completion` is a demonstration; `prompt, completion, reward` a sample that another policy drew;
`prompt, chosen, rejected` a preference. `messages`, a conversation, is a demonstration of its last turn. Answers may be
conversations, too, which begin with their prompt. Conversations become texts by the model's chat template, which also
takes `tools` and `chat_template_kwargs`; an answer then ends as the template ends a turn. All other columns go to the
reward function.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from runners.errors import UsageError

Row = dict[str, Any]
ANSWERS = ("completion", "chosen", "rejected")
OWN = frozenset({"prompt", *ANSWERS, "reward", "log_probs", "messages"})
"""Columns that do not go to the reward function."""
NEEDS = {
    "reward": ("completion",), "log_probs": ("completion", "reward"), "chosen": ("rejected",), "rejected": ("chosen",)
}  # fmt: skip
"""Columns that need others, with these."""
FILES = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".txt", ".gz", ".zip")
"""Endings of files, which names in the datasets library's hub do not have."""
HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
"""Surrogate code points, which are no characters by themselves."""


def require_path(option: str, name: str) -> None:
    """Raise UsageError if `name` is a path, not NAME or OWNER/NAME as on the hub, and nothing is there."""
    is_path = name.endswith(FILES) or name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_path and not Path(name).exists():
        raise UsageError(f"--{option} {name} cannot be read: there is no such file or folder")


def read_rows(name: str, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Read rows from a .jsonl file, or the split train of a folder or name that the datasets library knows."""
    path = Path(name)
    rows = _json_lines(path) if path.suffix == ".jsonl" else _dataset_rows(name)
    plain = [_plain(row, f"{name}, row {i}", tokenizer) for i, row in enumerate(rows, 1)]
    for i, row in enumerate(plain, 1):
        _check(row, plain[0], f"{name}, row {i}")
    return plain


def _json_lines(path: Path) -> list[Row]:
    rows = []
    try:
        with open(path, encoding="utf-8-sig") as file:  # a byte order mark is no part of the first row
            lines = list(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8: {error}") from error
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {i} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {i} must be an object, not {type(row).__name__}")
        rows.append(row)
    return rows


def _dataset_rows(name: str) -> list[Row]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UsageError(f"{name} is no .jsonl file, and datasets is not installed: pip install -e '.[lm]'") from error
    try:
        data = datasets.load_from_disk(name) if Path(name).exists() else datasets.load_dataset(name, split="train")
        return list(data["train"] if isinstance(data, dict) else data)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{name} is no .jsonl file, nor can datasets load its split train: {error}") from error


def _plain(row: Row, where: str, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Return a row with prompt and answers as texts, by the tokenizer's chat template if they are messages."""
    row = _with_prompt_apart(row, where)
    if "prompt" not in row:
        raise UsageError(f"{where} has no prompt, and no messages: its columns are {', '.join(row)}")
    answers = {name: row[name] for name in ANSWERS if name in row}
    if not isinstance(row["prompt"], list):
        return row | {k: _answer(x[0], k, where)["content"] for k, x in answers.items() if isinstance(x, list)}
    asked = [_with_text(turn, where) for turn in row["prompt"]]
    begun = asked and asked[-1]["role"] == "assistant"
    how = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
    prompt = _rendered(row, asked, where, tokenizer, **how)
    whole = {}
    for name, answer in answers.items():
        turn = _answer(answer[0] if isinstance(answer, list) else {"role": "assistant", "content": answer}, name, where)
        if begun:
            if not isinstance(turn["content"], str) or not isinstance(asked[-1]["content"], str):
                raise UsageError(f"{where}: {name} continues an assistant's turn, so both must be texts")
            turn = asked[-1] | {"content": asked[-1]["content"] + turn["content"]}
        whole[name] = _rendered(row, asked[: len(asked) - begun] + [turn], where, tokenizer).rstrip()
    # A generation prompt may begin what the answers lack, such as a thought: what all of them share comes first.
    prompt = os.path.commonprefix([prompt, *whole.values()])
    return row | {"prompt": prompt} | {name: text[len(prompt) :] for name, text in whole.items()}


def _with_prompt_apart(row: Row, where: str) -> Row:
    """Return a row whose conversations, `messages` or answers, are split into the prompt and their last turn."""
    if "messages" in row:
        turns = row["messages"]
        if not isinstance(turns, list) or len(turns) < 2:
            raise UsageError(f"{where} needs two messages at least, a prompt and its answer")
        row = {name: value for name, value in row.items() if name not in ("messages", "prompt")} | {"completion": turns}
    answers = {name: row[name] for name in ANSWERS if isinstance(row.get(name), list)}
    if all(len(turns) == 1 for turns in answers.values()):
        return row
    prompt, *others = (turns[:-1] for turns in answers.values())
    if not prompt or any(turns != prompt for turns in others) or isinstance(row.get("prompt"), list):
        what = f"{where}: {' and '.join(answers)} must be"
        raise UsageError(f"{what} one turn each, or conversations that differ in their last turn alone")
    return row | {"prompt": prompt} | {name: turns[-1:] for name, turns in answers.items()}


def _answer(turn: Any, name: str, where: str) -> Row:
    """Return the message of an answer, with its content as one text; UsageError unless it is the assistant's."""
    turn = _with_text(turn, where)
    if turn["role"] != "assistant":
        raise UsageError(f"{where}: the last turn of {name} must be the assistant's, not of role {turn['role']}")
    return turn


def _with_text(turn: Any, where: str) -> Row:
    """Return a message with its content as one text, whose parts are joined."""
    if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
        raise UsageError(f"{where} has messages that are not role and content")
    parts = turn["content"]
    if not isinstance(parts, list):
        return turn
    other = [part for part in parts if not isinstance(part, dict) or not isinstance(part.get("text"), str)]
    if other:
        raise UsageError(f"{where} has a message with a part that is no text: {other[0]!r}")
    return turn | {"content": "".join(part["text"] for part in parts)}


def _rendered(row: Row, turns: list[Row], where: str, tokenizer: PreTrainedTokenizerBase, **how: bool) -> str:
    """Return messages as a text, by the chat template with the row's tools."""
    tools, more = row.get("tools") or None, row.get("chat_template_kwargs") or {}
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
        return tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, **how, **more)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{where} has messages that the model's chat template cannot read: {error}") from error
    except TemplateError as error:
        raise UsageError(f"{where} has messages that the model's chat template refuses: {error}") from error
    except ValueError as error:
        reason = str(error).partition("\n")[0] if tokenizer.chat_template else "the model's tokenizer has none"
        raise UsageError(f"{where} has messages, which need a chat template: {reason}") from error


def _check(row: Row, first: Row, where: str) -> None:
    """Raise UsageError unless a row has the columns of the first, with those that they need, of the right types."""
    if row.keys() != first.keys():
        raise UsageError(f"{where} has the columns {', '.join(row)}, and the first row {', '.join(first)}")
    for name, others in NEEDS.items():
        if name in row and (lacking := [other for other in others if other not in row]):
            raise UsageError(f"{where} has the column {name}, which needs {' and '.join(lacking)}")
    for name in {"prompt", *ANSWERS} & row.keys():
        if not isinstance(row[name], str) or name == "prompt" and not row[name]:
            raise UsageError(f"{where}: {name} must be a text, not {row[name]!r}")
        if half := HALF_A_CHARACTER.search(row[name]):
            raise UsageError(f"{where}: {name} has half of a surrogate pair, {half[0]!r}, which is no character")
    if row.get("reward") is not None and not _is_number(row["reward"]):
        raise UsageError(f"{where}: reward must be a number or null, not {row['reward']!r}")
    stored = row.get("log_probs", [])
    if not isinstance(stored, list) or not all(_is_number(x) and x <= 0 for x in stored):
        raise UsageError(f"{where}: log_probs must be a list of numbers of at most 0, not {stored!r}")


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and math.isfinite(x)
