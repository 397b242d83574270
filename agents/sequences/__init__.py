"""Learning rules whose samples are whole sequences: a language model's completions of prompts."""
