"""The five stories come out as told, and the demo fails where one does not."""

import ast
import linecache
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from lossproof.demo import catalogue, composite, function_or_layer, linear_regression
from lossproof.demo.story import Claim, Outline, Part, code_of, heading, table, tell
from lossproof.demo.worker import STORIES, outline

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "lossproof" / "demo"
SHARED = {
    "function_or_layer": ("error_rate", "soft_error_rate"),
    "catalogue": ("fair_values", "fair_slopes"),
    "linear_regression": ("OwnMSE", "RightMSE", "WrongMSE", "inputs", "data", "train"),
    "cross_entropy": ("cross_entropies", "cross_entropy", "inputs"),
}


def line_with(file, words, after=""):
    text = (SOURCES / file).read_text(encoding="utf-8")
    return 1 + text[: text.index(words, text.index(after))].count("\n")


def test_every_story_comes_out_as_told(whole):
    assert whole.code == 0, whole.out + whole.err
    assert whole.err == ""
    assert "FAILS" not in whole.out
    rows = re.findall(r"^(\d)  (.+): (\d+) of (\d+) hold, [\d.]+ s$", whole.out, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == [1, 2, 3, 4, 5]
    assert all(held == count and int(count) >= 5 for _, _, held, count in rows)
    assert whole.out.count("\nholds  ") == sum(int(count) for *_, count in rows)


def test_the_verdicts_name_the_lines_of_the_files_that_are_shown(whole):
    for code, file, words, after in (
        ("LP204", "function_or_layer.py", "logits.argmax", ""),
        ("LP202", "linear_regression.py", "torch.mean(-2", "class WrongMSE"),
        ("LP203", "linear_regression.py", "return grad, None", "class WrongMSE"),
        ("LP501", "cross_entropy.py", "for row, label in", ""),
    ):
        line = line_with(file, words, after)
        place = rf"\[{code}\][^>]*--> {re.escape(str(SOURCES / file))}:{line}(:\d+)?  in"
        assert re.search(place, whole.out), (code, line)
    words = " ".join(whole.out.split())  # prose breaks its lines where it must
    line = line_with("function_or_layer.py", ".abs()")
    assert f"`abs` at line {line}: gradient 0 when `prediction` equals `target`" in words


def test_the_curves_are_those_of_the_story(whole):
    rows = dict(re.findall(r"^ +(\d+) +([\d.e+]+(?: +[\w.+]+){3})$", whole.out, re.MULTILINE))
    first, second, fifth, last = (rows[epoch].split() for epoch in ("1", "2", "5", "25"))
    assert [float(one) for one in first] == pytest.approx([953.65] * 4, rel=1e-3)
    assert [float(one) for one in second[:3]] == pytest.approx([910.05] * 3, rel=1e-3)
    assert fifth[3] == "inf" and last[3] == "nan"
    assert [float(one) for one in last[:3]] == pytest.approx([0.08352] * 3, rel=1e-2)


def test_the_guard_names_the_wrong_backward_in_the_second_step(whole):
    assert re.search(r"alarm\[wrong-backward\] step 2: .*one mean repeated", whole.out)


def test_the_comparison_fits_into_eighty_columns(whole):
    """Lines of code and of places are never wrapped; everything else is."""
    free = re.compile(r"^ *(\d+ \||\||-->)|/")
    assert [
        line for line in whole.out.split("\n") if len(line) > 80 and not free.search(line)
    ] == []
    assert "same at 4 of 4" in whole.out


# ------------------------------------------------------------------ what the stories compute


def test_the_solution_of_the_composite_story_solves_its_problem():
    x = torch.rand(20, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(composite.solution(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    w = composite.WAVES
    torch.testing.assert_close(bend, -(w**2) * torch.sin(w * x))
    torch.testing.assert_close(slope, w * torch.cos(w * x) + 1)


def test_the_derivatives_of_its_network_are_those_of_autograd():
    network = composite.Network().double()
    x = torch.rand(20, 1, dtype=torch.float64, requires_grad=True)
    value, first, second = network(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(first, slope)
    torch.testing.assert_close(second, bend)


def test_the_terms_vanish_at_the_solution(monkeypatch):
    class Solved(nn.Module):
        def forward(self, x):
            w = composite.WAVES
            return composite.solution(x), w * torch.cos(w * x) + 1, -(w**2) * torch.sin(w * x)

    assert all(float(term) < 1e-6 for term in composite.terms(Solved()).values())
    assert composite.error(Solved()) < 1e-6


@pytest.mark.parametrize("story", SHARED)
def test_what_an_example_tells_at_length_is_the_same_code(story):
    def definitions(path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        return {node.name: without_words(node) for node in tree.body if hasattr(node, "name")}

    example, demo = (
        definitions(ROOT / "examples" / f"{story}.py"),
        definitions(SOURCES / f"{story}.py"),
    )
    for name in SHARED[story]:
        assert demo[name] == example[name], name


def without_words(node):
    """A definition as code, without docstrings and annotations."""
    for inner in ast.walk(node):
        if isinstance(inner, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(inner):
            inner.body = inner.body[1:]
        if isinstance(inner, ast.FunctionDef):
            inner.returns = None
        if isinstance(inner, ast.arg):
            inner.annotation = None
    return ast.unparse(node)


# ------------------------------------------------------------------ a story that does not come out


def test_a_wrong_loss_that_is_acquitted_is_told(monkeypatch):
    monkeypatch.setitem(linear_regression.LOSSES, "WrongMSE", linear_regression.RightMSE)
    part = linear_regression.checked()
    assert [claim.holds for claim in part.claims] == [False, False, True]


def test_a_right_loss_that_is_convicted_is_told(monkeypatch):
    monkeypatch.setitem(linear_regression.LOSSES, "RightMSE", linear_regression.WrongMSE)
    part = linear_regression.checked()
    assert [claim.holds for claim in part.claims] == [True, True, False]


def test_a_metric_that_has_a_gradient_is_told(monkeypatch):
    monkeypatch.setattr(function_or_layer, "error_rate", function_or_layer.soft_error_rate)
    story = tell(Outline("", "", "", "", (function_or_layer.not_differentiable,)), 1, ignore)
    assert story.missed


def test_a_part_that_breaks_off_is_told_with_its_line(monkeypatch):
    monkeypatch.setattr(catalogue, "quartic_loss", None)
    monkeypatch.setattr(catalogue, "QuarticLoss", None)
    story = tell(Outline("", "", "", "", (catalogue.a_loss_of_ones_own,)), 1, ignore)
    (claim,) = story.missed
    line = line_with("catalogue.py", "QuarticLoss(scale=2.0)")
    assert "TypeError" in claim.text and f"catalogue.py:{line}" in claim.text


def ignore(*progress):
    pass


# ------------------------------------------------------------------ the data


def test_the_progress_tells_each_part_before_it_runs():
    seen = []
    parts = tuple(lambda k=k: seen.append(k) or Part(f"{k}") for k in range(3))
    tell(Outline("name", "", "", "", parts), 1, lambda *progress: seen.append(progress))
    assert seen == [(0, 3, "name: "), 0, (1, 3, "name: "), 1, (2, 3, "name: "), 2]


def test_a_heading_is_the_first_line_of_a_part():
    for number in range(1, len(STORIES) + 1):
        told = outline(number)
        assert all(heading(part) for part in told.parts), told.name


def test_code_is_shown_from_its_first_line_to_its_last():
    place = code_of(catalogue.fair_values, catalogue.fair_slopes).place
    lines = [linecache.getline(place.file, n) for n in (place.line, place.end_line)]
    assert lines[0].startswith("def fair_values(")
    assert lines[1] == "    return error / (1 + np.abs(error))\n"


def test_a_column_of_numbers_is_told_from_words():
    made = table(
        ("name", "value", "time", "note"), ("a", 1.25, "3 ms", "x"), ("b", -1e-9, "4 s", 1)
    )
    assert made.numeric == (False, True, True, False)
    assert made.rows[1] == ("b", "-1e-09", "4 s", "1")


def test_a_claim_counts_as_missed_when_it_does_not_hold():
    claims = (Claim("one", True), Claim("two", False))
    story = tell(Outline("", "", "", "", (lambda: Part("", (), claims),)), 4, ignore)
    assert story.claims == claims and story.missed == claims[1:] and story.number == 4
