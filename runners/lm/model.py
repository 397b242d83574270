"""A causal language model and its tokenizer: a task's own small GPT-2, or one that transformers loads."""

from pathlib import Path

from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, PreTrainedTokenizerFast
from transformers.utils import logging

from runners.errors import UsageError
from runners.lm.tasks.task import Task

END, PAD = "<end>", "<pad>"
logging.disable_progress_bar()


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """A token a character; END and PAD are two tokens, so that an end of text is never taken for padding."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

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


def load_model(name: str, dropout: float | None) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """From a folder, or by a name that transformers knows; `dropout` in the place of its configuration's."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(name, **_dropout(name, dropout))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"--model {name} cannot be loaded by transformers: {reason}") from error
    if tokenizer.eos_token_id is None:
        raise UsageError(f"--model {name} has a tokenizer without an end-of-text token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks come from positions, so this confuses nothing
    return model, tokenizer


def save_model(model: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def drops(model: nn.Module) -> bool:
    """Whether its training mode differs from its evaluation: a dropout layer, or one that its configuration names, as
    of attention, which is a function and no layer."""
    layers = any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())
    return layers or any(value > 0 for value in _named_dropouts(model.config.to_dict()).values())


def _dropout(name: str, dropout: float | None) -> dict[str, float]:
    if dropout is None:
        return {}
    from transformers import AutoConfig

    return dict.fromkeys(_named_dropouts(AutoConfig.from_pretrained(name).to_dict()), dropout)


def _named_dropouts(config: dict[str, object]) -> dict[str, float]:
    """Entries of a model's configuration that are chances of dropout, but those of classifiers' heads."""
    named = {k: v for k, v in config.items() if isinstance(v, float) and ("dropout" in k or k.endswith("pdrop"))}
    return {k: v for k, v in named.items() if not k.startswith(("summary_", "classifier_"))}
