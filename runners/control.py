"""`python -m runners.control`: train an agent on a task with a vector observation, memory tasks included."""

from runners.errors import main_guard
from runners.launch import main

if __name__ == "__main__":
    main_guard(lambda argv: main("control", argv))
