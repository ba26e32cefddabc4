"""The first operation that left the finite numbers, forward and backward."""

import math
import sys

import pytest
import torch
from torch import nn

from lossproof.checks.mends import mend
from lossproof.checks.nonfinite import find_culprit, innocent_marks, is_finite


def culprit_of(examination, loss, x, *others, **options):
    case = examination(loss, torch.ones_like(x).requires_grad_(), *others)
    return find_culprit(case, (x, *others), **options)


ZERO = torch.zeros(3)


@pytest.mark.parametrize(
    ("loss", "x", "operation", "phase", "produced"),
    [
        (lambda x: torch.log(x).sum(), ZERO, "log", "forward", "inf"),
        (lambda x: (x / x).sum(), ZERO, "div", "forward", "nan"),
        (lambda x: (1 / x).sum(), ZERO, "div", "forward", "inf"),
        (lambda x: x.sqrt().sum(), ZERO, "sqrt", "backward", "inf"),
        (lambda x: (x**0.5).sum(), ZERO, "pow", "backward", "inf"),
        (lambda x: torch.acos(x + 1).sum(), ZERO, "acos", "backward", "inf"),
        (lambda x: torch.exp(x).sum(), ZERO + 1e3, "exp", "forward", "inf"),
        (lambda x: torch.sqrt(x).sum(), ZERO - 1, "sqrt", "forward", "nan"),
        (lambda x: (1 / (1 - torch.sigmoid(x))).sum(), ZERO + 99, "div", "forward", "inf"),
    ],
)
def test_the_producer_is_named(examination, loss, x, operation, phase, produced):
    found = culprit_of(examination, loss, x)
    assert (found.operation, found.phase, found.produced) == (operation, phase, produced)
    assert found.location is not None
    assert mend(found)


def test_the_square_root_is_named_and_not_the_multiplication_after_it(examination, marked):
    def loss(x):
        squares = x * x
        root = torch.sqrt(squares)  # <-- here
        return root.mean()

    found = culprit_of(examination, loss, ZERO)
    assert found.location.line == marked(loss)
    if sys.version_info >= (3, 11):  # before, there are no columns to read the expression at
        assert found.text == "torch.sqrt(squares)"


def test_a_mask_hides_it_in_the_forward_pass_only(examination, marked):
    def loss(x):
        logs = torch.log(x)  # <-- here
        return torch.where(x > 0, logs, torch.zeros_like(x)).sum()

    found = culprit_of(examination, loss, ZERO)
    assert found.location.line == marked(loss)


def test_an_infinity_that_was_asked_for_is_no_fault(examination):
    def loss(x):
        return torch.softmax(x.masked_fill(torch.tensor([True, False, False]), -math.inf), 0)[1]

    assert culprit_of(examination, loss, torch.ones(3)) is None


def test_what_ordinary_inputs_do_too_is_innocent(examination):
    def loss(x, mask):
        return torch.logsumexp(x + torch.log(mask), 0) + torch.log(x[0])

    mask = torch.tensor([1.0, 0.0, 1.0])
    case = examination(loss, torch.ones(3).requires_grad_(), mask)
    innocent = innocent_marks(case)
    assert innocent
    assert find_culprit(case, (torch.ones(3), mask), innocent=innocent) is None


def test_lines_of_a_module_s_own_methods(examination, marked):
    class Loss(nn.Module):
        def length(self, x):
            return x.pow(2).sum(-1).sqrt()  # <-- here

        def forward(self, x):
            return self.length(x).mean()

    found = culprit_of(examination, Loss(), torch.zeros(2, 3))
    assert found.location.line == marked(Loss)


def test_a_handwritten_backward_is_looked_into(examination, marked):
    class Handwritten(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.abs().sum()

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return grad_output * x / x.abs()  # <-- here

    found = culprit_of(examination, Handwritten, ZERO)
    assert found.location.line == marked(Handwritten)
    assert found.phase == "backward"


def test_the_type_decides(examination):
    def loss(x):
        return torch.log(torch.exp(x).sum())

    x = torch.full((3,), 100.0)
    assert culprit_of(examination, loss, x).operation == "exp"
    assert culprit_of(examination, loss, x, dtype=torch.float64) is None


def test_finite_means_value_and_gradients(examination):
    case = examination(lambda x: x.sqrt().sum(), torch.ones(2).requires_grad_())
    assert is_finite(case.evaluate((torch.ones(2),)))
    assert not is_finite(case.evaluate((torch.zeros(2),)))
    assert not is_finite(case.evaluate((-torch.ones(2),)))


@pytest.mark.parametrize(
    ("loss", "x", "piece"),
    [
        (lambda x: torch.log(torch.softmax(x, 0)).sum(), torch.tensor([0.0, 200.0]), "log_softmax"),
        (lambda x: torch.log(torch.sigmoid(x)).sum(), torch.full((2,), -200.0), "logsigmoid(x)"),
        (lambda x: torch.log(1 - torch.sigmoid(x)).sum(), torch.full((2,), 50.0), "logsigmoid(-x)"),
        (lambda x: torch.log(1 - torch.softmax(x, 0)[0]), torch.tensor([50.0, 0.0]), "logsumexp"),
        (lambda x: torch.log(torch.exp(x).sum()), torch.full((2,), -200.0), "logsumexp"),
        (lambda x: torch.log(torch.cosh(x)).sum(), torch.full((2,), 200.0), "logsumexp"),
        (lambda x: torch.log(x).sum(), torch.zeros(2), "xlogy"),
        (lambda x: torch.acos(x).sum(), torch.ones(2), "clamp(-1 + eps, 1 - eps)"),
        (lambda x: (x * x).sum(), torch.full((2,), 1e30), "float()"),
        (lambda x: (x**0.5).sum(), -torch.ones(2), "clamp_min(0)"),
    ],
)
def test_the_mend_fits_what_the_operation_was_given(examination, loss, x, piece):
    case = examination(loss, torch.full_like(x, 0.5).requires_grad_())
    assert piece in mend(find_culprit(case, (x,)))
