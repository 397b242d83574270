"""Tables of the figures of `results.speed`, kept in results/data/throughput/ and results/data/scaling/."""

from collections.abc import Sequence

from results.speed.cost_model import (
    ELSEWHERE,
    FLOPS_A_TOKEN,
    LANGUAGE_MODEL,
    TOKENS,
    WORK,
    communication,
    efficiency,
    language_model_work,
    predicted,
)
from results.store import Figures
from results.tables import NOTHING, count, markdown


def achieved(figures: Figures) -> str:
    peak = max(figures["peak_gflops"].values())
    return f"{figures['training_gflops']:.0f} of {peak:.0f} GFLOP/s ({figures['training_gflops'] / peak:.0%})"


def overview(kept: Sequence[Figures]) -> str:
    """Return a row for each of the figures of results.speed.throughput."""
    header = ["Run", "Parameters", "Environment", "Acting", "Its core alone", "Without cache", "Training"]
    header += ["Training, of a matrix product's rate", "Bound", "Pipeline", "Of the bound"]
    parts = ("environment", "acting", "core", "core_uncached", "training")
    rows = [
        [x["name"], count(x["parameters"]), *(f"{x[part]:,.0f}" if part in x else NOTHING for part in parts)]
        + [achieved(x), f"{x['bound']:,.0f}", f"{x['pipeline']:,.0f}", f"{x['ratio']:.0%}"]
        for x in kept
    ]
    return markdown(header, rows)


def measured_ranks(figures: Figures) -> str:
    """Return what results.speed.scaling measured here beside what the cost model predicts."""
    rows = []
    for ranks, rate in figures["measured"].items():
        ideal = figures["measured"]["1"] * min(int(ranks), figures["machine"]["cores"])
        model = predicted(figures, int(ranks))
        rows.append([ranks, f"{rate:,.0f}", f"{model:,.0f}", f"{rate / ideal:.0%}", f"{model / ideal:.0%}"])
    return markdown(["Ranks", "Steps/s", "Cost model", "Efficiency", "Cost model"], rows)


def ranks_on_paper(figures: Figures) -> str:
    """Return the efficiencies that the cost model gives for machines that nobody measured."""
    rows = [
        [name, f"{bandwidth / 1e9:.0f} GB/s", f"{1e6 * latency:.0f} us"]
        + [f"{efficiency(t, ranks, figures['parameters'], bandwidth, latency):.0%}" for t in WORK]
        for name, (ranks, bandwidth, latency) in ELSEWHERE.items()
    ]
    header = ["On paper", "Link", "Latency", *(f"Efficiency, {1e3 * t:.0f} ms a gradient step" for t in WORK)]
    return markdown(header, rows)


def language_model_on_paper() -> str:
    """Return the share of a gradient step's time that messages take of a language model on eight GPUs, by the model."""
    ranks, bandwidth, latency = ELSEWHERE["8 GPUs, NVLink"]
    seconds = communication(ranks, LANGUAGE_MODEL, bandwidth, latency)
    rows = []
    for tokens in TOKENS:
        work = language_model_work(LANGUAGE_MODEL, tokens)
        flops = FLOPS_A_TOKEN * LANGUAGE_MODEL * tokens
        rows.append([f"{tokens:,}", f"{flops / 1e12:.0f} TFLOP", f"{1e3 * work:.0f} ms", f"{1e3 * seconds:.0f} ms"])
        rows[-1].append(f"{1 - efficiency(work, ranks, LANGUAGE_MODEL, bandwidth, latency):.1%}")
    return markdown(["Tokens of a rank", "Work", "Its time", "Messages", "Their share"], rows)


def share_lost(figures: Figures) -> str:
    """Return the share of the time of two ranks that is not work, measured and by the cost model."""
    ideal = 2 * figures["measured"]["1"]
    return f"{1 - figures['measured']['2'] / ideal:.0%} measured, {1 - predicted(figures, 2) / ideal:.0%} by the model"
