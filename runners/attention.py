"""A picture and arrays of what a transformer attends to along an episode, and of how far its gates open."""

import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from envs.factory import resolve
from envs.interface import TimeStep, VectorEnv
from envs.suites import RECALL
from networks.actor_critic import ActorCritic
from networks.config import NetworkConfig
from networks.cores import CORES
from networks.inside import Inside, look_inside
from networks.transformer import TransformerCore
from runners.config import RunConfig
from runners.errors import UsageError
from runners.evaluation import Player, play_one
from runners.records.files import write_atomically

CHUNK = 64
"""Steps of an episode that go through the network at once."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours, a layer each."""


def check_attends(config: NetworkConfig) -> None:
    """Raise UsageError unless the core is a transformer."""
    if CORES[config.core] is not TransformerCore:
        raise UsageError(f"--attention is for transformers (trxl, trxl-i, gtrxl), and this run's core is {config.core}")


def record_attention(config: RunConfig, network: ActorCritic, folder: Path) -> None:
    """Play an episode, and write what `look_inside` returns for it to `folder`: attention.npz, arrays `attention`
    [L, H, T, M+1] and `openness` [L, 2, T], and attention.png."""
    inputs: list[tuple[np.ndarray, ...]] = []

    def watch(env: VectorEnv, player: Player, step: TimeStep) -> None:
        shown = (step.observation, player.action, step.reward, step.first)
        inputs.append(tuple(np.array(x) for x in shown))  # simulators may write the next step over this one

    how = play_one(config, network, watch)
    inside = along([torch.from_numpy(np.stack(x)) for x in zip(*inputs, strict=True)], network)
    attention = inside.attention[:, 0].numpy()
    arrays = {"attention": attention}
    if inside.openness is not None:
        arrays["openness"] = inside.openness[:, :, 0].numpy()
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_atomically(folder / "attention.npz", data.getvalue())
    cue = 0 if resolve(config.env)[0] is RECALL else None
    picture = drawn(f"{config.env.tasks[0]}, an episode of {how}", attention, arrays.get("openness"), cue)
    write_atomically(folder / "attention.png", picture)
    print(f"attention along an episode, {how}: {folder / 'attention.png'}")
    for i, heads in enumerate(attention[:, :, -1]):
        head, place = np.unravel_index(heads.argmax(), heads.shape)
        age = heads.shape[1] - 1 - place
        print(f"layer {i + 1}, last step: the largest weight is {heads.max():.2f}, of head {head + 1}, {age} steps ago")


def along(inputs: list[Tensor], network: ActorCritic) -> Inside:
    """Return what the core did along an episode of one environment, given as the network's `inputs` [T, 1, ...]."""
    parts, state = [], network.initial_state(1)
    for chunk in zip(*(x.split(CHUNK) for x in inputs), strict=True):
        seen, state = look_inside(network, *chunk, state)
        parts.append(seen)
    attention, openness = zip(*parts, strict=True)
    return Inside(torch.cat(attention, 3), None if openness[0] is None else torch.cat(openness, 3))


def drawn(title: str, attention: np.ndarray, openness: np.ndarray | None, cue: int | None) -> bytes:
    """Return a PNG: a map of `attention` [L, H, T, M+1] for each layer (rows) and head (columns), and lines of
    `openness` [L, 2, T] below. Step `cue`, if there is one, is marked."""
    layers, heads, steps, places = attention.shape
    ages = min(places, steps)  # no step is further from the last one than the first
    rows = layers + (openness is not None)
    figure = Figure(figsize=(1.2 + 2.6 * max(2, heads), 0.8 + 2.3 * rows), dpi=120, layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(rows, heads)
    panels = [[figure.add_subplot(grid[i, j]) for j in range(heads)] for i in range(layers)]
    before = np.arange(ages)[:, None] > np.arange(steps)  # no such step in the episode
    most = attention[:, :, steps // 2 :].max()  # the first steps have few others, whose weights would set the scale
    for i, row in enumerate(panels):
        for j, axes in enumerate(row):
            weights = np.ma.masked_where(before, attention[i, j, :, ::-1].T[:ages])
            image = axes.imshow(weights, vmin=0, vmax=most, aspect="auto")
            axes.set_facecolor("0.9")
            axes.invert_yaxis()
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_title(f"layer {i + 1}, head {j + 1}", fontsize=9)
            if cue is not None:
                mark(axes, cue, steps, ages)
        row[0].set_ylabel("steps ago")
    if cue is not None:
        panels[0][0].legend(loc="upper left", fontsize=8)
    figure.colorbar(image, ax=[axes for row in panels for axes in row], label="attention weight", extend="max")
    if openness is not None:
        panels.append([figure.add_subplot(grid[layers, :])])
        lines(panels[-1][0], openness)
    for axes in (*panels[layers - 1], *panels[-1]):
        axes.set_xlabel("step of the episode")
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def mark(axes: Axes, cue: int, steps: int, ages: int) -> None:
    """Mark the weights on step `cue`, those of the steps that can still attend to it."""
    at = np.arange(cue, min(steps, cue + ages))
    axes.plot(at, at - cue, "o", color="#D55E00", fillstyle="none", markersize=5, markeredgewidth=0.8, label="the cue")


def lines(axes: Axes, openness: np.ndarray) -> None:
    """Draw the gates' `openness` [L, 2, T] over the steps."""
    for i, layer in enumerate(openness):
        for gate, style, values in zip(("attention", "MLP"), ("-", "--"), layer, strict=True):
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(values, style, color=colour, linewidth=1.4, label=f"layer {i + 1}, after {gate}")
    axes.set_xlim(-0.5, openness.shape[2] - 0.5)
    axes.set_ylim(0, 1)
    axes.set_ylabel("gate's openness")
    axes.legend(loc="upper center", ncols=len(openness), fontsize=8)
