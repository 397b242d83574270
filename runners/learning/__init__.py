"""Learning: gradient steps on batches of unrolls, and pi_ref."""
