"""Flags of the driver, named as those of runners.lm."""

import argparse
from pathlib import Path

from rewards import REWARDS

PROMPTS, COMPLETIONS, PAIRS = 8, 8, 32
"""Prompts and completions of a rollout, and pairs of a batch of preferences."""


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--method", choices=("grpo", "rloo", "dpo"), required=True)
    parser.add_argument("--reward", choices=REWARDS, help="the task's name; dpo needs none")
    for name in ("model", "data", "run-dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("rollouts", "updates", "completion-length", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--policy", type=Path, help="write the loss of this model against --model, and train nothing")
    return parser
