"""What the hooks turn: formulas, links, sessions, the navigation, docstrings."""

from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("math_core")

import griffe
from docs.hooks import docstrings, examples, formulas, links, navigation
from markdown import Markdown
from math_core import LatexError
from mkdocs.exceptions import PluginError


# --------------------------------------------------------------- formulas
def drawn(text):
    return Markdown(extensions=[formulas.Formulas(), "tables"]).convert(text)


def test_a_formula_in_a_line_is_drawn():
    text = drawn("with $`a_1 * b_2 | c`$ and `code`")
    assert text.count("<math") == 1
    assert "<msub><mi>a</mi><mn>1</mn></msub>" in text
    assert "<code>code</code>" in text
    assert "$" not in text and "<em>" not in text


def test_a_formula_in_a_table_keeps_its_bars():
    text = drawn("| a | b |\n|---|---|\n| $`|x|`$ | y |")
    assert text.count("<td>") == 2
    assert text.count("<math") == 1


def test_code_that_shows_a_formula_is_code():
    assert "<code>$`x^2`$</code>" in drawn("`` $`x^2`$ ``")


def test_a_formula_that_cannot_be_drawn_is_an_error():
    with pytest.raises(LatexError):
        formulas.fence(r"\frac{1")
    with pytest.raises(LatexError):
        formulas.fence(r"\nosuchcommand x")


# --------------------------------------------------------------- links
@pytest.fixture
def turned():
    """A page of `docs/stories/` after its links are turned."""
    known = {"assets/examples/linear_regression.png"}
    files = SimpleNamespace(get_file_from_path=lambda name: name if name in known else None)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="stories/one.md"))
    return lambda text: links.on_page_markdown(text, page, None, files)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("[a](../rules/LP203.md#example)", "[a](../rules/LP203.md#example)"),
        ("[a](two.md)", "[a](two.md)"),
        ("[a](https://x.org/../y)", "[a](https://x.org/../y)"),
        ("[a\nb](../../examples/catalogue.py)", f"[a\nb]({links.SOURCE}examples/catalogue.py)"),
        ("[a](../../README.md#use)", f"[a]({links.SOURCE}README.md#use)"),
        ("[a](../../no_such_file.md)", "[a](../../no_such_file.md)"),
        (
            "![p](../../examples/linear_regression.png)",
            "![p](../assets/examples/linear_regression.png)",
        ),
        (
            '<img src="../../examples/linear_regression.png">',
            '<img src="../assets/examples/linear_regression.png">',
        ),
        ("```text\n[a](../../README.md)\n```", "```text\n[a](../../README.md)\n```"),
    ],
)
def test_a_link_that_leaves_the_guide_leads_to_the_repository(turned, written, wanted):
    assert turned(written) == wanted


# --------------------------------------------------------------- sessions
def test_python_with_prompts_is_a_session():
    text = "```python\n>>> 1\n1\n```\n\n  ```python\n  x = 1\n  ```\n"
    assert examples.on_page_markdown(text) == text.replace("```python\n>>>", "```pycon\n>>>")


# --------------------------------------------------------------- navigation
INDEX = """\
# All

## One

| x |
|---|
| [`b`](b.md) |

## None

### Two

| [c d](c.md) | [d](d.md) |
"""


@pytest.fixture
def docs(tmp_path):
    for name, title in (("a/b.md", "Zebra"), ("a/c.md", "`apple`"), ("a/d.md", "Named")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {title}\n", encoding="utf-8")
    (tmp_path / "a/README.md").write_text(INDEX, encoding="utf-8")
    return tmp_path


def filled(docs, nav):
    return navigation.on_config(SimpleNamespace(docs_dir=str(docs), nav=nav)).nav


def test_a_folder_is_filled_in_by_titles_without_what_is_named(docs):
    nav = [{"A": ["a/*.md"]}, {"D": "a/d.md"}, "a/README.md"]
    assert filled(docs, nav) == [{"A": ["a/c.md", "a/b.md"]}, {"D": "a/d.md"}, "a/README.md"]


def test_a_table_is_filled_in_by_headings(docs):
    assert filled(docs, ["by headings of a/README.md"]) == [
        {"One": ["a/b.md"]},
        {"Two": ["a/c.md"]},
    ]


def test_a_folder_without_pages_is_told_of(docs, caplog):
    assert filled(docs, ["b/*.md"]) == []
    assert "is called b/*.md" in caplog.text


def test_a_page_without_a_title_is_an_error(docs):
    (docs / "a/b.md").write_text("no title\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"b\.md has no title"):
        filled(docs, ["a/*.md"])


# --------------------------------------------------------------- docstrings
def test_a_docstring_is_markdown_before_it_is_parsed():
    value = (
        "Half of ``x``, :math:`x / 2`; see :func:`~torch.abs`.\n\n"
        "Args:\n    x: a number.\n\n"
        "Example:\n    >>> 1\n    1\n\n"
        "Source:\n    Me (2026)."
    )
    function = griffe.Function("f", docstring=griffe.Docstring(value))
    docstrings.Docstrings().on_instance(obj=function)
    text = function.docstring.value
    assert text.startswith("Half of `x`, $`x / 2`$; see `torch.abs`.\n\nArgs:\n    x: a number.")
    assert "**Example**\n\n```python\n>>> 1\n1\n```" in text
    assert text.endswith("**Source**\n\nMe (2026).")
