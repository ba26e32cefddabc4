"""The guide runs, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from benchmarks import studies

FOLDER = Path(__file__).parents[2] / "docs" / "speed"
PAGES = ("README", "chunk", "pairs", "fuse", "embed")
TEXTS = {name: (FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in PAGES}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINKS = sorted(
    (name, target)
    for name, text in TEXTS.items()
    for target in set(re.findall(r"\]\((?!http|#)([^)#]+)", text))
)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Compiled graphs are run one operation after the other: a C++ compiler takes seconds each."""
    for module in ("compiling", "fuse_programs", "fuse_compiled"):
        monkeypatch.setattr(f"lossproof.speed.{module}.inductor", lambda graph, inputs: graph)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs(name, recwarn):
    namespace = {}
    blocks = BLOCK.findall(TEXTS[name])
    assert blocks
    for block in blocks:
        exec(compile(block, f"docs/speed/{name}.md", "exec"), namespace)
    assert [str(one.message) for one in recwarn if issubclass(one.category, RuntimeWarning)] == []


@pytest.mark.parametrize(("name", "target"), LINKS)
def test_a_link_leads_somewhere(name, target):
    file = (FOLDER / target).resolve()
    to_come = {f"{page.name}.md" for page in studies.pages()}  # made from results, once they exist
    assert file.exists() or (file.parent.name == "benchmarks" and file.name in to_come)
