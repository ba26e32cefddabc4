"""The page in a real browser: silent console, no network, no sideways scrolling, nothing hacked."""

import pytest
from tests.show.browser import Browser, find
from tests.show.pages import full_report

from lossproof.checks.report import Finding, Location, Report, Severity
from lossproof.show.html import render

PROGRAM = find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
SCRIPT = "<script>hacked = 1</script><img src=x onerror='hacked = 1'></script>"
LONG = "a_name_without_a_break_" * 12
SIDEWAYS = """
    [...document.querySelectorAll("body *")].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest("pre, .scroll")
    ).map(e => e.outerHTML.slice(0, 90))
"""
OPEN_ALL = "document.querySelectorAll('details').forEach(e => e.open = true)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two reports: one with everything, one with names nobody would choose."""
    folder = tmp_path_factory.mktemp("page")
    source = folder / f"{LONG[:120]}.py"
    source.write_text(f"x = '{SCRIPT}'\ny = {LONG}({LONG})\n")
    place = Location.at(str(source), 1, 5, 2, 9, SCRIPT)
    fault = Finding(
        SCRIPT, LONG, Severity.ERROR, SCRIPT, place, LONG, {LONG: LONG}, (SCRIPT, LONG),
        f"{SCRIPT}\n{SCRIPT}\n{LONG}", ((SCRIPT, place),),
    )  # fmt: skip
    hostile = Report(
        SCRIPT, place, (LONG,), (fault,), (), 0, 0.1, (LONG,), f"check {SCRIPT} {LONG}"
    )
    path = folder / "report.html"
    path.write_text(render([full_report(place), hostile]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    assert PROGRAM is not None
    with Browser(PROGRAM) as browser:
        yield browser


@pytest.mark.parametrize("width", [360, 390, 1200])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_and_is_silent(browser, page, width, dark):
    browser.messages.clear()
    browser.requests.clear()
    browser.open(page, width, dark=dark)
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(SIDEWAYS) == []
    assert browser.messages == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]


def test_names_that_hold_markup_are_text(browser, page):
    browser.open(page, 1200)
    assert browser.evaluate("typeof hacked") == "undefined"
    assert browser.evaluate("document.querySelector('#report-2 h2').textContent") == SCRIPT
    assert browser.evaluate("document.querySelector('#report-2 .help code').textContent") == (
        f"{SCRIPT}\n{LONG}"
    )


def test_dark_and_light_differ(browser, page):
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(page, 1200)
    light = browser.evaluate(ground)
    browser.open(page, 1200, dark=True)
    assert browser.evaluate(ground) != light


def test_the_copy_button_works_only_with_script_and_says_so(browser, page):
    browser.open(page, 1200)
    shown = "[...document.querySelectorAll('.copy')].map(e => e.hidden)"
    hidden = browser.evaluate(shown)
    assert hidden and not any(hidden)
    assert '<button type="button" class="copy" hidden>' in page.read_text(encoding="utf-8")
    label = "document.querySelector('.copy').textContent"
    browser.evaluate("document.querySelector('.copy').click()")
    after = f"new Promise(done => setTimeout(() => done({label}), 100))"
    assert browser.evaluate(after) == "Copied"


def test_an_anchor_leads_to_its_report(browser, page):
    browser.open(page, 390)
    browser.evaluate("document.querySelectorAll('.index a')[1].click()")
    there = "document.querySelector('#report-2').getBoundingClientRect().top < innerHeight"
    # It scrolls smoothly: look until it is there.
    then = "clearInterval(timer); done(1)"
    look = f"const timer = setInterval(() => {{ if ({there}) {{ {then}; }} }}, 20)"
    assert browser.evaluate(f"new Promise(done => {{ {look} }})") == 1
