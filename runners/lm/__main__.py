"""The command line of language-model fine-tuning."""

from runners.errors import main_guard
from runners.lm.launch import main

if __name__ == "__main__":
    main_guard(main)
