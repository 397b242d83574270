"""Experiments, comparisons with other libraries, and the report. Nothing below this package imports it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs"
"""Folder of work in progress, never committed."""
DATA = ROOT / "results/data"
"""Folder of what was measured, committed."""
