"""The guide as a site: it is built without a complaint, and every link in it leads somewhere."""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

pytest.importorskip("material")

import lossproof
import lossproof.speed
import lossproof.terms
import lossproof.watcher
import lossproof.write
from lossproof.terms.balance.listing import balancers

DOCS = Path(__file__).parents[2] / "docs"
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
"""What a browser fetches without being asked."""
ONLY_SAID = {"canonical", "prev", "next", "alternate"}
"""Kinds of `link` that no browser fetches."""
UNTURNED = re.compile(r"```|\$`|`\$|:math:|\.\. math::|:(?:class|func|meth):`|^ *[|] ?-+[|]", re.M)
"""Marks of Markdown and of docstrings that must not be left in a text."""


class Reader(HTMLParser):
    """What there is to jump to in a page, where it leads, what it loads, and its plain words."""

    def __init__(self):
        super().__init__()
        self.anchors, self.links, self.loaded, self.words = {""}, set(), set(), []
        self.open = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag in {"pre", "code", "script", "style", "title"}:
            self.open.append(tag)
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        for key in ("src", "href"):
            if (tag, key) in LOADED and given.get(key) and given.get("rel") not in ONLY_SAID:
                self.loaded.add(given[key])

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        if not self.open:
            self.words.append(data)


@cache
def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


@pytest.fixture(scope="module")
def pages(site):
    found = {path: read(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    assert len(found) > 200
    return found


def test_the_site_is_built_without_a_complaint(build):
    assert build[1] == ""


def test_every_link_leads_somewhere(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme in {"http", "https"}:
                if not re.fullmatch(r"[\w.-]+\.\w+(:\d+)?", parts.netloc):
                    broken.append((path.name, link))
            elif parts.scheme not in {"mailto", "data"}:
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                if not target.is_file():
                    broken.append((path.name, link))
                elif target.suffix == ".html" and target in pages:
                    if unquote(parts.fragment) not in pages[target].anchors:
                        broken.append((path.name, link))
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(pages):
    outside = {link for page in pages.values() for link in page.loaded if urlsplit(link).netloc}
    assert outside == set()


def test_no_markup_is_left_in_a_text(pages):
    left = [
        (path.name, found[0])
        for path, page in pages.items()
        if (found := UNTURNED.search(" ".join(page.words)))
    ]
    assert left == []


def test_every_formula_is_drawn(site):
    text = (site / "losses" / "focal_loss.html").read_text(encoding="utf-8")
    source = (DOCS / "losses" / "focal_loss.md").read_text(encoding="utf-8")
    assert text.count("<math") == source.count("$`") + source.count("```math")
    assert '<div class="formula"><math display="block">' in text


def rooms():
    for_each = {entry.name for entry in balancers()}  # these have pages of their own
    yield from ((name, "lossproof") for name in lossproof.__all__)
    for room in (lossproof.write, lossproof.terms, lossproof.speed, lossproof.watcher):
        yield from ((name, room.__name__) for name in room.__all__ if name not in for_each)


@pytest.mark.parametrize(("name", "room"), list(rooms()), ids=lambda value: value)
def test_every_public_name_is_in_the_reference(name, room):
    shown = {
        found
        for path in (DOCS / "api").glob("*.md")
        for found in re.findall(r"^::: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {f"{room}.{name}", f"lossproof.{name}"} & shown


# --------------------------------------------------------------- GitHub and the site agree
GITHUB = MarkdownIt("commonmark").enable("table")
COUNTED = {
    "li": "list_item_open",
    "table": "table_open",
    "tr": "tr_open",
    "blockquote": "blockquote_open",
}
SAME = [path for path in sorted(DOCS.rglob("*.md")) if path.parent.name != "api"]


def on_github(text):
    tokens = GITHUB.parse(text)
    return {name: sum(token.type == kind for token in tokens) for name, kind in COUNTED.items()}


def on_the_site(html):
    main = html[html.index("<article") : html.index("</article>")]
    return {name: len(re.findall(rf"<{name}[ >]", main)) for name in COUNTED}


@pytest.mark.parametrize("path", SAME, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_a_page_has_the_same_lists_and_tables_on_github_and_on_the_site(path, site):
    name = "index.html" if path.stem == "README" else f"{path.stem}.html"
    html = (site / path.relative_to(DOCS).parent / name).read_text(encoding="utf-8")
    assert on_the_site(html) == on_github(path.read_text(encoding="utf-8"))
