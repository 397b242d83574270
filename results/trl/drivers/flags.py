"""The flags of both drivers, named as those of runners.lm."""

import argparse
from pathlib import Path

from rewards import REWARDS

PROMPTS, COMPLETIONS, PAIRS = 8, 8, 32
"""Of a rollout, and of a batch of preferences."""


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--method", choices=("grpo", "rloo", "dpo"), required=True)
    parser.add_argument("--reward", choices=REWARDS, help="the task's name; dpo needs none")
    for name in ("model", "data", "run-dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("rollouts", "updates", "completion-length", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    return parser
