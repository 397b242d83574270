"""Rounds of one comparison, and what they come to: a round is the peer and then this project, minutes apart."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

from results.peers.accounting import Usage

Measure = Callable[[], tuple[Any, Usage]]


class Speed(NamedTuple):
    """Medians over rounds: agent steps a second of each side, and of each round's ratio, with its range."""

    peer: float
    ours: float
    ratio: float
    lowest: float
    highest: float


def play(peer: Measure, ours: Measure, rounds: int, tell: Callable[[int, Speed], None]) -> dict[str, Any]:
    """Both sides in turn, `rounds` times; `tell` hears of each round."""
    sides = {"peer": peer, "ours": ours}
    about: dict[str, Any] = {}
    pairs = []
    for number in range(1, rounds + 1):
        pair = {}
        for side, measure in sides.items():
            about[side], usage = measure()
            pair[side] = usage._asdict()
        pairs.append(pair)
        tell(number, speed([pair], "cpu"))
    return about | {"rounds": pairs}


def speed(rounds: Sequence[dict[str, dict[str, float]]], per: str) -> Speed:
    """Of rounds {"peer": usage, "ours": usage}, steps per second of "cpu" or of "wall"."""
    peer, ours = ([pair[side]["steps"] / pair[side][per] for pair in rounds] for side in ("peer", "ours"))
    ratios = [b / a for a, b in zip(peer, ours, strict=True)]
    return Speed(median(peer), median(ours), median(ratios), min(ratios), max(ratios))
