"""Built-in tasks, each a small file: prompts, rewards, and the demonstrations of the base model, all made in code."""
