"""The page of the whole demo, as a parser reads it and in a real browser."""

import re

import pytest
from tests.demo.conftest import TITLES
from tests.show.browser import Browser, find
from tests.show.pages import Page

from lossproof.checks.chart import LineChart, Series
from lossproof.demo.page import render
from lossproof.demo.story import Claim, Part, Pictures, Said, Story, table
from lossproof.show import plots

PROGRAM = find()
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
HOSTILE = "<script>hacked = 1</script><img src=x onerror='hacked = 1'>"
SIDEWAYS = """
    [...document.querySelectorAll("body *")].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest("pre, .scroll")
    ).map(e => e.outerHTML.slice(0, 90))
"""
PICTURES = """
    [...document.querySelectorAll("section.story")].map(story =>
        [...story.querySelectorAll("svg.chart")].map(e => {
            const box = e.getBoundingClientRect();
            const drawn = [...e.querySelectorAll("path")].filter(path => path.getBBox().width > 0);
            return Math.min(box.width, box.height, drawn.length);
        }))
"""
BEFORE_LONG = """
    new Promise(done => {
        let left = 250;
        const timer = setInterval(() => {
            if (%s || !left--) { clearInterval(timer); done(left >= 0); }
        }, 20);
    })
"""


@pytest.fixture(scope="module")
def text(whole):
    return whole.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser():
    assert PROGRAM is not None
    with Browser(PROGRAM) as browser:
        yield browser


# ------------------------------------------------------------------ as a parser reads it


def test_every_story_is_on_the_page(text):
    page = Page(text)
    assert [f"story-{n}" in page.values("id") for n in range(1, 6)] == [True] * 5
    for title in TITLES:
        assert title in page.text
    for words in (
        "LP204", "LP202", "LP203", "LP501", "wrong-backward", "one mean repeated",
        "same in value and gradient at ordinary points", "Error of the solution",
    ):  # fmt: skip
        assert words in page.text, words


def test_every_link_leads_somewhere_on_the_page(text):
    page = Page(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = [link for link in page.values("href") if link != "data:,"]
    assert len([link for link in links if link.startswith("#story-")]) >= 5
    assert all(link == "#top" or link.removeprefix("#") in ids for link in links)


def test_it_asks_for_nothing_from_elsewhere(text):
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)


def test_what_a_program_says_is_text():
    part = Part(HOSTILE, (HOSTILE, Said(HOSTILE, HOSTILE), table((HOSTILE,), (HOSTILE,))))
    story = Story(1, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (part,), 1.0)
    page = Page(render([story]))
    assert len(page.tags("script")) == 1 and page.tags("img") == []
    assert page.text.count(HOSTILE) >= 8


def test_a_claim_that_does_not_hold_is_seen():
    story = Story(1, "", "t", "", "", (Part("", (), (Claim("it is so", False),)),), 1.0)
    page = Page(render([story]))
    assert "0 of 1" in page.text and "Fails: it is so" in " ".join(page.text.split())
    assert "wrong" in page.values("class")


def test_without_matplotlib_there_are_numbers_and_a_word_on_it(monkeypatch):
    monkeypatch.setattr(plots, "can_draw", lambda: False)
    chart = LineChart("Curve", "x", "y", (Series("y", (0.0, 1.0), (2.5, 3.5)),), "It rises.")
    part = Part("", (Pictures((chart,)), Pictures((chart,), small=True)))
    text = render([Story(1, "", "t", "", "", (part,), 1.0)])
    assert '<svg class="chart"' not in text and 'role="img"' not in text
    assert 'pip install "lossproof[plots]"' in Page(text).text.replace("&#34;", '"')
    assert "2.5" in Page(text).text and "It rises." in Page(text).text


# ------------------------------------------------------------------ in a browser


@needs_browser
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_and_is_silent(browser, whole, width, dark):
    browser.messages.clear()
    browser.requests.clear()
    browser.open(whole.page, width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(SIDEWAYS) == []
    assert browser.messages == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [whole.page.as_uri()]


@needs_browser
def test_every_picture_is_drawn(browser, whole):
    pytest.importorskip("matplotlib")
    for width in (390, 1440):
        browser.open(whole.page, width)
        sizes = browser.evaluate(PICTURES)
        assert [len(story) for story in sizes] == [1, 12, 1, 1, 4]
        assert all(size >= 4 for story in sizes for size in story), (width, sizes)


@needs_browser
def test_words_and_lines_can_be_told_from_the_ground(browser, whole):
    seen = set()
    for dark in (False, True):
        browser.open(whole.page, 1440, dark=dark)
        ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = browser.evaluate("getComputedStyle(document.querySelector('.told')).color")
        line = browser.evaluate(
            "getComputedStyle(document.querySelector('svg.chart path[style*=chart-1]')).stroke"
        )
        for one in (ink, line):
            assert contrast(one, ground) > 4.5
        seen.add(ground)
    assert len(seen) == 2


def contrast(one, other):
    """The ratio of luminances, as WCAG 2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@needs_browser
def test_the_index_leads_to_each_story_and_back(browser, whole):
    browser.open(whole.page, 390)
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    browser.send("Emulation.setEmulatedMedia", features=[still])
    for number in range(1, 6):
        browser.evaluate(f"document.querySelector('.index a[href=\"#story-{number}\"]').click()")
        top = f"document.querySelector('#story-{number}').getBoundingClientRect().top"
        there = f"Math.abs({top}) < 9"
        assert browser.evaluate(BEFORE_LONG % there)
    browser.evaluate("document.querySelector('.back a').click()")
    assert browser.evaluate(BEFORE_LONG % "scrollY < 1")


@needs_browser
def test_what_a_program_says_runs_nothing(browser, tmp_path):
    part = Part(HOSTILE, (HOSTILE, Said(HOSTILE, HOSTILE)), (Claim(HOSTILE, True),))
    path = tmp_path / "page.html"
    story = Story(1, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (part,), 1.0)
    path.write_text(render([story]), encoding="utf-8")
    browser.messages.clear()
    browser.open(path, 390)
    assert browser.evaluate("typeof hacked") == "undefined"
    assert browser.messages == []
