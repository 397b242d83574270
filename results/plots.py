"""Learning curves: a line a label (mean over seeds, their range as a band), named where it ends."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.experiment import STEPS, Experiment
from results.store import Figures

# Okabe and Ito's colours, told apart with any kind of colour vision; yellow left out, too faint for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GRID_POINTS = 200
LEADER = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
"""Style of the line from a curve's end to its label."""
MOST_BANDS = 8
"""Most lines that have their ranges: of more, the ranges would hide each other."""


def learning_curves(experiment: Experiment, curves: pd.DataFrame) -> bytes:
    """Return a PNG of the training return against wall time (left) and against experience (right)."""
    figure = Figure(figsize=(10.5, 4.2), dpi=150, layout="constrained")
    by_time, by_steps = figure.subplots(1, 2, sharey=True)
    ratios = (curves.frames / curves.step)[curves.step > 0].round().unique()
    frames_per_step = int(ratios[0]) if len(ratios) == 1 else 1
    bands = len(experiment.labels) <= MOST_BANDS
    ends, counts = [], []
    for i, label in enumerate(experiment.labels):
        runs = runs_of(label, curves)
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3]}
        if runs:
            frames, minutes, returns = on_one_grid(runs, 1e6 if experiment.unit is STEPS else 1)
            for axes, x in ((by_time, minutes), (by_steps, frames)):
                axes.plot(x, returns.mean(0), linewidth=1.8, **style)
                if bands and len(runs) > 1:
                    low, high = returns.min(0), returns.max(0)
                    axes.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
            ends.append((label, frames[-1], returns.mean(0)[-1], style["color"]))
            counts.append(len(runs))
    by_time.set_xlabel("wall time (minutes)")
    unit = "agent steps" if frames_per_step == 1 else f"frames, {frames_per_step} to an agent step"
    by_steps.set_xlabel(f"{unit} (millions)" if experiment.unit is STEPS else experiment.unit.name)
    by_time.set_ylabel(f"{experiment.metric}, {experiment.unit.window}")
    plain(by_time, experiment.bar, named=True)
    plain(by_steps, experiment.bar)
    name_lines(by_steps, ends)
    fewest, most = min(counts), max(counts)
    seeds = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    spread = f"{'mean and range' if bands else 'mean'} of {seeds}" if most > 1 else "one seed"
    return as_png(figure, f"{experiment.title}: {spread}")


def traces(experiment: Experiment, curves: pd.DataFrame) -> bytes:
    """Return a PNG of the traces over agent steps: a panel each, a line a run, its intended range shaded."""
    figure = Figure(figsize=(10.5, 3.2), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(experiment.traces), squeeze=False)[0]
    for axes, trace in zip(panels, experiment.traces, strict=True):
        for i, label in enumerate(experiment.labels):
            for run in runs_of(label, curves.dropna(subset=trace.metric)):
                axes.plot(run.step / 1e6, run[trace.metric], linewidth=1, alpha=0.7, color=COLOURS[i % len(COLOURS)])
        plain(axes, None)
        axes.set_title(trace.title, fontsize="medium", loc="left")
        axes.set_xlabel("agent steps (millions)")
        axes.set_yscale("log")
        if trace.low is not None and trace.high is not None:
            axes.axhspan(trace.low, trace.high, color="#2a7f3f", alpha=0.12, linewidth=0)
    return as_png(figure, f"{experiment.title}: a line a run, intended ranges shaded")


def race(figures: Figures) -> bytes:
    """Return a PNG of what `results.peers` found in a race: each run's training return against its core-seconds."""
    figure = Figure(figsize=(10.5, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    ends = []
    for side, colour in zip(figures["sides"], COLOURS, strict=False):
        runs = [run for run in figures["runs"] if run["side"] == side and run["mean_return"] is not None]
        for run in runs:
            known = [(cpu, mean) for _, cpu, mean in run["curve"] if mean is not None]
            axes.plot(*zip(*known, (run["cpu"], run["mean_return"]), strict=True), linewidth=1.8, color=colour)
        if runs:
            longest = max(runs, key=lambda run: run["cpu"])
            ends.append((side, longest["cpu"], longest["mean_return"], colour))
    axes.set_xlabel("core-seconds")
    axes.set_ylabel("return, mean of 100 episodes")
    plain(axes, figures["bar"], named=True)
    name_lines(axes, ends)
    return as_png(figure, f"{figures['task']} on one core: a line a run")


def runs_of(label: str, curves: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of each run of a label, by random seed."""
    return [run for _, run in curves[curves.label == label].groupby("seed")]


def plain(axes: Axes, bar: float | None, named: bool = False) -> None:
    """Draw a light grid from zero on, and a line at the bar, `named` with its value."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    if bar is not None:
        axes.axhline(bar, color="#888888", linewidth=1, linestyle=(0, (4, 3)))
    if bar is not None and named:
        axes.text(0.01, bar, f"bar {bar:g}", transform=axes.get_yaxis_transform(), color="#666666", va="bottom")


def as_png(figure: Figure, title: str) -> bytes:
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    png = BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def on_one_grid(runs: Sequence[pd.DataFrame], scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return frames over `scale` [G] that all runs cover, the mean minutes until then [G], and returns [R, G]."""
    first, last = max(run.frames.iloc[0] for run in runs), min(run.frames.iloc[-1] for run in runs)
    grid = np.linspace(first / scale, last / scale, GRID_POINTS)
    minutes = [np.interp(grid, run.frames / scale, run.wall_seconds / 60) for run in runs]
    returns = [np.interp(grid, run.frames / scale, run["return"]) for run in runs]
    return grid, np.mean(minutes, axis=0), np.stack(returns)


def name_lines(axes: Axes, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Write each label to the right of the axes, level with its line's end or as near as the others allow."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end[2])
    places = spread_out([(y - low) / (high - low) for _, _, y, _ in ends], gap=0.065)
    for (label, x, y, colour), place in zip(ends, places, strict=True):
        where = {"xy": (x, y), "xytext": (1.04, place), "textcoords": "axes fraction", "va": "center"}
        axes.annotate(label, **where, color=colour, arrowprops=LEADER | {"color": colour})


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Move sorted places up, and down again from 1, until neighbours are at least `gap` apart."""
    moved = list(places)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], 1.0 if i == len(moved) - 1 else moved[i + 1] - gap)
    return moved
