"""Experiments, comparisons with other libraries, and the report. Nothing below this package imports it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS, DATA = ROOT / "runs", ROOT / "results/data"
"""Folders of work in progress, never committed, and of what was measured, committed."""
