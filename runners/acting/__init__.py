"""Acting: actors that step environments, in this process or in others, and the transport of weights and unrolls."""
