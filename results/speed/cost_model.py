"""Cost of a gradient step of N ranks on paper, and its table beside what runs took.

Beside the work t of one rank, acting and training, it takes
    c(N) = 2 (N - 1) / N * 4 P / B  +  m L(N)
P parameters summed as float32 around a ring whose links carry B bytes a second (each rank sends and receives all but
its own part twice), and m small messages, the sums and gathers of the statistics, which cost their latency L. Nothing
of it overlaps with work, so the efficiency is t / (t + c(N)). Of this machine t, B and L are measured; for more ranks
they are assumptions that the table states.
"""

from pathlib import Path

from results.store import Figures, read_figures, shown_command
from results.tables import markdown

BATCH_MESSAGES, STEP_MESSAGES, STEPS = 11, 5, 8
"""Messages a batch, messages a gradient step besides the gradients, and gradient steps a batch, by V-MPO's preset for
Atari. Messages are all-reduces and gathers; a test counts them."""
SMALL_MESSAGES = STEP_MESSAGES + BATCH_MESSAGES / STEPS
ELSEWHERE = {
    "8 GPUs, NVLink": (8, 300e9, 20e-6),
    "64 GPUs, 400 Gbit/s a machine of 8": (64, 50e9, 60e-6),
}
"""Ranks, bytes a second of the slowest link of the ring, seconds of a small message. Assumed, not measured."""
WORK = (0.005, 0.02, 0.1)
"""Seconds of a rank's own work a gradient step, for the ranks of ELSEWHERE."""


def communication(ranks: int, parameters: int, bandwidth: float, latency: float) -> float:
    """Return c(N), in seconds."""
    if ranks == 1:
        return 0.0
    return 2 * (ranks - 1) / ranks * 4 * parameters / bandwidth + SMALL_MESSAGES * latency


def link(seconds: dict[str, float], ranks: int) -> tuple[float, float]:
    """Return B and L from seconds of all-reduces by bytes: the smallest message gives L, the largest B."""
    small, *_, large = sorted((int(size), value) for size, value in seconds.items())
    bandwidth = 2 * (ranks - 1) / ranks * large[0] / max(large[1] - small[1], 1e-9)
    return bandwidth, small[1]


def predicted(figures: Figures, ranks: int) -> float:
    """Return agent steps a second of all ranks, from the run of one; ranks beyond the cores take turns."""
    step = figures["steps_a_gradient_step"]
    work = step / figures["measured"]["1"] * max(1, ranks / figures["machine"]["cores"])
    bandwidth, latency = link(figures["links"][str(ranks)], ranks) if ranks > 1 else (1.0, 0.0)
    return ranks * step / (work + communication(ranks, figures["parameters"], bandwidth, latency))


def overview(data: Path) -> str:
    """Return a table a file of results/data/scaling/."""
    return "\n\n".join(table(read_figures(path)) for path in sorted((data / "scaling").glob("*.json")))


def table(figures: Figures) -> str:
    """Return what was measured here beside what the model predicts, then efficiencies on paper."""
    one, cores, parameters = figures["measured"]["1"], figures["machine"]["cores"], figures["parameters"]
    rows = []
    for ranks in figures["measured"]:
        rate, ideal = figures["measured"][ranks], one * min(int(ranks), cores)
        model = predicted(figures, int(ranks))
        rows.append([ranks, f"{rate:,.0f}", f"{model:,.0f}", f"{rate / ideal:.0%}", f"{model / ideal:.0%}"])
    here = markdown(["Ranks", "Steps/s", "Cost model", "Efficiency", "Cost model"], rows)
    rows = [
        [name, f"{bandwidth / 1e9:.0f} GB/s", f"{1e6 * latency:.0f} us"]
        + [f"{t / (t + communication(ranks, parameters, bandwidth, latency)):.0%}" for t in WORK]
        for name, (ranks, bandwidth, latency) in ELSEWHERE.items()
    ]
    header = ["On paper", "Link", "Latency", *(f"Efficiency, {1e3 * t:.0f} ms a gradient step" for t in WORK)]
    about = (
        f"`{shown_command(figures, 'results.speed.scaling')}`: {parameters:,} parameters, "
        f"{4 * parameters / 1e6:.1f} MB a gradient step; "
        f"{figures['machine']['processor']}, {cores} cores. Efficiency is of the rate of one rank, once a core."
    )
    return "\n\n".join([here, about, markdown(header, rows)])
