"""The guide runs, and its links lead somewhere."""

import re
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from tests.docs.pages import Page

from benchmarks import studies
from lossproof.speed import ChunkedLoss, FusedLoss, PairReduction
from lossproof.write.arguments import transformed

FOLDER = Path(__file__).parents[2] / "docs" / "speed"
PAGES = ("README", "chunk", "pairs", "fuse", "embed")
TEXTS = {name: (FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in PAGES}
USED = {
    "README": {ChunkedLoss, FusedLoss, PairReduction},
    "chunk": {ChunkedLoss},
    "pairs": {PairReduction},
    "fuse": {FusedLoss},
    "embed": {PairReduction},  # by the loss of the catalogue
}
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


@contextmanager
def compared(calls):
    """Whatever is computed in parts meanwhile is compared with the loss as it was written."""

    def with_plain(kind):
        forward = kind.forward

        def both(self, *arguments, **options):
            value = forward(self, *arguments, **options)
            if not transformed():
                with torch.no_grad():
                    plain = self.plain(*arguments, **options)
                torch.testing.assert_close(value, plain, check_dtype=False, rtol=1e-4, atol=1e-5)
                calls.append(kind)
            return value

        return both

    with pytest.MonkeyPatch.context() as patch:
        for kind in (ChunkedLoss, FusedLoss, PairReduction):
            patch.setattr(kind, "forward", with_plain(kind))
        yield


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs(name, recwarn, tmp_path):
    calls = []

    def around(block):
        asks_itself = "lossproof.check(" in block  # and would find the comparison within the loss
        return nullcontext() if asks_itself else compared(calls)

    Page(FOLDER / f"{name}.md").run_session(tmp_path, around)
    assert set(calls) == USED[name]
    assert [str(one.message) for one in recwarn if issubclass(one.category, RuntimeWarning)] == []


@pytest.mark.parametrize(("name", "target"), LINKS)
def test_a_link_leads_somewhere(name, target):
    file = (FOLDER / target).resolve()
    to_come = {f"{page.name}.md" for page in studies.pages()}  # made from results, once they exist
    assert file.exists() or (file.parent.name == "benchmarks" and file.name in to_come)
