"""The HTML page: complete, self-contained, and the same whatever names and sources hold."""

import base64
import hashlib
import itertools
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.show.pages import Page, as_prose, full_report

import lossproof
from lossproof.checks.chart import HeatMap, LineChart, Series
from lossproof.checks.report import Finding, Location, Outcome, Report, Severity, Status
from lossproof.show import html, plots
from lossproof.show.html import render
from lossproof.show.source import visible

SOURCE = """\
class Dice(Function):
    def forward(ctx, p, t):
        num = 2 * (p * t).sum()
        denom = p.pow(2).sum() + t.pow(2).sum() + 1.0
        return 1 - num / denom

    def backward(ctx, g):
        return g * 2
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dice.py").write_text(SOURCE)
    return Location.at(str(tmp_path / "dice.py"), 4, 17, 4, 31, "Dice.forward")


def plain(*findings, **changes):
    return Report("f", None, (), findings, (), 0, 0.1).replace(**changes)


def finding(message="wrong", severity=Severity.ERROR, **parts):
    return Finding("LP202", "wrong-backward", severity, message, **parts)


# ---------------------------------------------------------------------------- what it says
def test_everything_of_a_report_is_there(place):
    text = Page(render([full_report(place)])).text
    for words in (
        "Wrong", "Dice", "dice.py:4:17", "Dice.forward", "p: float32[8]", "p is predicted", "0.3 s",
        "1 error, 1 warning", "error", "LP206", "gradient-path-missing",
        "backward treats denom as a constant", "one note", "missing-path", "relative error",
        "0.123457", "add the missing term", "    return grad", "the gradient is computed here",
        "Proved", "one element", "Could not be decided", "no double backward", "Does not apply",
        "no reference", 'lossproof check dice.py:Dice --inputs "float[8]"', "Value", "It falls.",
        "not measured. one call takes 9 s", f"lossproof {lossproof.__version__}",
    ):  # fmt: skip
        assert words in text, words


def test_the_culprit_is_underlined_between_the_lines_around_it(place):
    page = render([full_report(place)])
    marked = re.findall(r"<mark>(.*?)</mark>", page)
    assert marked == ["p.pow(2).sum()", "p.pow(2).sum()"]
    code = Page(re.search(r"<pre class=\"source\".*?</pre>", page, re.DOTALL)[0])
    assert code.text == "\n".join(SOURCE.splitlines()[1:5]) + "\n\n"[:1]
    assert code.values("data-n") == ["2", "3", "4", "5"]


def test_the_middle_of_a_long_span_is_left_out(tmp_path):
    path = tmp_path / "long.py"
    path.write_text("".join(f"line_{n}(\n" for n in range(1, 41)))
    page = Page(render([plain(finding(location=Location.at(str(path), 5, 1, 35, 9)))]))
    assert page.values("data-n") == [*map(str, range(3, 11)), "35", "36", "37"]
    assert "⋮" in page.text


def test_a_source_that_changed_is_shown_as_it_was(place):
    old = Location(place.file, 4, 1, 4, 4, source="old = code")
    page = Page(render([plain(finding(location=old))]))
    assert page.values("data-n") == ["4"] and "old = code" in page.text


@pytest.mark.parametrize(
    ("report", "word", "sentence"),
    [
        (plain(finding()), "Wrong", "1 error; 0 proved"),
        (plain(finding(severity=Severity.WARNING)), "Doubtful", "1 warning; 0 proved"),
        (plain(finding(severity=Severity.PERFORMANCE)), "Slow", "1 performance; 0 proved"),
        (plain(), "Undecided", "nothing was proved"),
        (plain(not_checked="it needs CUDA"), "Not checked", "it needs CUDA"),
        (
            plain(outcomes=(Outcome("LP101", "non-scalar", Status.PROVED),)),
            "Nothing found",
            "1 proved, 0 could not be decided, 0 not applicable",
        ),
    ],
)
def test_the_verdict_in_words(report, word, sentence):
    said = html.verdict(report)
    assert said.word == word and sentence in said.sentence
    assert word in Page(render([report])).text


def test_what_a_comment_silences_is_told():
    page = Page(render([plain(suppressed=(finding("`x` is quiet"),))]))
    assert "Silenced by a comment" in page.text and "x is quiet" in page.text


def test_several_reports_have_an_index(place):
    reports = [full_report(place), plain(subject="ok"), full_report(place, subject="third")]
    page = Page(render(reports))
    assert page.text.count("3 losses") == 2  # the title and the heading
    assert "2 wrong, 1 undecided" in page.text
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    assert links == ["#report-1", "#report-2", "#report-3"]
    assert set(links) <= {f"#{name}" for name in page.values("id")}


def test_no_report_is_a_page_that_says_so():
    page = Page(render([]))
    assert "0 losses" in page.text and "no loss was found" in page.text
    assert not page.tags("nav", "article")


# ---------------------------------------------------------------------------- how it is made
@pytest.fixture(scope="module", params=[1, 2], ids=["one report", "two reports"])
def page(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "dice.py"
    path.write_text(SOURCE)
    return render([full_report(Location.at(str(path), 4, 17, 4, 31))] * request.param)


def test_nothing_is_loaded_from_anywhere(page):
    parsed = Page(page)
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert not parsed.tags("iframe", "object", "embed", "form", "base")
    assert all(value.startswith(("#", "data:")) for value in parsed.values("href"))
    assert not parsed.values("src")


def test_the_page_allows_its_own_script_alone(page):
    parsed = Page(page)
    (script,) = parsed.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [value for value in parsed.values("content") if "default-src" in value]
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    assert not [name for _, attrs in parsed.elements for name in attrs if name.startswith("on")]


def test_ids_are_unique_and_references_lead_somewhere(page):
    parsed = Page(page)
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    references = [value[1:] for value in parsed.values("href") if value.startswith("#")]
    references += re.findall(r"url\(#([^)]+)\)", page) + parsed.values("aria-labelledby")
    assert references and set(references) <= set(ids)


def test_headings_go_down_one_level_at_a_time(page):
    levels = [int(tag[1]) for tag in Page(page).tags("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_what_scrolls_can_be_reached_by_keyboard_and_has_a_name(page):
    regions = [attrs for _, attrs in Page(page).elements if attrs.get("role") == "region"]
    assert regions
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in regions)
    charts = [attrs for tag, attrs in Page(page).elements if attrs.get("role") == "img"]
    assert charts and all(attrs["aria-label"] for attrs in charts)


def test_the_same_report_gives_the_same_page(place):
    assert render([full_report(place)]) == render([full_report(place)])


def test_the_numbers_of_every_chart_are_a_table():
    line = LineChart(
        "t", "x", "y", (Series("a", (0.0, 1.0), (1.0, None)), Series("b", (0.5,), (2.0,)))
    )
    assert html.table(line) == html.Table(
        ("x", "a", "b"), (("0", "1", ""), ("0.5", "", "2"), ("1", "not finite", ""))
    )
    heat = HeatMap("t", "i", "j", "v", ((0.0, None),))
    assert html.table(heat) == html.Table(("i \\ j", "0", "1"), (("0", "0", "not finite"),))


def test_without_matplotlib_the_numbers_are_shown_and_how_to_draw_them(monkeypatch):
    monkeypatch.setattr(plots, "can_draw", lambda: False)
    page = Page(render([full_report()]))
    assert 'pip install "lossproof[plots]"' in page.text
    assert "not finite" in page.text
    assert not [attrs for _, attrs in page.elements if attrs.get("role") == "img"]
    unmeasured = full_report(charts=full_report().charts[-1:])
    assert "pip install" not in Page(render([unmeasured])).text


STYLE = html.environment().loader_source("report.css")


def colours(text):
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", text))


def luminance(colour):
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_every_word_can_be_read(dark):
    light, night = STYLE.split("@media (prefers-color-scheme: dark)")
    named = colours(night.split("\n* {")[0]) if dark else colours(light)
    kinds = ("wrong", "doubtful", "slow", "right", "open")
    pairs = [(ink, ground) for ink in ("ink", "soft") for ground in ("page", "card", "well")]
    pairs += [(kind, f"{kind}-tint") for kind in kinds] + [(kind, "card") for kind in kinds]
    pairs += [("ink", f"{kind}-tint") for kind in kinds] + [("accent", "card")]
    faint = {p: contrast(named[p[0]], named[p[1]]) for p in pairs}
    assert min(faint.values()) >= 4.5, min(faint, key=faint.get)
    marks = [contrast(named[f"chart-{i}"], named["card"]) for i in range(1, 7)]
    assert min(marks) >= 3  # graphics


# ---------------------------------------------------------------------------- what is hostile
HOSTILE = (
    "</script><script>hacked()</script>", "<img src=x onerror=hacked()>", "</style><b>", "<!--",
    "'\"><svg onload=hacked()>", "{{ 7 * 7 }}{% raw %}", "&lt;b&gt; &amp; &#60;", "]]>",
    "\u202efdp.exe", "\x00\x1b[31m\x07", "\u2028\u2029\x85", "a\r\nb", "\ud800", "\ufffe\uffff",
    "$x^2$ \\frac", "`", "``a`", "損失 مرحبا 👩\u200d🔬", "javascript:alert(1)", "\ufeff",
)  # fmt: skip
words = st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=12).filter(str.strip)


def page_of(report):
    text = render([report])
    text.encode("utf-8")  # it can be written at all
    return text, Page(text)


def assert_harmless(text, page):
    assert page.tags("script", "img", "iframe") == ["script"]
    assert page.scripts == [html.environment().loader_source("copy.js")]
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert bad <= {"\n", "\u200c", "\u200d"}


@given(st.lists(words, min_size=12, max_size=12))
def test_any_text_is_found_unchanged(words):
    (subject, name, message, file, function, source, note, why, key, value, detail, rerun) = words
    place = Location(file, 3, 2, 3, 4, function, source)
    fault = Finding(
        name, key, Severity.WARNING, message, place, value, {key: value}, (note,), why,
        ((why, place),),
    )  # fmt: skip
    outcome = Outcome(name, key, Status.UNPROVED, detail)
    report = Report(
        subject, place, (value,), (fault,), (outcome,), 0, 0.1, (note,), rerun, (fault,)
    )
    text, page = page_of(report)
    assert_harmless(text, page)
    for plain_text in (subject, name, file, value, rerun, key.replace("_", " ")):
        assert visible(plain_text) in page.text
    for prose in (message, note, detail):
        assert as_prose(prose) in page.text
    for line in why.strip("\n").split("\n"):
        assert as_prose(line) in page.text or visible(line) in page.text
    if function != "<module>":
        assert visible(function) in page.text
    if source.strip() and source.isprintable():
        assert source in page.text


@settings(max_examples=5)  # each is drawn
@given(st.lists(words, min_size=5, max_size=5))
def test_any_text_can_stand_in_a_chart(words):
    title, x, y, label, caption = words
    series = (Series(label, (0.0, 1.0), (1.0, 2.0)), Series(y, (0.5,), (1.5,), "dots"))
    charts = (
        LineChart(title, x, y, series, caption),
        HeatMap(title, x, y, label, ((0.0, 1.0),), caption),
    )
    text, page = page_of(plain(charts=charts))
    assert_harmless(text, page)
    for words_shown in (title, label, x):
        assert visible(words_shown) in page.text
    assert as_prose(caption) in page.text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_source_files_with_anything_in_them(hostile, tmp_path):
    path = tmp_path / "hostile.py"
    path.write_text(f"a\nx = {hostile!r}  # {hostile}\nb\n", encoding="utf-8", errors="replace")
    place = Location.at(str(path), 2, 5, 2, 9)
    text, page = page_of(plain(finding(location=place)))
    assert_harmless(text, page)
    assert visible(place.source) in page.text


# ---------------------------------------------------------------------------- writing it
def test_to_html_writes_the_file_and_gives_its_path_back(tmp_path):
    path = tmp_path / "report.html"
    assert full_report().to_html(str(path)) == path
    assert path.read_text(encoding="utf-8") == render([full_report()])
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the last one")

    def fail(reports):
        raise RuntimeError("half way")

    monkeypatch.setattr(html, "render", fail)
    with pytest.raises(RuntimeError, match="half way"):
        full_report().to_html(path)
    assert path.read_text() == "the last one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        full_report().to_html(tmp_path / "nowhere" / "report.html")
