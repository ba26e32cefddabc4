"""Pages and pictures are made from results alone, and are the same each time."""

import json
from xml.etree import ElementTree

import pytest
from benchmarks.harness import results, tables
from benchmarks.harness.plots import Picture, bars

from benchmarks import studies


def quotient(number):
    return {"step": {"median": number, "quartiles": [0.9 * number, 1.1 * number]}}


def entry(factor):
    return {
        "rounds": 5, "repeats": 1, "first_call_s": 1.0, "processor_ms": quotient(2.0 * factor),
        "wall_ms": quotient(3.0 * factor), "ratio": quotient(factor), "live_mb": 10.0 * factor,
    }  # fmt: skip


DATA = {
    "machine": {
        "date": "2026-01-01", "processor": "one", "cores": 1, "threads": 1, "system": "any",
        "python": "3.11", "torch": "2.13", "numpy": "2", "lossproof": "0.1", "source": "abc",
    },
    "versions": {"a-peer": "1.0"}, "absent": ["another-peer"], "study": "some", "rounds": 5,
    "baseline": "plain", "kinds": {"plain": "plain", "ours": "ours", "theirs": "peer"},
    "cases": [
        {
            "case": "large", "settings": {},
            "methods": {
                "plain": entry(1.0), "ours": entry(0.5) | {"facts": {"value": 0.125}},
                "theirs": {"failed": "RuntimeError: no"},
            },
        },
        {
            "case": "larger", "settings": {},
            "methods": {"plain": {"not_run": "needs 9 GB"}, "theirs": {"left_out": "no masks"}},
        },
    ],
}  # fmt: skip


def test_the_page_says_what_was_measured_and_what_was_not():
    text = results.page_text(tables.page("Some", "what?", DATA))
    assert text.startswith("# Some\n\nwhat?\n")
    assert "Versions: a-peer 1.0." in text
    assert "Not installed, so left out: another-peer." in text
    assert "| ours | 1.00 (0.900 - 1.10) | 0.500 (0.450 - 0.550) | 1.50 | 5.00 | 0.125 |" in text
    assert "- theirs fails: `RuntimeError: no`" in text
    assert "- plain was not run: it needs 9 GB" in text
    assert "- theirs is left out: no masks" in text
    assert "(pictures/some_ratio.svg)" in text
    assert "`python -m benchmarks some` makes this page." in text


def test_a_table_across_cases_says_where_there_is_nothing():
    text = tables.ratio_table(DATA["cases"], ("8", "9"))
    assert text.splitlines()[2:] == [
        "| plain | 1.00 (0.900 - 1.10) | not run |",
        "| ours | 0.500 (0.450 - 0.550) | - |",
        "| theirs | fails | - |",
    ]
    assert "| ours | 5.00 | - |" in tables.memory_table(DATA["cases"], ("8", "9"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0.00"), (0.01234, "0.0123"), (1.0, "1.00"), (99.96, "100"),
     (123.4, "123"), (1234567.0, "1234567")],
)  # fmt: skip
def test_numbers_have_three_digits(value, shown):
    assert tables.number(value) == shown


def test_a_picture_is_the_same_each_time_and_has_a_bar_for_each_figure():
    pytest.importorskip("matplotlib")
    picture = bars(DATA, "ratio", "time")
    first = picture.draw()
    assert first == picture.draw()
    texts = [element.text for element in ElementTree.fromstring(first).iter()]
    assert {"large", "plain", "ours", "0.5", "time"} <= set(texts)
    assert not {"larger", "theirs"} & set(texts)


def test_a_page_is_saved_with_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "PAGES", tmp_path)
    path = results.save_page("some", ["# Some", Picture("one", "what it shows", lambda: "<svg/>")])
    assert path.read_text() == "# Some\n\n![what it shows](pictures/one.svg)\n"
    assert (tmp_path / "pictures" / "one.svg").read_text() == "<svg/>"


def test_results_are_read_as_they_were_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    data = {"numbers": [1.5, -2e-05], "words": ["a", "1, 2"], "nothing": [], "nested": [[1], [2]]}
    path = results.save("some", data)
    assert results.read("some") == data
    assert '"numbers": [1.5, -2e-05]' in path.read_text()
    assert results.read("other") is None


@pytest.mark.parametrize("page", list(studies.pages()), ids=lambda page: page.name)
def test_every_committed_page_is_made_from_the_committed_results(page):
    found = [results.read(name) for name in page.results]
    if not any(found):
        pytest.skip("not run yet")
    wanted = (results.PAGES / f"{page.name}.md").read_text(encoding="utf-8")
    assert results.page_text(page.made(*found)) == wanted


def test_every_result_is_on_a_page():
    listed = [*studies.pages(), *studies.PICTURES]
    on_a_page = {name for page in listed for name in page.results}
    saved = {path.stem for path in results.RESULTS.glob("*.json")}
    assert saved <= on_a_page


def test_every_study_has_a_name_of_its_own():
    names = [command.name for command in studies.COMMANDS] + list(studies.measured())
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", [path.stem for path in results.RESULTS.glob("*.json")])
def test_every_result_says_where_it_comes_from(name):
    data = json.loads((results.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert {"date", "processor", "torch", "source"} <= set(data["machine"])
