"""Command `python -m runners.lm`: fine-tune a causal language model by EM steps."""
