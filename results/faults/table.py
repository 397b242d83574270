"""Tables of the figures of `results.faults`: damaged files, killed runs, and a run of an hour."""

import numpy as np
import pandas as pd

from results.faults import GONE, INTERVAL
from results.store import Figures
from results.tables import markdown

LAST_BATCH = 5.0
"""Seconds of a batch and a checkpoint's writing, on a machine on which other runs went on."""
FILES_HEADER = ["File", "Damage", "Files", "The one before taken, or refused in a line", "Taken for whole"]
KILLS_HEADER = ["Run", "Killed", "Kills", "No whole checkpoint", f"Lost more than an interval and {LAST_BATCH:g} s"]
KILLS_HEADER += ["Most lost, s", "Processes after 5 s", "Files left", "Tracebacks", "Did not go on"]

SOAK_HEADER = ["What", "Median", "Change an hour", "95% interval"]


def files_table(figures: Figures) -> str:
    """Return a row for each kind of file and damage, and one for all."""
    files = pd.DataFrame(figures["files"])
    files["whole"] = files["count"].where(files.outcome == "taken for whole", 0)
    files["found"] = files["count"] - files.whole
    groups = files.groupby(["file", "kind"])[["count", "found", "whole"]].sum()
    rows = [*groups.reset_index().values, ["all", "", *groups.sum()]]
    return markdown(FILES_HEADER, [map(str, row) for row in rows])


def kills_table(figures: Figures) -> str:
    """Return a row for each run and moment, and one for all."""
    groups: dict[tuple[str, str], list[Figures]] = {}
    for kill in figures["kills"]:
        groups.setdefault((kill["run"], kill["moment"]), []).append(kill)
    rows = [[*names, *_cells(kills)] for names, kills in groups.items()]
    return markdown(KILLS_HEADER, [*rows, ["all", "", *_cells(figures["kills"])]])


def soak_table(figures: Figures) -> str:
    """Return a row for each quantity that was sampled while a run went on."""
    rows = []
    for name, x in figures["trends"].items():
        rows.append([name, f"{x['median']:.4g}", f"{x['slope']:+.2g}", f"{x['low']:+.2g} to {x['high']:+.2g}"])
    return markdown(SOAK_HEADER, rows)


def memory_in_quarters(figures: Figures) -> str:
    """Return the median memory, in MiB, of each quarter of the time: of what only warms up it rises less and less."""
    quarters = np.array_split([each["memory, MiB"] for each in figures["samples"]], 4)
    return ", ".join(f"{np.median(quarter):.1f}" for quarter in quarters)


def lost(kill: Figures) -> bool:
    """Return whether more was lost than a checkpoint's interval, its last batch and its writing."""
    return kill["lost_seconds"] > INTERVAL + LAST_BATCH


def _cells(kills: list[Figures]) -> list[str]:
    counts = [
        len(kills),
        sum(not kill["whole"] for kill in kills),
        sum(map(lost, kills)),
        f"{max((kill['lost_seconds'] for kill in kills), default=0.0):.1f}",
        sum(kill["seconds_until_gone"] > GONE for kill in kills),
        sum(bool(kill["left"]) for kill in kills),
        sum(kill["tracebacks"] for kill in kills),
        sum(not kill.get("goes_on", True) for kill in kills),
    ]
    return list(map(str, counts))
