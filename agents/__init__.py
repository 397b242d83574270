"""The learning rules: pure functions of tensors, and the modules that hold their dual variables."""
