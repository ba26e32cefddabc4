"""What a notebook shows: a fragment that keeps to itself."""

import re

import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.show.pages import Page, full_report

import lossproof
from lossproof.checks.report import Location, Report
from lossproof.show.html import environment
from lossproof.show.source import visible


def test_everything_that_matters_is_there(tmp_path):
    path = tmp_path / "dice.py"
    path.write_text("x = 1\ny = denom\n")
    text = Page(full_report(Location.at(str(path), 2, 5, 2, 10))._repr_html_()).text
    for words in (
        "Wrong", "Dice", "1 error, 1 warning", "p: float32[8]", "LP206",
        "backward treats denom as a constant", "denom", "one note", "add the missing term",
        "Proved", "Could not be decided", "Does not apply", "Charts", "It falls.",
    ):  # fmt: skip
        assert words in text, words


def test_it_is_one_element_without_script():
    page = Page(full_report()._repr_html_())
    assert page.elements[0] == ("div", {"class": "lossproof-report"})
    assert not page.tags("script", "html", "head", "body", "link", "meta")
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_its_style_touches_nothing_else():
    sheet = environment().loader_source("notebook.css")
    selectors = [
        part.strip() for rule in re.findall(r"([^{}]+)\{", sheet) for part in rule.split(",")
    ]
    assert selectors and all(selector.startswith(".lossproof-report") for selector in selectors)
    assert "@" not in sheet and "url(" not in sheet


def test_every_variable_it_uses_is_its_own():
    fragment = full_report()._repr_html_()
    used = set(re.findall(r"var\(--([\w-]+)\)", fragment))
    assert used <= set(re.findall(r"--([\w-]+):", fragment))


def test_two_reports_in_one_notebook_keep_apart():
    one = full_report()
    other = one.replace(charts=one.charts[:1])
    ids = [set(Page(report._repr_html_()).values("id")) for report in (one, other)]
    assert ids[0] and ids[1] and not ids[0] & ids[1]


@given(st.text(min_size=1).filter(str.strip))
def test_any_name_is_shown_unchanged(name):
    report = Report(name, None, (name,), (), (), 0, 0.1)
    page = Page(report._repr_html_())
    assert page.text.count(visible(name)) >= 2
    assert not page.tags("script", "img")


def test_a_comparison_says_what_its_text_says():
    def halved(p, t):
        return (p - t).pow(2).mean() / 2

    compared = lossproof.compare(halved, torch.nn.functional.mse_loss, "float[4]", "float[4]")
    page = Page(compared._repr_html_())
    text = " ".join(page.text.split())
    assert f"not the same: {compared.relation}" in text
    for words in ("halved", "mse_loss", "ordinary points", "gradient for p", "differences"):
        assert words in str(compared) and words in text
    assert not page.tags("script")
