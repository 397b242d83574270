"""Learning: gradient steps on batches of unrolls, and what stands beside them."""
