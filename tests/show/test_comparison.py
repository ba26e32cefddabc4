"""A comparison as text: everything is said, and nothing that a loss says acts on the terminal."""

import math
from dataclasses import replace

import pytest

from lossproof.checks.comparison import (
    Agreement,
    Comparison,
    Extreme,
    GradientAgreement,
    PointAgreement,
    Reaction,
    Reading,
    Rearrangement,
    Side,
    Spread,
    Times,
)
from lossproof.checks.report import Location
from lossproof.show.comparison import MOST_EXTREMES, render

A = Side("mine", "function", Location("losses.py", 7), value=2.5, value64=2.5000001,
         dtype="float32", follows_upstream=True, peak_bytes=3 * 2**20)  # fmt: skip
B = Side("theirs", "module", value=2.5, value64=2.5, dtype="float32", follows_upstream=False,
         peak_bytes=100)  # fmt: skip
GRADIENT = GradientAgreement("logits", 0.25, 0.5, 0.5, 1.0, (3, 1), -0.125, 0.75, True, True, False)
TIMES = Times(
    Spread(4e-4, 3e-4, 5e-4), Spread(2e-4, 1e-4, 3e-4), Spread(2.0, 1.5, 2.5),
    Spread(2.5, 2.0, 3.0), Spread(5.0, 4.0, 6.0), Spread(0.5, 0.4, 0.625),
    9, "cpu", 1,
)  # fmt: skip


def comparison(**changes):
    given = Comparison(
        A, B, ("logits: float32[8, 5]",), False, "gradient-only", ("the gradients part",),
        "float32", "float64", "elements",
        value=Agreement(0.0, 1e-5, True),
        value64=Agreement(4e-8, 1e-5, True),
        gradients=(GRADIENT,),
        points=(PointAgreement(1.0, 1.0, 0.0, 0.5, True, False),),
        extremes=(
            Extreme("`logits` is 100", Reading(math.nan, "nan"), Reading(0.0, "finite"), "a fails"),
            Extreme("`logits` is 0", Reading(1.0, "finite"), Reading(1.0, "finite"), "same"),
        ),
        rearrangements=(
            Rearrangement("flattened to one axis", Reaction(True, 0.0),
                          Reaction(False, error="ValueError: no")),
        ),
        times=TIMES,
        notes=("a note",),
        seconds=0.5,
    )  # fmt: skip
    return replace(given, **changes)


def row(text, label):
    """The cells of a row."""
    lines = [line for line in text.splitlines() if line.startswith(label)]
    assert len(lines) == 1, text
    return [cell for cell in lines[0][len(label) :].split("  ") if cell.strip()]


def cells(text, label):
    return [cell.strip() for cell in row(text, label)]


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("result", ["float32[]", "float32[]"]),
        ("value in float32", ["2.5", "2.5", "same"]),
        ("value in float64", ["2.5", "2.5", "same to 4e-08"]),
        ("gradient for logits", ["norm 0.25", "norm 0.5", "differ by 0.5, cosine 1"]),
        ("  at [3, 1]", ["-0.125", "0.75"]),
        ("gradient with 3 sent backward", ["3 times", "not 3 times"]),
        ("ordinary points", ["same at 0 of 1"]),
        ("2 extreme points", ["fails at 1", "all finite"]),
        ("  `logits` is 100", ["nan, gradient nan", "0"]),
        ("flattened to one axis", ["same", "raises ValueError: no"]),
        ("forward  ", ["400 µs", "200 µs", "ratio 2 (1.5 to 2.5)"]),
        ("forward and backward", ["2.5 s", "5 s", "ratio 0.5 (0.4 to 0.625)"]),
        ("peak memory", ["3 MiB", "100 bytes"]),
    ],
)
def test_each_measurement_has_its_row(label, shown):
    assert cells(render(comparison(), width=120), label) == shown


def test_the_words_around_the_table():
    text = render(comparison())
    assert text.startswith("`mine` (losses.py:7) against `theirs`\nwith logits: float32[8, 5]\n")
    assert "  - the gradients part" in text
    assert "forward: `mine` takes 2.0 times as long as `theirs`" in text
    assert "forward and backward: `theirs` takes 2.0 times as long as `mine`" in text
    assert "  - a note" in text
    assert text.endswith("not the same: gradient-only, in 0.5 s")


def test_noise_is_not_called_a_difference_in_speed():
    noisy = replace(TIMES, forward_ratio=Spread(1.2, 0.9, 1.6))
    assert "forward: no clear difference" in render(comparison(times=noisy))


def test_the_verdict_where_they_are_the_same():
    text = render(comparison(same=True, relation=None))
    assert text.splitlines()[-1] == (
        "same in value and gradient at ordinary points; 1 difference beyond, in 0.5 s"
    )
    text = render(comparison(same=True, relation=None, differences=()))
    assert text.splitlines()[-1] == "same in value and gradient at ordinary points, in 0.5 s"
    assert "differences" not in text


def test_many_extremes_are_counted():
    extreme = comparison().extremes[0]
    many = tuple(replace(extreme, words=f"point {number}") for number in range(9))
    text = render(comparison(extremes=many))
    assert f"point {MOST_EXTREMES - 1}" in text
    assert f"point {MOST_EXTREMES} " not in text
    assert f"and {9 - MOST_EXTREMES} more" in text


def test_values_that_differ_are_shown_beside_those_in_float64():
    one, other = Reading(18.2, "finite", truth=18.4), Reading(20.0, "finite", truth=20.0)
    text = render(
        comparison(extremes=(Extreme("x is 20", one, other, "values differ"),)), width=120
    )
    shown = ["18.2", "20", "values differ (in float64 18.4 and 20)"]
    assert cells(text, "  x is 20") == shown


def test_a_side_that_raised():
    broken = Side("theirs", "function", error="ValueError: no [bold]way")
    text = render(
        Comparison(
            A, broken, ("x: float32[2]",), False, "error",
            ("`theirs`: ValueError: no [bold]way",), "float32", "float32", "elements",
        )
    )  # fmt: skip
    assert "error" in text
    assert "ValueError: no [bold]way" in text
    assert text.endswith("not the same: error, in 0.0 s")


@pytest.mark.parametrize("evil", ["\x1b[31mred", "[/]", "[bold]x[/bold]", ":smile:", "\u202eback"])
def test_what_a_loss_says_stays_text(evil):
    side = replace(B, name=evil)
    text = render(comparison(b=side, differences=(evil,), notes=(evil,), inputs=(evil,)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    if evil.isascii() and evil.isprintable():
        assert f"  - {evil}" in text
        assert f"with {evil}" in text


def test_colour_changes_nothing_but_colour():
    import re

    plain = render(comparison())
    coloured = render(comparison(), color=True)
    assert "\x1b[" in coloured
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in stripped.splitlines()] == plain.splitlines()


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_it_keeps_to_the_width(width):
    text = render(comparison(), width=width)
    assert max(len(line) for line in text.splitlines()) <= width


def test_str_is_the_plain_text():
    assert str(comparison()) == render(comparison())
