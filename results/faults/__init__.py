"""Faults: what is lost when a file is damaged or a process is killed. `python -m results.faults` makes the table."""

INTERVAL = 3.0
"""Seconds between checkpoints of the runs that are killed."""
GONE = 5.0
"""Seconds within which a dead learner's processes must have ended."""
