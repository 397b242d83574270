"""Rebuild every table and plot from the committed data: `python -m results.report`.

A file results/pages/NAME.md is the text of a page, with Jinja's {{ placeholders }} for tables and figures;
docs/results/NAME.md is that page filled in. Plots go to docs/results/plots/. With `--html FILE` all pages and plots are
also one HTML file.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from results import ROOT, plots, tables
from results.experiment import Experiment, all_experiments
from results.faults import table as faults
from results.html import one_page
from results.peers import tables as peers
from results.speed import tables as speed
from results.store import Figures, read_curves, read_figures, read_summaries
from results.trl import table as trl
from runners.errors import Parser, RunError, main_guard, usage_errors
from runners.records.files import write_atomically

SHOWN = re.compile(r'{{ experiment\("(\w+)"\) }}')


def pages(experiments: Sequence[Experiment], root: Path) -> dict[Path, str]:
    """Return every generated page and its text; RunError for a wrong name in one, or an experiment that none shows."""
    folder, data = root / "results/pages", root / "results/data"
    known = {experiment.name: experiment for experiment in experiments}
    texts = {path.name: path.read_text() for path in sorted(folder.glob("*.md"))}
    page_of = {name: page for page, text in texts.items() for name in SHOWN.findall(text)}
    if lost := [name for name in known if name not in page_of]:
        raise RunError(
            f'no page shows {", ".join(lost)}: add {{{{ experiment("{lost[0]}") }}}} to one of results/pages/'
        )
    if wrong := [name for name in page_of if name not in known]:
        raise RunError(f"{page_of[wrong[0]]} shows {wrong[0]!r}, which is no experiment; there are: {', '.join(known)}")
    parts = FileSystemLoader(Path(__file__).parent / "pages")
    jinja = Environment(loader=parts, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)

    def section(name: str) -> str:
        x, published = known[name], pd.read_csv(data / "published.csv")
        about = {"x": x, "rows": read_summaries(x, data), "curves": not read_curves(x, data).empty}
        about["published"] = published[published.env.isin([run.env for run in x.runs])]
        return jinja.get_template("experiment.jinja").render(about).strip()

    def overview() -> list[tuple[Experiment, pd.DataFrame, str]]:
        """Return every experiment with its rows and its page."""
        return [(x, read_summaries(x, data), page_of[x.name]) for x in experiments]

    def kept(*names: str) -> list[Figures]:
        """Return the figures in the files of results/data/ that have one of these names or patterns."""
        paths = [path for name in names for path in sorted(data.glob(name))]
        return [read_figures(path) | {"name": path.stem} for path in paths]

    jinja.globals.update(experiment=section, overview=overview, kept=kept)
    jinja.globals.update(tables=tables, faults=faults, peers=peers, speed=speed, trl=trl)
    return {root / "docs/results" / page: jinja.from_string(text).render() for page, text in texts.items()}


def drawings(experiments: Sequence[Experiment], root: Path) -> dict[Path, Callable[[], bytes]]:
    """Return every plot, and the function that draws it."""
    found, data = {}, root / "results/data"
    for experiment in experiments:
        curves = read_curves(experiment, data)
        if not curves.empty:
            found[experiment.name] = partial(plots.learning_curves, experiment, curves)
            if experiment.traces:
                found[f"{experiment.name}_traces"] = partial(plots.traces, experiment, curves)
    if (kept := data / "peers/pong.json").exists():
        found["peers_pong"] = partial(plots.race, read_figures(kept))
    return {root / f"docs/results/plots/{name}.png": draw for name, draw in found.items()}


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
    parser = Parser(prog="python -m results.report", description="Rebuild the pages and plots of docs/results/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page is stale")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write all pages and plots as one HTML file")
    options = parser.parse_args(argv)
    check = options.check
    with usage_errors():
        experiments = list(all_experiments().values())
    paths = stale(experiments, ROOT) if check else report(experiments, ROOT)
    for path in paths:
        print(f"{'stale' if check else 'wrote'} {path.relative_to(ROOT)}")
    if check and paths:
        raise RunError("the pages do not match the committed data; run `python -m results.report`")
    if not paths:
        print("all up to date")
    if options.html:
        texts = {path: path.read_text() for path in pages(experiments, ROOT)}
        write_atomically(options.html, one_page(texts).encode())
        print(f"wrote {options.html}")
    return 0


if __name__ == "__main__":
    main_guard(main)
