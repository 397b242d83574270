"""The report as one HTML file: everything is inside, and every link leads somewhere."""

import base64
from html.parser import HTMLParser

from results import ROOT
from results.html import one_page


class Reader(HTMLParser):
    """Collects identifiers, the targets of links, the sources of pictures, and the cells of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {"id": [], "href": [], "src": [], "link": [], "td": []}
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        for name, value in attrs:
            if name in self.found:
                self.found[name].append(value)
        if tag in ("link", "script"):
            self.found["link"].append(tag)

    def handle_data(self, data):
        if self.inside == "td":
            self.found["td"].append(data)


def test_the_committed_pages_are_one_file_whose_links_all_lead_inside():
    texts = {path: path.read_text() for path in (ROOT / "docs/results").glob("*.md")}
    found = Reader(one_page(texts)).found
    assert {path.stem for path in texts} < set(found["id"]) and len(set(found["id"])) == len(found["id"])
    inside = [target for target in found["href"] if "://" not in target]
    assert len(inside) > 2 * len(texts) and all(target[0] == "#" and target[1:] in found["id"] for target in inside)
    assert found["src"] and not found["link"] and all(source.startswith("data:image/") for source in found["src"])


def test_a_page_keeps_its_tables_pictures_and_links(tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/a.png").write_bytes(b"picture")
    texts = {
        tmp_path / "b.md": "# Second\n\n## Part\n\n| x |\n| --- |\n| 1.5 |\n\n![A](plots/a.png)\n[here](#part)",
        tmp_path / "index.md": "# First\n\n## Part\n\n[there](b.md#part), [page](b.md),\n[out\nside](../c.md), "
        "[web](https://example.org)",
    }
    document = one_page(texts)
    found = Reader(document).found
    assert document.index("First</h1>") < document.index("Second</h1>")
    assert found["td"][0] == "1.5"
    assert found["src"] == [f"data:image/png;base64,{base64.b64encode(b'picture').decode()}"]
    assert found["href"] == ["#index", "#b", "#b--part", "#b", "https://example.org", "#b--part"]
    assert "out\nside" in document and "c.md" not in document
