"""The site in a real browser: silent, self-contained, fit for a phone, searched offline."""

import base64
import io
import time

import pytest
from tests.show.browser import Browser, find

pytest.importorskip("matplotlib")

from matplotlib.image import imread

PROGRAM = find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
KINDS = [
    "index.html", "stories/linear_regression.html", "how_to/ignore_padding.html",
    "rules/LP203.html", "rules/index.html", "losses/focal_loss.html", "gallery.html",
    "terms/index.html", "terms/UPGrad.html", "speed/chunk.html", "api/check.html", "commands.html",
    "architecture.html", "benchmarks/index.html", "benchmarks/terms.html",
]  # fmt: skip
"""A page of each kind."""
SEARCH = """
    document.getElementById("__search").click();
    const field = document.querySelector("[data-md-component=search-query]");
    field.value = "%s";
    field.dispatchEvent(new KeyboardEvent("keyup", { bubbles: true }));
"""
FOUND = "[...document.querySelectorAll('.md-search-result__link')].map(link => link.href).join(' ')"
SHOWN = "[...document.querySelectorAll('.gallery li:not([hidden])')].map(card => card.innerText)"
FILTER = """
    const words = document.querySelector(".gallery-tools input");
    words.value = "%s";
    words.dispatchEvent(new Event("input"));
"""
PLACE = """
    (({ x, y, width, height }) => ({ x, y, width, height }))(
        document.querySelector("article img").getBoundingClientRect()
    )
"""


@pytest.fixture(scope="module")
def browser():
    assert PROGRAM is not None
    with Browser(PROGRAM) as browser:
        yield browser


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("page", KINDS)
def test_a_page_fits_and_is_silent(browser, site, page, width):
    browser.messages.clear()
    browser.requests.clear()
    browser.open(site / page, width, dark=width == 390)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('h1').length") == 1
    assert browser.messages == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def test_the_search_finds_a_loss_without_a_server(browser, site):
    browser.open(site / "index.html", 1440)
    browser.evaluate(SEARCH % "charbonnier")
    until = time.monotonic() + 60
    while not (found := browser.evaluate(FOUND)) and time.monotonic() < until:
        time.sleep(0.1)
    assert "/losses/charbonnier_loss.html" in found


def test_the_gallery_is_filtered(browser, site):
    browser.open(site / "gallery.html", 1440)
    everything = browser.evaluate(SHOWN)
    browser.evaluate(FILTER % "Focal Tversky")
    assert [text.strip().splitlines()[0] for text in browser.evaluate(SHOWN)] == [
        "focal_tversky_loss"
    ]
    browser.evaluate("{" + FILTER % "" + "}")
    assert browser.evaluate(SHOWN) == everything


def brightness(browser):
    """How dark the darkest point of the first picture is, how light the lightest, and the mean."""
    place = browser.evaluate(PLACE)
    shot = browser.send("Page.captureScreenshot", format="png", clip={**place, "scale": 1})
    pixels = imread(io.BytesIO(base64.b64decode(shot["data"])))[..., :3].mean(2)
    return pixels.min(), pixels.max(), pixels.mean()


@pytest.mark.parametrize("dark", [False, True], ids=["light system", "dark system"])
def test_a_drawing_follows_the_switch_of_the_page(browser, site, dark):
    browser.open(site / "losses" / "focal_loss.html", 1440, dark=dark)
    browser.evaluate("document.body.setAttribute('data-md-color-scheme', 'default')")
    darkest, _, mean = brightness(browser)
    assert darkest < 0.3
    assert mean > 0.8
    browser.evaluate("document.body.setAttribute('data-md-color-scheme', 'slate')")
    _, lightest, mean = brightness(browser)
    assert lightest > 0.8
    assert mean < 0.3
