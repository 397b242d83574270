"""One file an experiment; `EXPERIMENT` in it says what to run."""
