"""GRPO, RLOO or DPO by TRL, with the Python of its environment: `python -m results.trl.driver`.

It leaves what runners.lm leaves in its run folder: `model/` and `summary.json`. Settings that both sides share are set,
and what only costs time on a processor (bfloat16, gradient checkpointing, logs) is off; everything else is TRL's
default. Of this project it imports nothing but
the rewards of tasks, which are plain functions of texts.
"""

import argparse
import importlib
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Trainer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

PACKAGES = ("trl", "transformers", "torch", "numpy")
ONLINE = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}
PROMPTS, COMPLETIONS, PAIRS = 8, 8, 32
"""Prompts and completions of a rollout, and pairs of a batch of preferences."""


def flags() -> argparse.ArgumentParser:
    """Return the parser of flags, named as those of runners.lm."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--method", choices=("grpo", "rloo", "dpo"), required=True)
    parser.add_argument("--task", required=True, help="the task whose reward it is")
    for name in ("model", "data", "run-dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("rollouts", "updates", "completion-length", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    return parser


def shared(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of every trainer."""
    settings = {"output_dir": str(options.run_dir), "seed": options.seed, "learning_rate": options.learning_rate}
    settings |= {"max_steps": options.rollouts * options.updates, "lr_scheduler_type": "constant"}
    settings |= {"disable_dropout": True, "use_cpu": True, "disable_tqdm": True, "report_to": "none"}
    settings |= dict.fromkeys(("bf16", "gradient_checkpointing", "dataloader_pin_memory"), False)
    return settings | dict.fromkeys(("save_strategy", "logging_strategy"), "no")


def reward(task: str) -> Any:
    """Return the reward of a task as TRL asks for it: lists in, a list out, whatever else there is as keywords."""
    found = importlib.import_module(f"runners.lm.tasks.{task.replace('-', '_')}").TASK.reward
    return lambda prompts, completions, **_: found(prompts, completions)


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
    model = str(options.model)
    return trainer(model, reward(options.task), arguments, train_dataset=rows, processing_class=tokenizer)


def offline(options: argparse.Namespace, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """Return DPO on the pairs of the file. What was cut off is cut off here too, before the end that TRL adds."""
    longest = max(len(ids) for ids in tokenizer(list(rows["prompt"]))["input_ids"])
    sizes = {"per_device_train_batch_size": PAIRS, "max_length": longest + options.completion_length}
    arguments = DPOConfig(beta=0.1, **sizes, **shared(options))
    return DPOTrainer(str(options.model), args=arguments, train_dataset=rows, processing_class=tokenizer)


def make(options: argparse.Namespace) -> Trainer:
    rows = Dataset.from_list([json.loads(line) for line in options.data.read_text().splitlines()])
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    return (online if options.method in ONLINE else offline)(options, rows, tokenizer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = flags().parse_args()
    trainer = make(options)
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu  # neither of loading nor of saving
    trainer.model.save_pretrained(options.run_dir / "model")
    trainer.processing_class.save_pretrained(options.run_dir / "model")
    summary = {"rollouts": options.rollouts, "updates": trainer.state.global_step}
    summary |= {"cpu_seconds": cpu, "wall_seconds": wall}
    summary |= {"versions": {name: version(name) for name in PACKAGES}}
    (options.run_dir / "summary.json").write_text(json.dumps(summary, indent=2))
