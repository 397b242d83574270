"""`python -m runners.atari`: train an agent on an Atari game from pixels."""

from runners.errors import main_guard


def main(argv: list[str]) -> int:
    from runners.launch import main  # here, so that a Ctrl-C while torch loads is met by the guard

    return main("atari", argv)


if __name__ == "__main__":
    main_guard(main)
