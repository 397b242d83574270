"""Checks of the ranges of options, by which configurations check themselves: ValueError in a line with the flag."""

import math
from collections.abc import Iterable


def at_least_one(config: object, names: Iterable[str]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"--{flag(name)} must be at least 1, not {getattr(config, name)}")


def in_unit_interval(config: object, names: Iterable[str]) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"--{flag(name)} must lie between 0 and 1, not {getattr(config, name)}")


def positive(config: object, names: Iterable[str]) -> None:
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"--{flag(name)} must be greater than 0, not {getattr(config, name)}")


def not_negative(config: object, names: Iterable[str]) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"--{flag(name)} must not be negative, not {getattr(config, name)}")


def at_most_a_month(config: object, names: Iterable[str]) -> None:
    """Raise ValueError if one of these settings in seconds is longer than the clocks of timeouts can count."""
    for name in names:
        if not getattr(config, name) <= 30 * 86400:
            raise ValueError(f"--{flag(name)} must be at most {30 * 86400} seconds, not {getattr(config, name):g}")


def flag(name: str) -> str:
    return name.replace("_", "-")
