"""Torsos, memory cores, gates and heads, from tensors to tensors; nothing here knows advantages or environments."""
