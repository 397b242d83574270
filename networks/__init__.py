"""Torsos, memory cores, gates and heads: tensors in, tensors out. Nothing here knows rewards, advantages or environments."""
