"""The body of a loop as a function of one element."""

import ast

import pytest

from lossproof.checks.loops.elements import NotRewrittenError
from lossproof.checks.loops.rounds import Result, Round


def read(body, changing=("x", "y"), index="i"):
    found = Round(changing, index, "torch", lambda loop, around: [])
    found.read(ast.parse(body).body)
    return found


def given(body):
    return {result: ast.unparse(value) for result, value in read(body).results.items()}


@pytest.mark.parametrize(
    ("body", "result", "value"),
    [
        ("total += x", Result("sum", "total"), "x"),
        ("total -= x", Result("sum", "total", minus=True), "x"),
        ("total = total + x", Result("sum", "total"), "x"),
        ("total = x + total", Result("sum", "total"), "x"),
        ("total = total - x", Result("sum", "total", minus=True), "x"),
        ("losses.append(x)", Result("list", "losses"), "x"),
        ("losses[i] = x", Result("item", "losses"), "x"),
        ("total += int(x)", Result("sum", "total"), "x"),
        ("total += x.item()", Result("sum", "total"), "x"),
        ("total += math.log(x)", Result("sum", "total"), "torch.log(x)"),
        ("total += x[y]", Result("sum", "total"), "x[y[None]][0]"),
        ("total += x[0]", Result("sum", "total"), "x[0]"),
        ("total += x if y > 0 else -x", Result("sum", "total"), "torch.where(y > 0, x, -x)"),
        ("if y > 0:\n total += x", Result("sum", "total"), "torch.where(y > 0, x, 0)"),
        ("if not y:\n total += x", Result("sum", "total"), "torch.where(~y, x, 0)"),
        (
            "if y > 0 and x < 1:\n total += x",
            Result("sum", "total"),
            "torch.where((y > 0) & (x < 1), x, 0)",
        ),
        ("if y > 0:\n continue\ntotal += x", Result("sum", "total"), "torch.where(y > 0, 0, x)"),
        ("if scale is None:\n total += x", Result("sum", "total"), "x if scale is None else 0"),
        ("if len(x) > 3:\n total += x", Result("sum", "total"), "x if len(x) > 3 else 0"),
        ("total += x\ntotal += y", Result("sum", "total"), "x + y"),
    ],
)
def test_what_a_round_gives(body, result, value):
    assert given(body) == {result: value}


def test_a_branch_that_names_a_value():
    found = read("if y > 0:\n z = x\nelse:\n z = 2 * x\ntotal += z")
    assert [ast.unparse(one) for one in map(ast.fix_missing_locations, found.statements)] == [
        "z = torch.where(y > 0, x, 2 * x)"
    ]


def test_a_name_of_its_own_is_no_result():
    found = read("part = 0\npart += x\ntotal += part")
    assert [result.name for result in found.results] == ["total"]


def test_numbers_that_come_from_shapes_stay_numbers():
    found = read("n = len(x)\nif n > 3:\n total += x")
    assert [ast.unparse(value) for value in found.results.values()] == ["x if n > 3 else 0"]


@pytest.mark.parametrize(
    "body",
    [
        "state = 0.5 * state + x", "total *= x", "return x", "break", "print(x)", "del x",
        "a.b = x", "losses.append(x)\nlosses.append(y)", "if y > 0:\n losses.append(x)",
        "(a, b.c) = x",
    ],
)  # fmt: skip
def test_what_has_no_counterpart(body):
    with pytest.raises(NotRewrittenError):
        read(body)
