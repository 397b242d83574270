"""Tables of `results.faults`' figures: damaged files, and killed runs."""

from pathlib import Path

from results.faults import GONE, INTERVAL
from results.store import Figures, read_figures, shown_command
from results.tables import markdown

LAST_BATCH = 5.0
"""Seconds of a batch and a checkpoint's writing, on a machine on which other runs go on."""


def lost(kill: Figures) -> bool:
    """Whether more was lost than an interval between checkpoints, the batch that ends it and its writing."""
    return kill["lost_seconds"] > INTERVAL + LAST_BATCH


def files_table(figures: Figures) -> str:
    """Return a row a kind of file and damage."""
    found = {(x["file"], x["kind"]): {} for x in figures["files"]}
    for x in figures["files"]:
        found[x["file"], x["kind"]][x["outcome"]] = x["count"]
    header = ["File", "Damage", "Files", "The one before taken, or refused in a line", "Taken for whole"]
    rows = [
        [names[0], names[1], str(sum(x.values())), str(sum(x.values()) - x.get("taken for whole", 0))]
        + [str(x.get("taken for whole", 0))]
        for names, x in found.items()
    ]
    total = [sum(int(row[i]) for row in rows) for i in (2, 3, 4)]
    return markdown(header, [*rows, ["all", "", *map(str, total)]])


def kills_table(figures: Figures) -> str:
    """Return a row a run and moment."""
    groups: dict[tuple[str, str], list[Figures]] = {}
    for kill in figures["kills"]:
        groups.setdefault((kill["run"], kill["moment"]), []).append(kill)
    header = [
        "Run",
        "Killed",
        "Kills",
        "No whole checkpoint",
        f"Lost more than an interval and {LAST_BATCH:g} s",
        "Most lost, s",
    ]
    header += ["Processes after 5 s", "Files left", "Tracebacks", "Did not go on"]
    rows = [[*names, *cells(kills)] for names, kills in groups.items()]
    return markdown(header, [*rows, ["all", "", *cells(figures["kills"])]])


def cells(kills: list[Figures]) -> list[str]:
    counts = [
        len(kills),
        sum(not kill["whole"] for kill in kills),
        sum(map(lost, kills)),
        f"{max(kill['lost_seconds'] for kill in kills):.1f}",
        sum(kill["seconds_until_gone"] > GONE for kill in kills),
        sum(bool(kill["left"]) for kill in kills),
        sum(kill["tracebacks"] for kill in kills),
        sum(not kill.get("goes_on", True) for kill in kills),
    ]
    return list(map(str, counts))


def overview(data: Path) -> str:
    """Return the tables of what is kept under `data`, empty where nothing is."""
    path = data / "faults" / "faults.json"
    if not path.exists():
        return ""
    figures = read_figures(path)
    machine = figures["machine"]
    taken = (
        f"Checkpoints are {INTERVAL:g} s apart, or a batch where that takes longer; other runs went on meanwhile. "
        f"Machine: {machine['processor']}, {machine['cores']} cores. Measured by "
        f"`{shown_command(figures, 'results.faults')}`."
    )
    return "\n\n".join([files_table(figures), kills_table(figures), taken])
