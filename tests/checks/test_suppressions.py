"""Comments that silence findings: where they hold, what they may say, and what reads like one."""

import textwrap

import pytest

from lossproof.checks.report import Finding, Location, Severity
from lossproof.checks.suppressions import sorted_out, suppressions_in, within

LOSSES = '''\
import torch

def helper(x):  # lossproof: ignore[LP102]
    return (
        x.detach()  # lossproof: ignore[graph-cut]
        + 1
    )

@torch.jit.ignore
def loss(
    p,
    t,
):  # lossproof: ignore[LP3, crash]
    text = "# lossproof: ignore"
    """
    # lossproof: ignore
    """
    return helper(p - t).mean()  # a word  # LossProof:ignore[LP201] and why

class Loss:
    def forward(self, p, t):  # lossproof: ignore
        return p

    def other(self, p): return p.mean()  # lossproof: ignored by nobody, ignore-next-line
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lösses.py"
    path.write_text(textwrap.dedent(LOSSES), encoding="utf-8")
    return str(path)


def finding(code, place=None):
    return Finding(code, "name", Severity.ERROR, "wrong", place)


def is_silenced(code, place, loss=None):
    kept, silenced = sorted_out([finding(code, place)], loss)
    assert len(kept) + len(silenced) == 1
    return bool(silenced)


def test_only_comments_count(file):
    assert [comment.location.line for comment in suppressions_in(file)] == [3, 5, 13, 18, 21]


def test_the_span_is_the_comment(file):
    *_, last, _ = suppressions_in(file)
    line = LOSSES.split("\n")[17]
    assert line[last.location.column - 1 : last.location.end_column - 1] == (
        "# LossProof:ignore[LP201]"
    )


@pytest.mark.parametrize(
    ("code", "line", "end", "silent"),
    [
        ("LP201", 5, None, True),
        ("LP201", 4, 7, True),  # within a statement over several lines
        ("LP201", 6, None, False),
        ("LP202", 5, None, False),
        ("LP102", 6, None, True),  # within the function whose head bears the comment
        ("LP102", 18, None, False),
        ("LP201", 18, None, True),
        ("LP305", 18, None, True),  # by prefix
        ("LP408", 18, None, True),  # by name
        ("LP999", 22, None, True),  # a bare comment silences all
        ("LP999", 24, None, False),
    ],
)
def test_where_a_comment_holds(file, code, line, end, silent):
    place = Location(file, line, end_line=end)
    assert is_silenced(code, place) is silent
    assert not is_silenced(code, Location("elsewhere.py", line, end_line=end))


def test_on_the_loss_itself_it_holds_for_the_whole_check(file):
    loss = Location(file, 9)  # as `inspect` has it: with the decorator
    assert is_silenced("LP302", Location("elsewhere.py", 1), loss)
    assert is_silenced("LP302", None, loss)
    assert not is_silenced("LP201", None, loss)
    assert not is_silenced("LP302", None, Location(file, 3))


def test_the_comments_within_a_loss(file):
    assert [comment.location.line for comment in within(Location(file, 9))] == [13, 18]
    assert within(Location(file, 10)) == ()
    assert within(Location("nowhere.py", 1)) == ()


@pytest.mark.parametrize(
    "text",
    [
        "x = (  # lossproof: ignore\n",
        "def f(:  # lossproof: ignore\n",
        "x = '\0'  # lossproof: ignore\n",
        "  x = 1\n y = 2  # lossproof: ignore\n",
    ],
)
def test_what_is_not_python_has_none(tmp_path, text):
    path = tmp_path / "broken.py"
    path.write_text(text)
    assert suppressions_in(str(path)) == ()


def test_words_that_mean_nothing_are_kept_for_the_report(tmp_path):
    path = tmp_path / "losses.py"
    path.write_text("x = 1  # lossproof: ignore[LP999, LP201]\ny = 1  # lossproof: ignore[]\n")
    first, second = suppressions_in(str(path))
    assert first.prefixes == ("LP201",)
    assert "no rule is called `LP999`" in first.unknown[0]
    assert second.unknown == ("the brackets are empty: name a rule in them, or leave them out",)
    assert not second.covers("LP201")
