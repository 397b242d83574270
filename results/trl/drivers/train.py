"""GRPO, RLOO or DPO by TRL. Leaves what runners.lm leaves in its run folder: `model/` and `summary.json`.

Settings that both sides share are set, and what only costs time on a processor (bfloat16, gradient checkpointing,
logs) is off; everything else is TRL's default. With --policy it leaves the loss of DPO and its gradient's norm alone.
"""

import argparse
import json
import resource
import time
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from flags import COMPLETIONS, PAIRS, PROMPTS, flags
from rewards import REWARDS
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Trainer, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

PACKAGES = ("trl", "transformers", "torch", "numpy")
ONLINE = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}


class Usage(TrainerCallback):
    """Processor and wall time from the first batch to the last: neither loading nor saving."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = _now()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.cpu_seconds, self.wall_seconds = (b - a for a, b in zip(self.began, _now(), strict=True))


def _now() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.perf_counter()


def shared(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of every trainer."""
    return {
        "output_dir": str(options.run_dir),
        "seed": options.seed,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "constant",
        "max_steps": options.rollouts * options.updates,
        "disable_dropout": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def online(options: argparse.Namespace, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """Return a trainer that draws its own completions. The prompts come in the order of the file."""
    configuration, trainer = ONLINE[options.method]
    arguments = configuration(
        per_device_train_batch_size=PROMPTS * COMPLETIONS,
        num_generations=COMPLETIONS,
        num_iterations=options.updates,
        max_completion_length=options.completion_length,
        temperature=1.0,
        shuffle_dataset=False,
        **shared(options),
    )
    reward = REWARDS[options.reward]
    return trainer(str(options.model), reward, arguments, train_dataset=rows, processing_class=tokenizer)


def offline(options: argparse.Namespace, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """Return DPO on the pairs of the file. What was cut off is cut off here too, before the end that TRL adds."""
    longest = max(len(ids) for ids in tokenizer(list(rows["prompt"]))["input_ids"])
    arguments = DPOConfig(
        per_device_train_batch_size=PAIRS,
        beta=0.1,
        max_length=longest + options.completion_length,
        **shared(options),
    )
    return DPOTrainer(str(options.model), args=arguments, train_dataset=rows, processing_class=tokenizer)


def trainer_of(options: argparse.Namespace) -> Trainer:
    rows = Dataset.from_list([json.loads(line) for line in options.data.read_text().splitlines()])
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    return (online if options.method in ONLINE else offline)(options, rows, tokenizer)


def train(options: argparse.Namespace) -> None:
    trainer, usage = trainer_of(options), Usage()
    trainer.add_callback(usage)
    trainer.train()
    trainer.model.save_pretrained(options.run_dir / "model")
    trainer.processing_class.save_pretrained(options.run_dir / "model")
    summary = {
        "rollouts": options.rollouts,
        "updates": trainer.state.global_step,
        "cpu_seconds": usage.cpu_seconds,
        "wall_seconds": usage.wall_seconds,
        "versions": {name: version(name) for name in PACKAGES},
    }
    (options.run_dir / "summary.json").write_text(json.dumps(summary, indent=2))


def loss(options: argparse.Namespace) -> None:
    """Write the loss of DPO of --policy against --model, all pairs in one batch, and the norm of its gradient."""
    trainer = trainer_of(options)
    trainer.model.load_state_dict(AutoModelForCausalLM.from_pretrained(options.policy).state_dict())
    found = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    found.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters()])
    summary = {"loss": found.item(), "gradient_norm": norm.item()}
    (options.run_dir / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = flags().parse_args()
    (loss if chosen.policy else train)(chosen)
