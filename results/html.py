"""All pages of results as one HTML page that needs no other file and no network."""

import base64
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from markdown import markdown
from markdown.extensions.toc import slugify

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; padding: 0 1.5rem }
nav { position: sticky; top: 0; background: #fff; padding: .5rem 0; border-bottom: 1px solid #ccc }
nav a { margin-right: 1rem; white-space: nowrap }
section { border-bottom: 3px solid #eee; padding: 1rem 0 2rem } [id] { scroll-margin-top: 4rem }
div.table { overflow-x: auto } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { border: 1px solid #ddd; padding: .25rem .5rem; text-align: left; vertical-align: top }
th { background: #f5f5f5 }
img { max-width: 100% } code { background: #f5f5f5; font-size: 90% }
"""
HEADING = re.compile(r"^# (.+)$", re.MULTILINE)


def one_page(texts: Mapping[Path, str]) -> str:
    """Return the pages, Markdown by their paths, as one HTML document: index.md first, pictures inside."""
    order = sorted(texts, key=lambda path: (path.stem != "index", path.stem))
    titles = {path.stem: HEADING.search(texts[path])[1] for path in order}
    links = "".join(f'<a href="#{stem}">{title}</a>' for stem, title in titles.items())
    sections = "\n".join(_section(path, texts[path], set(titles)) for path in order)
    head = f'<meta charset="utf-8"><title>GEMPI: results</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><nav>{links}</nav>{sections}</body></html>\n'


def _section(path: Path, text: str, stems: set[str]) -> str:
    # The identifiers of headings are unique within a page only.
    slug = {"slugify": lambda title, mark: f"{path.stem}--{slugify(title, mark)}"}
    html = markdown(text, extensions=["tables", "toc"], extension_configs={"toc": slug})
    html = re.sub(r'<a href="([^"]*)">(.*?)</a>', partial(_link, path.stem, stems), html, flags=re.DOTALL)
    html = re.sub(r'src="([^":]*)"', lambda found: f'src="{_data_uri(path.parent / found[1])}"', html)
    html = html.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    return f'<section id="{path.stem}">{html}</section>'


def _link(here: str, stems: set[str], found: re.Match[str]) -> str:
    """Return a link to a section of the document; only the text of one to a file that is not in it."""
    target, text = found[1], found[2]
    if "://" in target:
        return found[0]
    name, _, heading = target.partition("#")
    stem = Path(name).stem if name else here
    if stem not in stems or "/" in name:
        return text
    return f'<a href="#{stem}--{heading}">{text}</a>' if heading else f'<a href="#{stem}">{text}</a>'


def _data_uri(path: Path) -> str:
    kind = path.suffix.removeprefix(".")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
