"""Rebuilds every table and plot from the committed data: `python -m results.report`.

A file results/pages/NAME.md has a page's text, with a line `<!-- results:X -->` where an experiment or comparison X
belongs; docs/results/NAME.md is that page with its tables. Plots go to docs/results/plots/.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from results import ROOT, plots, tables
from results.experiment import Experiment, all_experiments
from results.faults import table as faults
from results.peers import table as peers
from results.speed import cost_model
from results.speed import tables as throughput
from results.store import read_curves, read_figures, read_summaries
from results.trl import table as trl
from runners.errors import Parser, RunError, main_guard, usage_errors
from runners.records.files import write_atomically

MEASURED = {
    "throughput": throughput.overview,
    "scaling": cost_model.overview,
    "peers": peers.overview,
    "trl": trl.overview,
    "faults": faults.overview,
}
"""Functions that make the section of a comparison from the JSON files in results/data/<name>/."""
MARKER = re.compile(r"<!-- results:(\S+) -->")


def section(experiment: Experiment, data: Path) -> str:
    """Return an experiment's question, table, plots, comparison and command, or one line where it was not run."""
    rows, curves = read_summaries(experiment, data), read_curves(experiment, data)
    if not rows:
        return tables.not_run(experiment)
    parts = [
        f"## {experiment.title}",
        experiment.question,
        tables.results_table(experiment, rows),
        f"![{experiment.title}, learning curves](plots/{experiment.name}.png)" if curves else "",
        f"![{experiment.title}, traces](plots/{experiment.name}_traces.png)" if curves and experiment.traces else "",
        tables.comparison_table(experiment, rows),
        tables.provenance(experiment, rows),
        f"`python -m results.run {experiment.name}`; a run is, for example, `{experiment.runs[0].line}`.",
    ]
    return "\n\n".join(part for part in parts if part)


def pages(experiments: Sequence[Experiment], root: Path) -> dict[Path, str]:
    """Return every generated page and its text; RunError for a wrong marker, or an experiment without one."""
    known = {experiment.name: experiment for experiment in experiments}
    texts = {path.name: path.read_text() for path in sorted((root / "results/pages").glob("*.md"))}
    page_of = {name: page for page, text in texts.items() for name in MARKER.findall(text)}
    if lost := [name for name in known if name not in page_of]:
        raise RunError(f"no page shows {', '.join(lost)}: add <!-- results:{lost[0]} --> to one of results/pages/")
    data = root / "results/data"

    def content(marker: re.Match) -> str:
        name = marker[1]
        if name == "overview":
            return tables.overview_table((x, read_summaries(x, data), page_of[x.name]) for x in experiments)
        if name in MEASURED:
            return MEASURED[name](data) or f"Nothing measured yet by results.{name}."
        if name not in known:
            raise RunError(f"a marker has {name!r}, which is no experiment; there are: {', '.join(known)}")
        return section(known[name], data)

    return {root / "docs/results" / page: MARKER.sub(content, text) for page, text in texts.items()}


def drawings(experiments: Sequence[Experiment], root: Path) -> dict[Path, Callable[[], bytes]]:
    """Return every plot, and the function that draws it."""
    folder = root / "docs/results/plots"
    found: dict[Path, Callable[[], bytes]] = {}
    for experiment in experiments:
        if curves := read_curves(experiment, root / "results/data"):
            found[folder / f"{experiment.name}.png"] = lambda x=experiment, c=curves: plots.learning_curves(x, c)
            if experiment.traces:
                found[folder / f"{experiment.name}_traces.png"] = lambda x=experiment, c=curves: plots.traces(x, c)
    if (kept := root / "results/data/peers/pong.json").exists():
        found[folder / "peers_pong.png"] = lambda: plots.race(read_figures(kept))
    return found


def stale(experiments: Sequence[Experiment], root: Path) -> list[Path]:
    """Return the pages that do not hold what the data say, and the plots that are missing."""
    wrong = [p for p, text in pages(experiments, root).items() if not p.exists() or p.read_text() != text]
    return wrong + [path for path in drawings(experiments, root) if not path.exists()]


def report(experiments: Sequence[Experiment], root: Path) -> list[Path]:
    """Write every page and plot whose content changes, and return their paths."""
    contents = {path: text.encode() for path, text in pages(experiments, root).items()}
    contents |= {path: draw() for path, draw in drawings(experiments, root).items()}
    changed = [path for path, content in contents.items() if not path.exists() or path.read_bytes() != content]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, contents[path])
    return changed


def main(argv: list[str]) -> int:
    description = "Rebuild the pages and plots of docs/results/."
    parser = Parser(prog="python -m results.report", description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page is stale")
    check = parser.parse_args(argv).check
    with usage_errors():
        experiments = list(all_experiments().values())
    paths = stale(experiments, ROOT) if check else report(experiments, ROOT)
    for path in paths:
        print(f"{'stale' if check else 'wrote'} {path.relative_to(ROOT)}")
    if check and paths:
        raise RunError("the pages do not match the committed data; run `python -m results.report`")
    if not paths:
        print("all up to date")
    return 0


if __name__ == "__main__":
    main_guard(main)
