"""Names of environments: the nearest ones to a name that does not exist, and other projects' names of Atari games."""

import difflib
import re
from collections.abc import Sequence

from envs.interface import EnvError

STICKY = "sticky actions of 0.25 there, none here unless with --sticky-actions 0.25"
SKIPS = "2 to 4 frames at random for each action there, always 4 here"
FOUR = "4 frames for each action, the maximum of the last two"
DIALECTS = {
    r"(\w+?)(?:-?NoFrameskip)-v4": f"{FOUR}, as its usual wrappers have it",
    r"(\w+?)(?:-?NoFrameskip)-v0": f"{FOUR}, as its usual wrappers have it; {STICKY}",
    r"(\w+?)(?:-?Deterministic)-v4": FOUR,
    r"(\w+?)(?:-?Deterministic)-v0": f"{FOUR}; {STICKY}",
    r"ALE/(\w+)-v5": STICKY,
    r"(\w+)-v5": "",
    r"(\w+)-v4": SKIPS,
    r"(\w+)-v0": f"{SKIPS}; {STICKY}",
    r"(\w+)": "",
}
"""Patterns by which gymnasium, gym and envpool name a game, each with what differs there from here."""


def atari_name(text: str, games: Sequence[str]) -> tuple[str, str | None]:
    """Return the game among `games` that `text` names, and a notice unless `text` is its name here.

    EnvError with the nearest games where there is none.
    """
    if text in games:
        return text, None
    plain = {_plain(game): game for game in games}
    for pattern, differs in DIALECTS.items():
        match = re.fullmatch(pattern, text)
        game = plain.get(_plain(match[1])) if match else None
        if game:
            return game, f"{text} is taken as {game}" + (f": {differs}" if differs else "")
    raise EnvError(unknown("game", text, games))


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """Return a message that there is no such name, and which are nearest, case, underscores and versions aside."""
    versions: dict[str, list[str]] = {}
    for candidate in known:
        versions.setdefault(_plain(candidate), []).append(candidate)
    nearest = [found for key in difflib.get_close_matches(_plain(name), versions, n=3) for found in versions[key]]
    hint = f"did you mean {' or '.join(nearest[:3])}?" if nearest else f"known are {', '.join(known[:3])}, ..."
    return f"unknown {kind} {name!r}: {hint}"


def _plain(text: str) -> str:
    return re.sub(r"[\s_]|-v\d+$", "", text.lower())
