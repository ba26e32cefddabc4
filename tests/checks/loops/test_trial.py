"""A rewritten loop is tried before it is shown."""

import ast
import inspect

import pytest
import torch
from torch import nn

from lossproof.checks.loops import vectorised
from lossproof.checks.report import Location


def by_hand(logits, labels):
    """A binary cross entropy, element by element, written as people write it first."""
    result = 0
    for i in range(labels.size(0)):
        loss = 0
        pred, target = logits[i], labels[i].float()
        num = len(target)
        for j in range(len(target)):
            both = torch.exp(pred[0, j]) + torch.exp(pred[1, j])
            if int(target[j]) == 0:
                loss += -torch.log(torch.exp(pred[0, j]) / both)
            else:
                loss += -torch.log(torch.exp(pred[1, j]) / both)
        loss /= num
        result += loss
    return result / labels.size(0)


def helper(x, y):
    total = 0
    for i in range(len(x)):
        total = total + ((x[i] - y[i]) ** 2).sum()
    return total


def calls_a_helper(x, y):
    return helper(x, y) / len(x)


def not_finite_where_it_is_not_taken(x, y):
    """The gradient of the branch that is left out is infinite at 0: the sum of both is NaN."""
    total = 0
    for i in range(len(x)):
        if y[i] > 0:
            total = total + torch.sqrt((x[i] * (y[i] > 0)).abs())
        else:
            total = total + x[i] ** 2
    return total


class WithAScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x, y):
        losses = []
        for row, other in zip(x, y, strict=True):
            losses.append(self.scale * ((row - other) ** 2).sum())
        return torch.stack(losses).mean()


@pytest.fixture
def tried(examination):
    def run(loss, function, *inputs):
        lines, first = inspect.getsourcelines(function)
        line = next(first + n for n, text in enumerate(lines) if text.strip().startswith("for "))
        return vectorised(examination(loss, *inputs), Location.at(__file__, line))

    return run


def test_the_loop_of_the_story(tried):
    inputs = torch.randn(8, 2, 16, requires_grad=True), torch.randint(2, (8, 16))
    found = tried(by_hand, by_hand, *inputs)
    assert found.times > 1
    assert "in_dims=" in found.code
    names = {"torch": torch}
    exec(found.code, names)
    torch.testing.assert_close(names["by_hand"](*inputs), by_hand(*inputs))


def test_the_users_function_is_left_as_it_was(tried):
    before = by_hand.__code__
    tried(by_hand, by_hand, "float[8,2,8]", "int[8,8]<2")
    assert by_hand.__code__ is before


def test_a_helper(tried):
    found = tried(calls_a_helper, helper, "float[96,4]", "float[96,4]")
    assert found.code.startswith("def helper(x, y):")


def test_a_method_that_uses_a_parameter(tried):
    found = tried(WithAScale(), WithAScale.forward, "float[96,4]", "float[96,4]")
    assert "self.scale *" in found.code
    assert "return losses.mean()" in found.code


def test_a_closure(tried):
    weight = torch.tensor(3.0)

    def closes(x, y):
        total = 0
        for i in range(len(x)):
            total = total + weight * ((x[i] - y[i]) ** 2).sum()
        return total

    assert "weight *" in tried(closes, closes, "float[96,4]", "float[96,4]").code


def test_what_gives_other_numbers_is_not_shown(tried):
    inputs = torch.randn(16, requires_grad=True), torch.tensor([1.0, -1.0] * 8)
    assert (
        tried(not_finite_where_it_is_not_taken, not_finite_where_it_is_not_taken, *inputs) is None
    )


def test_without_a_name_for_torch(tried, module_of):
    module = module_of(
        "def loss(x, y):\n    total = 0\n    for i in range(len(x)):\n"
        "        total = total + (x[i] - y[i]) ** 2\n    return total\n"
    )
    assert ast.parse(inspect.getsource(module.loss))
    assert tried(module.loss, module.loss, "float[16]", "float[16]") is None
