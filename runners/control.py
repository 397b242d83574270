"""`python -m runners.control`: train an agent on any environment but an Atari game: control, memory tasks, your own."""

from runners.errors import main_guard


def main(argv: list[str]) -> int:
    from runners.launch import main  # here, so that a Ctrl-C while torch loads is met by the guard

    return main("control", argv)


if __name__ == "__main__":
    main_guard(main)
