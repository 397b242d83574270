"""Configuration of a language-model run, flat on the command line, saved as `config.json`."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agents.checks import at_least_one, at_most_a_month, flag, not_negative, positive
from agents.sequences.config import SequenceConfig


@dataclass(frozen=True)
class DataConfig:
    """Options of the data, of sampling and of the model."""

    task: str = "sort"
    """Built-in task: sort, sort-weak or walks, which train their own base model; reasoning:NAME of the library
    reasoning-gym, whose base model trains for minutes; or module:NAME, a Task of yours."""
    model: str | None = None
    """Base model: a folder or name that transformers knows, or an adapter's, which is merged into its model; by default
    the task's own, trained first."""
    data: str | None = None
    """Rows to learn from instead of a task: a .jsonl file, or a folder or name that the datasets library knows. Their
    columns are prompt; prompt, completion; prompt, completion, reward; prompt, chosen, rejected; or messages. Other
    columns go to --reward."""
    eval_data: str | None = None
    """Held-out rows; by default the last tenth of --data."""
    reward: str | None = None
    """Reward function module:function, f(prompts, completions, **columns) -> a list with a reward for each completion,
    or None for one that does not count."""
    completion_length: int = 64
    """Largest number of tokens of a completion, with --data."""
    lora: int = 0
    """Rank of LoRA matrices to train instead of the model; 0 trains the model."""
    base_dir: str | None = None
    """Folder that keeps tasks' base models, so that runs of the same task, seed and dropout train it once."""
    prompts: int = 8
    """Prompts of a rollout, or of a batch with sft and dpo."""
    completions: int = 8
    """K, the number of completions of each prompt."""
    reward_scale: float = 1.0
    """Factor on rewards for learning; logs and evaluations have the rewards without it."""
    sampling_temperature: float = 1.0
    """Temperature of sampling; logits are divided by it in learning, too."""
    eval_prompts: int = 512
    """Held-out prompts of an evaluation."""

    def __post_init__(self) -> None:
        at_least_one(self, ("prompts", "completions", "eval_prompts", "completion_length"))
        positive(self, ("sampling_temperature", "reward_scale"))
        not_negative(self, ("lora",))
        for name in ("task", "completion_length"):
            other = {"task": self.data, "completion_length": not self.data}[name]
            if other and getattr(self, name) != getattr(DataConfig, name):
                which = "with --data" if self.data else "without --data: a task has its own"
                raise ValueError(f"--{flag(name)} has no effect {which}")
        if self.lora and not self.model:
            raise ValueError("--lora needs --model: an adapter is saved without its model")
        if not self.data and (self.eval_data or self.reward):
            raise ValueError("--eval-data and --reward go with --data: a task has its own")
        if self.model and self.base_dir:
            raise ValueError("--base-dir has no effect with --model: leave one out")


@dataclass(frozen=True)
class LearnerConfig:
    """Options of learning, of the device and of the records."""

    preset: Literal["small", "paper"] = "small"
    """Defaults: small, for a small model, or paper, the settings that papers give for a method."""
    seed: int = 0
    """Seed of everything: base model, prompts, completions, dropout."""
    rollouts: int = 200
    """Number of rollouts, or of batches with sft and dpo."""
    updates: int = 4
    """Gradient steps on each rollout; pi_t, which drew it, stays the same."""
    learning_rate: float = 1e-4
    """AdamW's step size for the model."""
    anneal: bool = False
    """Let the model's learning rate fall linearly to 0 over the rollouts."""
    dual_learning_rate: float = 1e-2
    """Adam's step size for the coefficients of divergences and alpha."""
    value_learning_rate: float = 1e-2
    """Adam's step size for the value head of --baseline value or token."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_gradient_norm: float = 1.0
    """Clip the model's gradient to this norm; 0 never clips."""
    patience: float = 3600.0
    """Seconds without a batch of a rank after which the run ends with an error that names it."""
    patience_steps: int = 20
    """Number of gradients in a row that are not finite, each of which is left out, after which the run ends."""
    dropout: float | None = None
    """Dropout of the model in the training of a task's base model and in the M-step; by default as its configuration
    says, and 0 for a task's own."""
    drop_path: float = 0.0
    """Probability that a block of the model is left out for a row of its input in the M-step (DropPath, stochastic
    depth): for a completion, for a prompt that several share, or with --packing for all of a row."""
    dropout_scheme: Literal["whole", "masked"] = "whole"
    """Network that trust region and ratios compare with pi_t where there is dropout: the whole one, or the masked one.
    PPO, whose loss has only ratios, trains without dropout under `whole`."""
    packing: bool = False
    """sft: put several demonstrations into a row of the model's input instead of padding, without attention across
    them; batches are then in a random order, not of similar lengths."""
    micro_batch: int = 256
    """Samples of a gradient step that pass through the model at a time; their gradients add up."""
    shard: bool = False
    """Spread the model, its gradients and the optimiser's state over the processes of torchrun (FSDP2). While
    completions are drawn, each process has the whole model, and that of the start."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the model."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the model's forward and backward passes; weights and optimiser are in float32 either way."""
    threads: int = 1
    """Torch threads."""
    run_dir: str | None = None
    """Folder of the run; by default a new one under runs/."""
    log_rollouts: int = 5
    """Rollouts between rows of metrics, each of which is the mean over them, or a 10,000th of the rollouts so far where
    that is more."""
    checkpoint_seconds: float = 120.0
    """Seconds between checkpoints."""

    def __post_init__(self) -> None:
        at_least_one(self, ("rollouts", "updates", "micro_batch", "threads", "log_rollouts", "patience_steps"))
        positive(self, ("learning_rate", "dual_learning_rate", "value_learning_rate", "checkpoint_seconds", "patience"))
        at_most_a_month(self, ("patience",))
        not_negative(self, ("weight_decay", "max_gradient_norm"))
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout must lie in [0, 1), not {self.dropout}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"--drop-path must lie in [0, 1), not {self.drop_path}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"--seed must lie in 0..{2**31 - 1}, not {self.seed}")


@dataclass(frozen=True)
class LMConfig:
    """All options of a run."""

    data: DataConfig = field(default_factory=DataConfig)
    agent: SequenceConfig = field(default_factory=SequenceConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)

    def __post_init__(self) -> None:
        if self.data.completions < 2 and self.agent.method not in ("sft", "dpo"):
            if self.agent.baseline in ("group", "leave-one-out") or not self.agent.baseline and not self.data.data:
                raise ValueError(f"--baseline {self.agent.baseline or 'group'} needs --completions of at least 2")
        method = f"--method {self.agent.method}"
        idle = {
            "reward-scale": self.data.reward_scale != 1 and self.agent.method in ("sft", "dpo"),
            "completions": self.data.completions != DataConfig.completions and self.agent.method == "sft",
            "packing": self.learner.packing and self.agent.method != "sft",
            "dropout-scheme": self.learner.dropout_scheme != "whole" and self.agent.method in ("sft", "dpo"),
            "dual-learning-rate": self.learner.dual_learning_rate != LearnerConfig.dual_learning_rate
            and not self.agent.has_duals,
        }
        for name in (name for name, is_idle in idle.items() if is_idle):
            raise ValueError(f"--{name} has no effect with {method}: leave it out")
        if self.data.reward_scale != 1 and self.agent.standardise_advantages:
            raise ValueError("--reward-scale has no effect with --standardise-advantages: leave one out")
        if not self.agent.has_value and self.learner.value_learning_rate != LearnerConfig.value_learning_rate:
            raise ValueError("--value-learning-rate has no effect without --baseline value or token")
        if self.agent.method == "dpo" and self.data.completions < 2:
            raise ValueError("--method dpo makes its pairs of --completions, at least 2")

    @property
    def subject(self) -> str:
        """Return the name of the data file, or of the task."""
        return Path(self.data.data).stem if self.data.data else self.data.task


def to_dict(config: LMConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)


def from_dict(tree: dict[str, Any]) -> LMConfig:
    """Return the configuration that `to_dict` gave, also after a round trip through JSON."""
    return LMConfig(DataConfig(**tree["data"]), SequenceConfig(**tree["agent"]), LearnerConfig(**tree["learner"]))
