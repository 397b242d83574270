"""Torsos, memory cores, gates and heads: tensors in, tensors out. It knows no rewards, advantages, environments."""
