"""The command line of the comparison with TRL."""

from runners.errors import UsageError, main_guard


def main(argv: list[str]) -> int:
    try:
        from results.trl.comparison import main as compare
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install -e '.[lm]'") from error
    return compare(argv)


if __name__ == "__main__":
    main_guard(main)
