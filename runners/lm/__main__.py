"""The command line of language-model fine-tuning."""

from runners.errors import main_guard, needs_extra


def main(argv: list[str]) -> int:
    with needs_extra("lm"):
        from runners.lm.launch import main as launch
    return launch(argv)


if __name__ == "__main__":
    main_guard(main)
