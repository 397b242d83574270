"""Rebuilds every table and plot from the committed data: `python -m results.report`.

A file results/pages/NAME.md has a page's text, with a line `<!-- results:X -->` where an experiment or comparison X
belongs; docs/results/NAME.md is that page with its tables. Plots go to docs/results/plots/. In the top README.md the
text between `<!-- results:X -->` and `<!-- /results:X -->` is replaced.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from results import ROOT, plots, tables
from results.experiment import Experiment, all_experiments
from results.peers import table as peers
from results.speed import cost_model
from results.speed import tables as throughput
from results.store import read_curves, read_figures, read_summaries
from results.trl import table as trl
from runners.errors import Parser, RunError, main_guard, usage_errors
from runners.files import write_atomically

MEASURED = {
    "throughput": throughput.overview,
    "scaling": cost_model.overview,
    "peers": peers.overview,
    "trl": trl.overview,
}
"""Functions that make the section of a comparison from the JSON files in results/data/<name>/."""
MARKER = re.compile(r"<!-- results:(\S+) -->")
BLOCK = re.compile(r"<!-- results:(\S+) -->.*?<!-- /results:\1 -->", re.DOTALL)


def experiment_section(experiment: Experiment, root: Path, folder: str) -> str:
    """Return an experiment's question, table, plots and comparison; `folder` is that of plots, seen from the page."""
    rows = read_summaries(experiment, root / "results/data")
    if not rows:
        return f"{experiment.question} Not run."
    curves = read_curves(experiment, root / "results/data")
    parts = [
        experiment.question,
        tables.results_table(experiment, rows),
        f"![{experiment.title}, learning curves]({folder}/{experiment.name}.png)" if curves else "",
        f"![{experiment.title}, traces]({folder}/{experiment.name}_traces.png)" if curves and experiment.traces else "",
        tables.comparison_table(experiment, rows),
        tables.provenance(experiment, rows),
    ]
    return "\n\n".join(part for part in parts if part)


def page_section(experiment: Experiment, root: Path) -> str:
    """Return an experiment's section of a page: with a heading and its command or, where it was not run, one line."""
    if not read_summaries(experiment, root / "results/data"):
        return tables.not_run(experiment)
    section = experiment_section(experiment, root, "plots")
    command = f"`python -m results.run {experiment.name}`; a run is, for example, `{experiment.runs[0].line}`."
    return f"## {experiment.title}\n\n{section}\n\n{command}"


def measured_section(name: str, root: Path) -> str:
    return MEASURED[name](root / "results/data") or f"Nothing measured yet by results.{name}."


def pages(experiments: Sequence[Experiment], root: Path) -> dict[Path, str]:
    """Return every generated page and its text; RunError for a wrong marker, or an experiment without one."""
    known = {experiment.name: experiment for experiment in experiments}
    texts = {path.name: path.read_text() for path in sorted((root / "results/pages").glob("*.md"))}
    page_of = {name: page for page, text in texts.items() for name in MARKER.findall(text)}
    if lost := [name for name in known if name not in page_of]:
        raise RunError(f"no page shows {', '.join(lost)}: add <!-- results:{lost[0]} --> to one of results/pages/")

    def content(name: str, of_experiment: Callable[[Experiment], str]) -> str:
        if name == "overview":
            shown = ((x, read_summaries(x, root / "results/data"), page_of[x.name]) for x in experiments)
            return tables.overview_table(shown)
        if name not in known and name not in MEASURED:
            raise RunError(f"a marker has {name!r}, which is no experiment; there are: {', '.join(known)}")
        return measured_section(name, root) if name in MEASURED else of_experiment(known[name])

    found = {
        root / "docs/results" / page: MARKER.sub(lambda m: content(m[1], lambda x: page_section(x, root)), text)
        for page, text in texts.items()
    }
    if (readme := root / "README.md").exists():
        plots_folder = "docs/results/plots"
        found[readme] = filled(
            readme.read_text(), lambda name: content(name, lambda x: experiment_section(x, root, plots_folder))
        )
    return found


def filled(text: str, content: Callable[[str], str]) -> str:
    """Return `text` with `content(name)` between each pair of markers; RunError where the second is missing."""
    if unclosed := MARKER.search(BLOCK.sub("", text)):
        raise RunError(f"README.md opens {unclosed[0]} and never closes it; add <!-- /results:{unclosed[1]} -->")
    return BLOCK.sub(lambda m: f"<!-- results:{m[1]} -->\n{content(m[1])}\n<!-- /results:{m[1]} -->", text)


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
    description = "Rebuild docs/results/ and the results in README.md."
    parser = Parser(prog="python -m results.report", description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a table is stale")
    check = parser.parse_args(argv).check
    with usage_errors():
        experiments = list(all_experiments().values())
    paths = stale(experiments, ROOT) if check else report(experiments, ROOT)
    for path in paths:
        print(f"{'stale' if check else 'wrote'} {path.relative_to(ROOT)}")
    if check and paths:
        raise RunError("the tables do not match the committed data; run `python -m results.report`")
    if not paths:
        print("all up to date")
    return 0


if __name__ == "__main__":
    main_guard(main)
