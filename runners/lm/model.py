"""A causal language model and its tokenizer: a task's own small GPT-2, or one that transformers loads."""

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import find_adapter_config_file, logging

from networks.drop_path import DropPath
from runners.errors import RunError, UsageError, needs_extra
from runners.lm.tasks.task import Task
from runners.records.folders import check_whole, written_whole

END, PAD = "<end>", "<pad>"
logging.disable_progress_bar()


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer of characters; END and PAD are two tokens, so that an end of text is never taken for padding."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate([PAD, END, *alphabet])}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(""), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="left")


def new_model(task: Task, tokenizer: PreTrainedTokenizerFast, longest_prompt: int, dropout: float) -> nn.Module:
    """Make a GPT-2 of the task's size, with random weights."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=longest_prompt + task.completion_length,
        n_embd=task.width,
        n_layer=task.layers,
        n_head=task.heads,
        activation_function="gelu_pytorch_tanh",  # GPT-2's, in one kernel
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForCausalLM.from_config(config)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, or by a name that transformers knows; UsageError if that fails."""
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    if tokenizer.eos_token_id is None:
        raise UsageError(f"--model {name} has a tokenizer without an end-of-text token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks come from lengths, so the two are never confused
    return tokenizer


def fit_padding(tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> None:
    """Make the end of text the pad token if the tokenizer's own is not in the model's embedding."""
    if tokenizer.pad_token_id >= model.get_input_embeddings().num_embeddings:
        tokenizer.pad_token = tokenizer.eos_token


def turn_ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special token by which the chat template ends an assistant's turn; an empty list if there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
    except (TemplateError, TypeError, ValueError):  # a template of other roles than these
        return []
    last = tokenizer(text, add_special_tokens=False)["input_ids"][-1:]
    return [token for token in last if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder]


def load_model(name: str, dropout: float | None = None) -> nn.Module:
    """Load a model from a folder, or by a name that transformers knows; `dropout` replaces that of its configuration.

    An adapter, which `save_model` writes with --lora, is merged into its model. UsageError if the model does not load.
    """
    with _loading(name):
        if find_adapter_config_file(name):
            return _merged(name, dropout)
        config = AutoConfig.from_pretrained(name)
        entries = _named_dropouts(config)
        if dropout and not entries:
            raise UsageError(f"--model {name} has no dropout in its configuration: leave out --dropout")
        for entry in entries if dropout is not None else ():
            setattr(config.get_text_config(), entry, dropout)
        came_in = config.dtype
        model = AutoModelForCausalLM.from_pretrained(name, config=config, dtype="float32")
        model.came_in = came_in
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        raise UsageError(f"--model {name} takes no position_ids, which prompts of different lengths need")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.clone()  # memory mapped from the file changes with the file
    return model


def text_config(model: nn.Module) -> PretrainedConfig:
    """Return the configuration of a model, or of its text part if it has others."""
    return model.config.get_text_config()


def end_tokens(model: nn.Module) -> list[int]:
    """Return the tokens by which the model ends a text or a turn."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else ends if isinstance(ends, list) else [ends]


def _merged(name: str, dropout: float | None) -> nn.Module:
    with needs_extra("lm"):
        from peft import PeftConfig, PeftModel
    below = PeftConfig.from_pretrained(name).base_model_name_or_path
    if not below:
        raise UsageError(f"--model {name} is an adapter whose configuration names no base model")
    model = PeftModel.from_pretrained(load_model(below, dropout), name).merge_and_unload().requires_grad_(True)
    model.name_or_path = name  # an adapter that is trained on this one will name it as its model
    return model


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        check_whole(Path(name))
    except RunError as error:
        raise UsageError(f"--model {name}: {error}; its run's --resume saves it anew") from error
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"--model {name} cannot be loaded by transformers: {reason}") from error


def add_lora(model: nn.Module, rank: int) -> nn.Module:
    """Freeze the model, and add trainable matrices of this rank to its linear layers (LoRA, arXiv 2106.09685)."""
    with needs_extra("lm"):
        from peft import LoraConfig, get_peft_model
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # as GPT-2's weights are
    which = {"target_modules": "all-linear", "fan_in_fan_out": transposed, "task_type": "CAUSAL_LM"}
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, **which))


def save_model(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """Save model and tokenizer as transformers does, of a model with an adapter only that; `state` replaces values. The
    folder is whole or absent."""
    with written_whole(folder) as filling:
        try:
            model.save_pretrained(filling, state_dict=state)
        except SafetensorError as error:  # of a full disk, too
            raise RunError(f"{folder}: {error}") from error
        if tokenizer.is_fast:
            tokenizer.backend_tokenizer.no_padding()  # the last call's padding would be saved, too
        tokenizer.save_pretrained(filling)


def has_dropout(model: nn.Module) -> bool:
    """Return whether the model has a layer of dropout or DropPath, or its configuration names a dropout, as that of
    attention, which is a function and not a layer."""
    layers = any(isinstance(m, nn.Dropout | DropPath) and m.p > 0 for m in model.modules())
    return layers or any(value > 0 for value in _named_dropouts(model.config).values())


def _named_dropouts(config: PretrainedConfig) -> dict[str, float]:
    """Return the entries of a configuration that are probabilities of dropout, but not those of classifiers' heads."""
    numbers = {k: v for k, v in config.get_text_config().to_dict().items() if type(v) in (int, float)}
    named = {k: v for k, v in numbers.items() if "dropout" in k or k.endswith("pdrop")}
    return {k: v for k, v in named.items() if not k.startswith(("summary_", "classifier_"))}
