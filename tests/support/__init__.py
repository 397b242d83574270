"""What tests share: references to compare with, environments, tasks and small runs."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = f"{ROOT}:{ROOT / 'tests'}"
"""Where a process that a test starts finds the project and this package."""
