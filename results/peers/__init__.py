"""How fast peers learn beside this project, on the same machine in the same minutes: `python -m results.peers`."""
