"""Run by path with the Python of TRL's own environment; nothing here imports this project."""
