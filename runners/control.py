"""Command `python -m runners.control`: train an agent on any environment but Atari: control, memory, your own."""

from runners.errors import main_guard


def main(argv: list[str]) -> int:
    from runners.launch import main  # here, so that main_guard handles a Ctrl-C while torch loads

    return main("control", argv)


if __name__ == "__main__":
    main_guard(main)
