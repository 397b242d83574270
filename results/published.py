"""Figures that others published, each with its budget, protocol and source; shown beside ours, never mixed with them.

Grades: T, printed in a table or the text of the paper, read from its PDF; R, taken from a public repository that
implements or transcribes the paper.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Published:
    """One figure. `frames`: frames of the simulator behind it (4 to an agent step), None where the source has none."""

    env: str
    agent: str
    score: float
    spread: float | None
    frames: int | None
    protocol: str
    source: str
    grade: Literal["T", "R"]


M = 10**6
BENCHMARK, CLEANRL, BASELINES = "openrlbenchmark", "vwxyzjn/cleanrl", "openai/baselines"
LSTM = "PPO, LSTM, one unstacked frame"
SONG = "Song et al. 2019, arXiv 1909.12238v1, table 4"
SCHULMAN = "Schulman et al. 2017, as transcribed by seungjaeryanlee/rldb"
ALL_GAMES = "one agent for 57 games; frames are those of this game"
PUBLISHED = tuple(
    Published("Pong", *figure)
    for figure in (
        ("V-MPO, LSTM", 21.0, 0.0, 200 * M, ALL_GAMES, SONG, "T"),
        ("PPO", 20.7, None, 40 * M, "mean of the last 100 training episodes", SCHULMAN, "R"),
        (f"PPO, {BASELINES}", 20.4, None, 40 * M, "openrlbenchmark's table", BENCHMARK, "R"),
        ("PPO, CleanRL with envpool", 20.6, None, 40 * M, "3 seeds, openrlbenchmark's table", BENCHMARK, "R"),
        (f"{LSTM}, CleanRL", 19.8, 1.6, None, "as reported by the repository", CLEANRL, "R"),
        (f"{LSTM}, {BASELINES}", 19.8, 0.7, None, "as reported by CleanRL", CLEANRL, "R"),
    )
)
