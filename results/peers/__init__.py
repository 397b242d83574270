"""Speed of peers beside this project, on the same machine in the same minutes: `python -m results.peers`."""
