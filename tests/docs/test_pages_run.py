"""What the README and the guide show is run: files, Python, commands and what they print."""

import sys

import pytest
from tests.docs.pages import ROOT, Page, agree, comparable, printed_by

DOCS = ROOT / "docs"
GENERATED = ("losses", "terms", "rules", "benchmarks", "api")
"""Folders of pages made from docstrings, whose examples are doctests, and from results."""
TOLD_ELSEWHERE = {
    "docs/speed/README.md", "docs/speed/chunk.md", "docs/speed/pairs.md", "docs/speed/fuse.md",
    "docs/speed/embed.md", "docs/terms/README.md",
}  # fmt: skip
"""Pages that `test_guide.py` of their rooms run, and ask more of."""
NOT_RUN: dict[tuple[str, str], int] = {}
"""How many blocks of a page are not run, by the page and the reason."""

WARNINGS = {
    "docs/integrations/lightning.md": (
        ".*LeafSpec.*is deprecated:FutureWarning",  # of torch, by Lightning
        ".*does not have many workers",
    ),
}
"""What the tools of a page warn of, and its code cannot help."""


def pages():
    guide = [
        path
        for path in sorted(DOCS.rglob("*.md"))
        if path.relative_to(DOCS).parts[0] not in GENERATED or path.name == "README.md"
    ]
    return [Page(path) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *guide)]


PAGES = pages()
HERE = [page for page in PAGES if page.name not in TOLD_ELSEWHERE]
SESSIONS = [page for page in HERE if page.runs]
COMMANDS = [(page, command) for page in HERE for command in page.commands]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of one's own, from which Python imports; modules imported from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=page.name,
            marks=[
                pytest.mark.filterwarnings(f"ignore:{words}")
                for words in WARNINGS.get(page.name, ())
            ],
        )
        for page in SESSIONS
    ],
)
def test_the_python_of_a_page_runs(page, folder):
    page.write_files(folder)
    page.run_session(folder)


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS, ids=[f"{page.name}: {one.line}" for page, one in COMMANDS]
)
def test_a_command_prints_what_is_shown(page, command, folder):
    page.write_files(folder)
    printed = printed_by(command, folder)
    assert agree(command.shown, printed), f"{page.name} should show\n{printed}"


def test_what_is_not_run_is_listed():
    found = {}
    for page in PAGES:
        for block in page.blocks:
            if block.reason is not None:
                found[page.name, block.reason] = found.get((page.name, block.reason), 0) + 1
    assert found == NOT_RUN


def test_a_page_that_is_run_elsewhere_exists():
    assert {page.name for page in PAGES} >= TOLD_ELSEWHERE


def test_the_readme_has_files_a_session_and_commands():
    readme = PAGES[0]
    assert [block.file for block in readme.blocks if block.file] == ["mse.py"]
    assert readme.runs
    assert len(readme.commands) >= 2


# --------------------------------------------------------------- the machinery itself
TEXT = """\
# A page

```python
# sub/one.py
VALUE = 1
```

```python
from sub.one import VALUE

def f():
    raise ValueError(VALUE)
```

```python
>>> VALUE + 1
2
>>> VALUE = 5
```

<!-- not run: no reason -->
```python
undefined
```

- an item

  ```python
  assert VALUE == 5
  VALUE = 6
  ```

```console
$ python -c "print('took 3.2 s')"
took 1.1 s
$ lossproof explain \\
    LP203
LP203
...
the end
```

```sh
rm -rf /
```
"""


@pytest.fixture
def page(tmp_path):
    (tmp_path / "page.md").write_text(TEXT, encoding="utf-8")
    return Page(tmp_path / "page.md")


def test_a_page_is_read_and_run(page, folder, monkeypatch):
    monkeypatch.setattr("tests.docs.pages.ROOT", folder)
    assert [block.line for block in page.blocks] == [4, 9, 16, 23, 29, 34, 44]
    assert [block.reason for block in page.blocks if block.reason] == ["no reason"]
    assert page.write_files(folder) == ["sub/one.py"]
    namespace = page.run_session(folder)
    assert namespace["VALUE"] == 6
    code = namespace["f"].__code__
    assert (code.co_firstlineno, code.co_filename) == (11, str(folder / "page_session.py"))
    one, two = page.commands
    assert (one.line, one.shown) == ("""python -c "print('took 3.2 s')\"""", "took 1.1 s\n")
    assert two.line == "lossproof explain LP203"
    assert agree(one.shown, printed_by(one, folder))


def test_a_wrong_doctest_is_a_failure(page, folder, monkeypatch):
    monkeypatch.setattr("tests.docs.pages.ROOT", folder)
    page.path.write_text(TEXT.replace("\n2\n", "\n3\n"), encoding="utf-8")
    page.write_files(folder)
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        page.run_session(folder)


@pytest.mark.parametrize(("between", "compared"), [("", True), ("Some words.\n\n", False)])
def test_a_text_block_right_below_shows_what_is_printed(
    page, folder, monkeypatch, between, compared
):
    monkeypatch.setattr("tests.docs.pages.ROOT", folder)
    text = f"```python\nprint(1 + 1, 0.25)\n```\n\n{between}```text\n2 0.75\n```\n"
    page.path.write_text(text, encoding="utf-8")
    page.run_session(folder)
    page.path.write_text(text.replace("\n2 ", "\n3 "), encoding="utf-8")
    if compared:
        with pytest.raises(AssertionError, match="below line 2, should show\n2 0.25"):
            page.run_session(folder)
    else:
        page.run_session(folder)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a b\nc", "a\nb c\n", True),
        ("a b", "a c", False),
        ("in 0.5 s: 1.25", "in 12 ms: -3e-5", True),
        ("5.05 times as fast", "5 times as fast", True),
        ("3 errors", "2 errors", False),
        ("asked 3 times", "asked 2 times", False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nd\n", True),
        ("a\n...\nd\n", "a\nb\n", False),
        ("a\n", "a\nb\n", False),
        ("x...\n", "xyz\n", False),
    ],
)
def test_what_counts_as_the_same_output(shown, printed, same):
    assert agree(shown, printed) is same


def test_what_differs_between_machines_is_not_compared():
    assert comparable("took 3 s, 1.5 of 2") == comparable("took  77.1 ms,\n2.25 of 2")


def test_a_command_of_another_program_is_refused(page):
    page.path.write_text("```console\n$ rm x\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="`rm x` is not run"):
        page.commands  # noqa: B018


def test_a_command_that_fails_is_a_failure(page, folder):
    page.path.write_text("```console\n$ python -c 'exit(2)'\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError):
        printed_by(page.commands[0], folder)


def test_the_line_on_each_card_of_the_home_page_is_run_below():
    home = Page(DOCS / "index.md")
    cards = [line.strip(" `") for line in home.text.splitlines() if line.startswith("    `")]
    (session,) = (block.text for block in home.blocks if block.in_session)
    assert len(cards) == 6
    assert [line for line in cards if line not in session] == []
