"""`python -m runners.atari`: train an agent on an Atari game from pixels."""

from runners.errors import main_guard
from runners.launch import main

if __name__ == "__main__":
    main_guard(lambda argv: main("atari", argv))
