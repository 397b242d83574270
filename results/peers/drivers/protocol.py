"""What every driver shares: its flags, and the lines that it reports.

A driver runs with the Python of a peer's own environment and imports nothing of this project. It writes lines of JSON
to the file descriptor that the variable MARKS names (stdout without it): what it runs, `{"settings", "versions"}`, and
from then on `{"steps"}`, the agent steps so far, after each batch that was learned from, for as long as it is let.
"""

import argparse
import json
import os
from collections.abc import Sequence
from importlib.metadata import version

FRAME_SKIP = 4
LEARNING_RATE = 2.5e-4
CLIP = 0.1
ENTROPY, VALUE = 0.01, 0.5
DISCOUNT, GAE_LAMBDA = 0.99, 0.95
GRADIENT_NORM = 0.5


def options() -> argparse.Namespace:
    """The flags: what both sides of a comparison have in common. A batch is `envs` x `unroll` agent steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", choices=("feedforward", "lstm"), required=True)
    for name in ("hidden", "envs", "unroll", "minibatches", "passes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


def describe(packages: Sequence[str], **settings: object) -> None:
    """Tell what runs, and with which releases of `packages`."""
    _write({"settings": settings, "versions": {name: version(name) for name in packages}})


def mark(steps: int) -> None:
    """Tell that `steps` agent steps have been taken and learned from."""
    _write({"steps": steps})


def _write(line: dict) -> None:
    os.write(int(os.environ.get("MARKS", 1)), json.dumps(line).encode() + b"\n")
