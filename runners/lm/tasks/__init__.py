"""Built-in tasks: a prompt, what is right, and how the base model is trained; a small file each, all made in code."""
