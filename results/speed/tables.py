"""Tables of `results.speed.throughput`'s figures: one run's, and of all kept in results/data/throughput/."""

from pathlib import Path

from results.store import Figures, read_figures, shown_command
from results.tables import NOTHING, count, markdown


def table(figures: Figures) -> str:
    """Return the parts, each alone on one core, then the bound that follows and the pipeline."""
    cores = f"on {figures['cores']} cores"
    rows = [
        (f"{figures['env']}, random actions", "environment", "one core, as all that no GPU does"),
        ("acting", "acting", "environments that cost nothing"),
        ("acting, the core alone", "core", cached(figures)),
        ("training", "training", f"{figures['batch_ms']:.0f} ms a batch; {achieved(figures)}"),
        (f"bound {cores}", "bound", "all three in perfect balance"),
        (f"pipeline {cores}", "pipeline", f"{figures['ratio']:.0%} of the bound"),
    ]
    cells = [(part, f"{figures[name]:,.0f}", note) for part, name, note in rows if name in figures]
    rounds = len(figures["rounds"]["environment"])
    return markdown(["Part", f"Agent steps/s, median of {rounds}", "Note"], cells)


def cached(figures: Figures) -> str:
    """Return in words what the cache of keys and values gains, where there is one."""
    if "core" not in figures:
        return ""
    return f"{figures['core'] / figures['core_uncached']:.1f} times as fast as without cached keys and values"


def profile_table(part: str, stages: dict[str, float]) -> str:
    """Return where an actor or a learner spends its time, most first."""
    total = sum(stages.values())
    rows = [[name, f"{us:.1f}", f"{us / total:.0%}"] for name, us in sorted(stages.items(), key=lambda x: -x[1])]
    return markdown([part, "us a step", "share"], [*rows, ["all", f"{total:.1f}", ""]])


def achieved(figures: Figures) -> str:
    peak = max(figures["peak_gflops"].values())
    return f"{figures['training_gflops']:.0f} of {peak:.0f} GFLOP/s ({figures['training_gflops'] / peak:.0%})"


def overview(data: Path) -> str:
    """Return a row a file of results/data/throughput/, empty where there is none."""
    kept = {path.stem: read_figures(path) for path in sorted((data / "throughput").glob("*.json"))}
    if not kept:
        return ""
    header = ["Run", "Parameters", "Environment", "Acting", "Its core alone", "Without cache", "Training"]
    header += ["Training, of a matrix product's rate", "Bound", "Pipeline", "Of the bound"]
    parts = ("environment", "acting", "core", "core_uncached", "training")
    rows = [
        [name, count(x["parameters"]), *(f"{x[part]:,.0f}" if part in x else NOTHING for part in parts)]
        + [achieved(x), f"{x['bound']:,.0f}", f"{x['pipeline']:,.0f}", f"{x['ratio']:.0%}"]
        for name, x in kept.items()
    ]
    commands = [f"- {name}: `{shown_command(x, 'results.speed.throughput')}`" for name, x in kept.items()]
    note = (
        "Agent steps a second, medians of rounds in which the parts take turns; environment, acting and training alone "
        "on one core, bound and pipeline on all; the last column is the median of the rounds' ratios, with --ranks "
        "that of a run after them. "
        f"Machine: {'; '.join(sorted({machine(x) for x in kept.values()}))}."
    )
    return "\n\n".join([markdown(header, rows), note, "\n".join(commands)])


def machine(figures: Figures) -> str:
    about = figures["machine"]
    return f"{about['processor']}, {about['cores']} cores, torch {figures['versions']['torch']}"
