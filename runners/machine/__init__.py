"""The machine: checks of what it can hold, shares of the work on it, and the processes of one run."""
