"""The command line of language-model fine-tuning."""

from runners.errors import UsageError, main_guard


def main(argv: list[str]) -> int:
    try:
        from runners.lm.launch import main as launch
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install -e '.[lm]'") from error
    return launch(argv)


if __name__ == "__main__":
    main_guard(main)
