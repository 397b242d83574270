"""Faults: what is lost when a file is damaged or a process is killed. `python -m results.faults` makes the table."""
