"""Cost of a gradient step of N ranks on paper.

Beside the work t of one rank, acting and training, it takes
    c(N) = 2 (N - 1) / N * 4 P / B  +  m L(N)
P parameters summed as float32 around a ring whose links carry B bytes a second (each rank sends and receives all but
its own part twice), and m small messages, the sums and gathers of the statistics, which cost their latency L. Nothing
of it overlaps with work, so the efficiency is t / (t + c(N)). Of this machine t, B and L are measured; for more ranks
they are assumptions that the table states.
"""

from results.store import Figures

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

LANGUAGE_MODEL = 10**9
"""Parameters of the language model on paper, all of them trained."""
TOKENS = (8_192, 32_768, 131_072)
"""Tokens of a rank, of prompts and completions, in a gradient step."""
FLOPS_A_TOKEN = 6
"""Operations a parameter and token, forwards and backwards, without attention's own (arXiv 2001.08361)."""
FLOPS_A_SECOND = 0.4 * 989e12
"""An H100's rate of dense bfloat16 by its data sheet, times the share of it that training reaches. Assumed, not
measured; Llama 3's training reached 0.38 to 0.43 (arXiv 2407.21783)."""


def language_model_work(parameters: int, tokens: int) -> float:
    """Return the seconds of a GPU's work in a gradient step on `tokens`; drawing completions comes on top."""
    return FLOPS_A_TOKEN * parameters * tokens / FLOPS_A_SECOND


def communication(ranks: int, parameters: int, bandwidth: float, latency: float) -> float:
    """Return c(N), in seconds."""
    if ranks == 1:
        return 0.0
    return 2 * (ranks - 1) / ranks * 4 * parameters / bandwidth + SMALL_MESSAGES * latency


def efficiency(work: float, ranks: int, parameters: int, bandwidth: float, latency: float) -> float:
    """Return the share of its time that a rank with `work` seconds a gradient step is at work."""
    return work / (work + communication(ranks, parameters, bandwidth, latency))


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
