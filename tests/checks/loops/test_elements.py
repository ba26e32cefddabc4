"""What one round of a loop is given."""

import ast

import pytest

from lossproof.checks.loops.elements import Elements, Indexed, NotRewrittenError, iterated, name_of


def head(text):
    (loop,) = ast.parse(f"for {text}: pass").body
    elements, index = iterated(loop.target, loop.iter, "torch")
    return {one.name: ast.unparse(one.sequence) for one in elements.listed}, index


@pytest.mark.parametrize(
    ("text", "elements", "index"),
    [
        ("i in range(len(x))", {}, "i"),
        ("row in x", {"row": "x"}, None),
        ("a, b in zip(x, y.T)", {"a": "x", "b": "y.T"}, None),
        ("a, b in zip(x, y, strict=True)", {"a": "x", "b": "y"}, None),
        ("i, row in enumerate(x)", {"row": "x"}, "i"),
    ],
)
def test_the_head_of_a_loop(text, elements, index):
    assert head(text) == (elements, index)


@pytest.mark.parametrize(
    "text",
    ["i in range(1, 5)", "i in reversed(x)", "(a, b), c in zip(x, y)", "i, (a, b) in enumerate(x)"],
)
def test_other_heads_are_refused(text):
    with pytest.raises(NotRewrittenError):
        head(text)


@pytest.mark.parametrize(
    ("text", "turned", "given"),
    [
        ("x[i]", "x", [("x", 0)]),
        ("x[i, 0]", "x[0]", [("x", 0)]),
        ("x[0, i]", "x[0]", [("x", 1)]),
        ("x[:, i]", "x", [("x", 1)]),
        ("x[:, i, 2]", "x[:, 2]", [("x", 1)]),
        ("x[i][j]", "x[j]", [("x", 0)]),
        ("x[i] * x[i]", "x * x", [("x", 0)]),
        ("self.x[i]", "x", [("self.x", 0)]),
        ("own[i]", "own[i]", []),
        ("x[i + 1]", "x[i + 1]", []),
        ("x[mask, i]", "x[mask, i]", []),
        ("x[..., i]", "x[..., i]", []),
    ],
)
def test_what_is_indexed_is_an_element(text, turned, given):
    elements = Elements()
    node = Indexed("i", elements, {"own"}, set()).visit(ast.parse(text, mode="eval").body)
    assert ast.unparse(node) == turned
    assert [(ast.unparse(one.sequence), one.axis) for one in elements.listed] == given


def test_one_sequence_along_two_axes_gives_two_elements():
    elements = Elements()
    node = Indexed("i", elements, set(), set()).visit(
        ast.parse("x[i, 0] + x[0, i]", mode="eval").body
    )
    assert ast.unparse(node) == "x[0] + x_[0]"
    assert [one.axis for one in elements.listed] == [0, 1]


def test_a_name_that_means_the_whole_too_is_not_taken():
    elements = Elements()
    Indexed("i", elements, set(), {"x"}).visit(ast.parse("x[i]", mode="eval").body)
    assert elements.names == ["x_i"]


def test_names():
    assert name_of(ast.parse("self.logits", mode="eval").body) == "logits"
    assert name_of(ast.parse("f(x)", mode="eval").body) == "item"
