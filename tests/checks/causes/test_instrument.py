"""A backward that runs with one expression changed; where its expressions stand."""

import ast

import pytest
import torch

from lossproof.checks.causes.instrument import Instrumented, compiled, fresh_context
from lossproof.checks.causes.source import source_of
from lossproof.checks.ordinary_code import StandInContext

SCALE = 3.0


def context(*saved):
    ctx = StandInContext((True,) * len(saved))
    ctx.save_for_backward(*saved)
    return ctx


def backward(ctx, grad_output):
    """A docstring, a loop, a write in place, a comparison, a keyword, a global."""
    x, y = ctx.saved_tensors
    total = torch.zeros_like(x)
    for power in range(1, 3):
        total += power * x ** (power - 1)
    total[0] *= 2.0
    mask = (x > 0).to(x.dtype)
    return grad_output * total * mask / SCALE, -grad_output * y.sum(dim=0, keepdim=True)


def made_in_a_closure(factor):
    def inner(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * factor * x

    return inner


def branching(ctx, grad_output):
    (x,) = ctx.saved_tensors
    if x.numel() > 2:
        scaled = [value * 2 for value in (x, x)]
        return grad_output * scaled[0], f"{x.numel()}"
    return None, None


@pytest.fixture
def saved():
    return torch.randn(4, 2), torch.randn(4, 2)


def test_it_computes_what_the_source_says(saved):
    instrumented = Instrumented(source_of(backward))
    grad_output = torch.tensor(1.5)
    expected = backward(context(*saved), grad_output)
    found = instrumented.run((context(*saved), grad_output))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_one_expression_is_changed(saved):
    source = source_of(backward)
    instrumented = Instrumented(source)
    number = next(
        i for i, node in enumerate(instrumented.nodes)
        if isinstance(node, ast.BinOp) and ast.unparse(node).endswith("/ SCALE")
    )  # fmt: skip
    arguments = (context(*saved), torch.tensor(1.5))
    usual = instrumented.run(arguments)
    changed = instrumented.run(arguments, number, lambda left, right: left * right)
    torch.testing.assert_close(changed[0], usual[0] * SCALE**2)
    assert torch.equal(changed[1], usual[1])
    again = instrumented.run(arguments)
    assert torch.equal(again[0], usual[0])


def test_a_recording_has_every_value(saved):
    instrumented = Instrumented(source_of(backward))
    _, record = instrumented.recorded((context(*saved), torch.tensor(1.5)))
    texts = {ast.unparse(instrumented.nodes[n]): record.values[n] for n in record.values}
    assert torch.equal(texts["x > 0"], saved[0] > 0)
    assert texts["SCALE"] == 3.0
    runs = {ast.unparse(instrumented.nodes[n]): count for n, count in record.runs.items()}
    assert runs["power * x ** (power - 1)"] == 2
    assert runs["x > 0"] == 1


@pytest.mark.parametrize("function", [made_in_a_closure(2.5), branching])
def test_closures_and_comprehensions(function):
    x = torch.randn(3)
    instrumented = Instrumented(source_of(function))
    expected = function(context(x), torch.tensor(2.0))
    found = instrumented.run((context(x), torch.tensor(2.0)))
    first = expected[0] if isinstance(expected, tuple) else expected
    assert torch.equal(found[0] if isinstance(found, tuple) else found, first)


def test_the_globals_of_the_user_stay_as_they_are(saved):
    before = set(backward.__globals__)
    Instrumented(source_of(backward)).run((context(*saved), torch.tensor(1.0)))
    assert set(backward.__globals__) == before


def test_locations_are_those_of_the_file(saved):
    source = source_of(backward)
    lines, first = __import__("inspect").getsourcelines(backward)
    location = source.location(source.returns[-1])
    assert lines[location.line - first].strip().startswith("return")
    assert location.source.strip().startswith("return")
    element = source.location(source.returned(1))
    text = element.source[element.column - 1 : element.end_column - 1]
    assert text == "-grad_output * y.sum(dim=0, keepdim=True)"


def test_a_method_is_found_at_its_indentation():
    class Deep:
        class Deeper:
            @staticmethod
            def backward(ctx, grad_output):
                grad = grad_output * 2  # ä wide character before: ok
                return grad

    source = source_of(Deep.Deeper.backward)
    node = source.defining(0)
    assert ast.unparse(node) == "2"
    assert source.location(node).source[source.location(node).column - 1] == "2"


def test_what_has_no_source_gives_none():
    assert source_of(None) is None
    assert source_of(len) is None
    namespace = {}
    exec("def made(ctx, g):\n    return g", namespace)
    assert source_of(namespace["made"]) is None


def test_a_changed_tree_is_compiled_with_the_closure():
    function = made_in_a_closure(4.0)
    source = source_of(function)
    compiled_again = compiled(source, source.tree, {})
    x = torch.randn(3)
    assert torch.equal(
        compiled_again(context(x), torch.tensor(1.0)), function(context(x), torch.tensor(1.0))
    )


def test_a_fresh_context_shares_no_tensor():
    ctx = context(torch.ones(2))
    ctx.options = {"mask": torch.ones(2), "scale": 2.0}
    new = fresh_context(ctx)
    new.saved_tensors[0].zero_()
    new.options["mask"].zero_()
    assert torch.equal(ctx.saved_tensors[0], torch.ones(2))
    assert torch.equal(ctx.options["mask"], torch.ones(2))
    assert new.options["scale"] == 2.0
