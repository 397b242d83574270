"""TRL and this project side by side on the tasks of runners.lm: `python -m results.trl`."""
