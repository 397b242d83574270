"""Command `python -m runners.atari`: train an agent on Atari games from pixels."""

from runners.errors import main_guard


def main(argv: list[str]) -> int:
    from runners.launch import main  # here, so that main_guard handles a Ctrl-C while torch loads

    return main("atari", argv)


if __name__ == "__main__":
    main_guard(main)
