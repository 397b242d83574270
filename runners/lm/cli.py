"""The command line: defaults that suit the method, flags by their papers' names, resuming."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

from agents.sequences.config import MethodName, SequenceConfig
from runners.cli import (
    load_config,
    parse_flags,
    peek,
    refuse_another,
    refuse_changes,
    resumed,
    suited,
    unfinished,
    without,
)
from runners.lm.config import LMConfig, from_dict, to_dict

DESCRIPTION = (
    "Fine-tune a causal language model. --resume RUN_DIR continues a run with its saved configuration."
    " Defaults are those of the method."
)
MAY_CHANGE = frozenset("rollouts shard device threads micro_batch checkpoint_seconds patience patience_steps".split())
"""Settings that may differ from the saved ones when a run is resumed."""
BATCHES = ("sft", "dpo")
"""Methods that take batches of data, not rollouts."""


def defaults(method: MethodName, **choices: str) -> LMConfig:
    """Return defaults for a small model and rewards in [0, 1]; `choices` are gempi's row."""
    options = SequenceConfig(method=method, **choices).options
    em = {"epsilon_eta": 0.1, "epsilon_reference": 0.1, "lambda_behaviour": 0.9, "alpha_init": 1.0}
    used = {name: value for name, value in em.items() if name in options}
    config = LMConfig(agent=SequenceConfig(method=method, **choices, **used))
    if method in BATCHES:
        config = replace(
            config,
            data=replace(config.data, prompts=32),
            learner=replace(config.learner, updates=1, learning_rate=1e-5 if method == "dpo" else 1e-4),
        )
    return config


def parse(argv: list[str]) -> tuple[LMConfig, Path | None]:
    """Return the configuration of a command line, and the folder of the run to resume, if any."""
    decides = peek(argv, method="vmpo")
    if decides.resume is None:
        method = decides.method if decides.method in get_args(MethodName) else "vmpo"
        config = parse_flags(LMConfig, "lm", DESCRIPTION, argv, suited(defaults, method, decides))
        run_dir = unfinished(config.learner.run_dir)
        if run_dir is None:
            return config, None
        saved = load_config(run_dir, ["lm"], from_dict)
        refuse_another(run_dir, to_dict(saved), to_dict(config), MAY_CHANGE)
    else:
        run_dir, saved = resumed(decides, ["lm"], from_dict)
        config = parse_flags(LMConfig, "lm", DESCRIPTION, without(argv, "--resume"), saved)
        refuse_changes(to_dict(saved), to_dict(config), MAY_CHANGE)
    if saved.learner.anneal and config.learner.rollouts != saved.learner.rollouts:
        print(
            f"warning: this run's learning rate was annealed over {saved.learner.rollouts} rollouts, now over "
            f"{config.learner.rollouts}: it jumps to the new schedule's value"
        )
    return config, run_dir
