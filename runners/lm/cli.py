"""The command line: defaults that suit the method, flags by their papers' names, resuming."""

from pathlib import Path
from typing import get_args

from agents.sequences.config import MethodName
from runners.cli import (
    load_config,
    parse_flags,
    peek,
    refuse_another,
    refuse_changes,
    refuse_fewer,
    refuse_named,
    resumed,
    suited,
    unfinished,
    without,
)
from runners.errors import usage_errors
from runners.lm.config import LMConfig, from_dict, to_dict
from runners.lm.presets import PRESETS, small

DESCRIPTION = (
    "Fine-tune a causal language model. --resume RUN_DIR continues a run with its saved configuration."
    " Defaults are those of the preset and the method."
)
MAY_CHANGE = frozenset("rollouts shard device threads micro_batch checkpoint_seconds patience patience_steps".split())
"""Settings that may differ from the saved ones when a run is resumed."""


def parse(argv: list[str]) -> tuple[LMConfig, Path | None]:
    """Return the configuration of a command line, and the folder of the run to resume, if any."""
    decides = peek(argv, method="vmpo", preset="small")
    if decides.resume is None:
        # An unknown name is left for the parser proper to refuse.
        method = decides.method if decides.method in get_args(MethodName) else "vmpo"
        with usage_errors():
            default = suited(PRESETS.get(decides.preset, small), method, decides)
        config = parse_flags(LMConfig, "lm", DESCRIPTION, argv, default)
        agent = config.agent
        refuse_named(argv, vars(agent).keys() - agent.options, f"on --method {agent.method} as it is")
        run_dir = unfinished(config.learner.run_dir)
        if run_dir is None:
            return config, None
        saved = load_config(run_dir, ["lm"], from_dict)
        refuse_another(run_dir, to_dict(saved), to_dict(config), MAY_CHANGE)
    else:
        run_dir, saved = resumed(decides, ["lm"], from_dict)
        config = parse_flags(LMConfig, "lm", DESCRIPTION, without(argv, "--resume"), saved)
        refuse_changes(to_dict(saved), to_dict(config), MAY_CHANGE)
    refuse_fewer(run_dir, "rollouts", saved.learner.rollouts, config.learner.rollouts)
    if saved.learner.anneal and config.learner.rollouts != saved.learner.rollouts:
        print(
            f"warning: this run's learning rate was annealed over {saved.learner.rollouts} rollouts, now over "
            f"{config.learner.rollouts}: it jumps to the new schedule's value"
        )
    return config, run_dir
