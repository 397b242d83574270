"""Acting: what steps environments, in this process or in others, and how weights and unrolls travel."""
