"""The command line of the comparison with TRL."""

from runners.errors import main_guard, needs_extra


def main(argv: list[str]) -> int:
    with needs_extra("lm"):
        from results.trl.comparison import main as compare
    return compare(argv)


if __name__ == "__main__":
    main_guard(main)
