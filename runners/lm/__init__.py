"""`python -m runners.lm`: the EM steps fine-tune a causal language model."""
