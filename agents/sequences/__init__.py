"""Learning rules whose sample is a whole sequence: a language model's completion of a prompt."""
