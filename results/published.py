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


PUBLISHED = (
    Published(
        env="Pong",
        agent="V-MPO, LSTM",
        score=21.0,
        spread=0.0,
        frames=200_000_000,
        protocol="one agent for 57 games; frames are those of this game",
        source="Song et al. 2019, arXiv 1909.12238v1, table 4",
        grade="T",
    ),
    Published(
        env="Pong",
        agent="PPO",
        score=20.7,
        spread=None,
        frames=40_000_000,
        protocol="mean of the last 100 training episodes",
        source="Schulman et al. 2017, as transcribed by seungjaeryanlee/rldb",
        grade="R",
    ),
    Published(
        env="Pong",
        agent="PPO, openai/baselines",
        score=20.4,
        spread=None,
        frames=40_000_000,
        protocol="openrlbenchmark's table",
        source="openrlbenchmark",
        grade="R",
    ),
    Published(
        env="Pong",
        agent="PPO, CleanRL with envpool",
        score=20.6,
        spread=None,
        frames=40_000_000,
        protocol="3 seeds, openrlbenchmark's table",
        source="openrlbenchmark",
        grade="R",
    ),
    Published(
        env="Pong",
        agent="PPO, LSTM, one unstacked frame, CleanRL",
        score=19.8,
        spread=1.6,
        frames=None,
        protocol="as reported by the repository",
        source="vwxyzjn/cleanrl",
        grade="R",
    ),
    Published(
        env="Pong",
        agent="PPO, LSTM, one unstacked frame, openai/baselines",
        score=19.8,
        spread=0.7,
        frames=None,
        protocol="as reported by CleanRL",
        source="vwxyzjn/cleanrl",
        grade="R",
    ),
)
