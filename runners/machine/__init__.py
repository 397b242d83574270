"""The machine: what it can hold, how work is shared on it, and the processes of one run."""
