"""The learning rules: pure functions on tensors, and the modules that hold their dual variables."""
