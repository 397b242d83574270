"""Measurement of what is lost when a file is damaged or a process is killed: `python -m results.faults`."""

INTERVAL = 3.0
"""Seconds between checkpoints of the runs that are killed."""
GONE = 5.0
"""Seconds after a learner's death within which its other processes must have ended."""
