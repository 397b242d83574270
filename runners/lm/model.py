"""A causal language model and its tokenizer: a task's own small GPT-2, or one that transformers loads."""

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import torch
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

from runners.errors import RunError, UsageError, needs_extra
from runners.lm.tasks.task import Task
from runners.records.folders import check_whole, written_whole

END, PAD = "<end>", "<pad>"
logging.disable_progress_bar()


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """A token a character; END and PAD are two tokens, so that an end of text is never taken for padding."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate([PAD, END, *alphabet])}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(""), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="left")


def new_model(task: Task, tokenizer: PreTrainedTokenizerFast, longest_prompt: int, dropout: float) -> nn.Module:
    """A GPT-2 of the task's size, with fresh weights."""
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
    """From a folder, or by a name that transformers knows."""
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    if tokenizer.eos_token_id is None:
        raise UsageError(f"--model {name} has a tokenizer without an end-of-text token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks come from positions, so this confuses nothing
    return tokenizer


def load_model(name: str, dropout: float | None = None) -> nn.Module:
    """From a folder, or by a name that transformers knows; `dropout` in the place of its configuration's.

    An adapter, as `save_model` leaves with --lora, is merged into the model that it belongs to.
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
        model = AutoModelForCausalLM.from_pretrained(name, config=config, dtype="float32")
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        raise UsageError(f"--model {name} takes no position_ids, by which prompts of unlike length are told apart")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.clone()  # it may lie in the file's memory, and what writes to the file would change it
    return model


def text_config(model: nn.Module) -> PretrainedConfig:
    """Of a model of texts, or the part of another's that is about them."""
    return model.config.get_text_config()


def end_tokens(model: nn.Module) -> list[int]:
    """Tokens that the model was made to end a text or a turn with."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else ends if isinstance(ends, list) else [ends]


def _merged(name: str, dropout: float | None) -> nn.Module:
    with needs_extra("lm"):
        from peft import PeftConfig, PeftModel
    below = PeftConfig.from_pretrained(name).base_model_name_or_path
    if not below:
        raise UsageError(f"--model {name} is an adapter that does not say which model it belongs to")
    model = PeftModel.from_pretrained(load_model(below, dropout), name).merge_and_unload().requires_grad_(True)
    model.name_or_path = name  # which an adapter of this one names as its model, then
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
    """The model, frozen, with trainable matrices of that rank beside its linear layers (arXiv 2106.09685)."""
    with needs_extra("lm"):
        from peft import LoraConfig, get_peft_model
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's weights are
    which = {"target_modules": "all-linear", "fan_in_fan_out": transposed, "task_type": "CAUSAL_LM"}
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, **which))


def save_model(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """As transformers does, with the values of `state` if given; of a model with an adapter, the adapter alone. The
    folder is whole or absent."""
    with written_whole(folder) as filling:
        model.save_pretrained(filling, state_dict=state)
        if tokenizer.is_fast:
            tokenizer.backend_tokenizer.no_padding()  # which the last call has left there
        tokenizer.save_pretrained(filling)


def drops(model: nn.Module) -> bool:
    """Whether its training mode differs from its evaluation: a dropout layer, or one that its configuration names, as
    of attention, which is a function and no layer."""
    layers = any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())
    return layers or any(value > 0 for value in _named_dropouts(model.config).values())


def _named_dropouts(config: PretrainedConfig) -> dict[str, float]:
    """Entries of a model's configuration that are chances of dropout, but those of classifiers' heads."""
    numbers = {k: v for k, v in config.get_text_config().to_dict().items() if type(v) in (int, float)}
    named = {k: v for k, v in numbers.items() if "dropout" in k or k.endswith("pdrop")}
    return {k: v for k, v in named.items() if not k.startswith(("summary_", "classifier_"))}
