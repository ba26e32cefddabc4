"""LP205 wrong-double-backward: what is silently wrong, what is loud, the page."""

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lossproof.checks.report import Severity, Status


def real(*shape):
    return torch.randn(*shape, requires_grad=True)


class SavedIntermediate(Function):
    @staticmethod
    def forward(ctx, x):
        y = x * torch.exp(x)
        ctx.save_for_backward(x, y)  # <-- here
        return y.sum()

    @staticmethod
    def backward(ctx, grad_output):
        x, y = ctx.saved_tensors
        return grad_output * (torch.exp(x) + y)


class Detached(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x * torch.exp(x)).sum()

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * (1 + x.detach()) * torch.exp(x)  # <-- here


class SavedInputs(Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return torch.log(torch.cosh(input - target)).sum()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        slope = torch.tanh(input - target) * grad_output
        return slope, -slope


class NoGraph(Function):
    @staticmethod
    def forward(ctx, x):
        slope = 3 * x**2
        ctx.save_for_backward(slope)
        return (x**3).sum()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.saved_tensors[0]


class Once(SavedIntermediate):
    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        x, y = ctx.saved_tensors
        return grad_output * (torch.exp(x) + y)


@pytest.mark.parametrize(
    ("loss", "cause"), [(SavedIntermediate, "saved-intermediate"), (Detached, "detached")]
)
def test_a_constant_in_backward_is_found(found, marked, loss, cause):
    (finding,) = found("LP205", loss, real(6, 4))
    assert finding.cause == cause
    assert finding.severity is Severity.WARNING
    assert finding.location.line == marked(loss)
    assert finding.evidence["relative error"] > 0.01


def test_the_claim_is_true():
    """What the finding says is what torch does: the Hessian is wrong, without an error."""
    x = real(5).double().detach().requires_grad_()
    v = torch.randn(5, dtype=torch.float64)

    def second(loss):
        (grad,) = torch.autograd.grad(loss(x), x, create_graph=True)
        return torch.autograd.grad((grad * v).sum(), x)[0]

    right = second(lambda x: (x * torch.exp(x)).sum())
    assert not torch.allclose(second(SavedIntermediate.apply), right)
    assert torch.allclose(
        second(SavedInputs.apply.__self__ and (lambda x: (x * x.exp()).sum())), right
    )


def test_a_right_second_derivative_is_proved(silent):
    assert silent("LP205", SavedInputs, real(6, 4), real(6, 4)) is Status.PROVED


@pytest.mark.parametrize("loss", [NoGraph, Once])
def test_what_raises_is_not_silent(silent, loss):
    assert silent("LP205", loss, real(6, 4)) is Status.NOT_APPLICABLE


def test_a_wrong_first_derivative_comes_first(silent):
    class Wrong(SavedIntermediate):
        @staticmethod
        def backward(ctx, grad_output):
            x, y = ctx.saved_tensors
            return grad_output * (torch.exp(x) + 2 * y)

    assert silent("LP205", Wrong, real(6, 4)) is Status.NOT_APPLICABLE


def test_a_loss_without_a_function_is_not_applicable(silent):
    assert silent("LP205", nn.MSELoss(), real(6, 4), torch.randn(6, 4)) is Status.NOT_APPLICABLE


def test_the_page(found, silent, page_code, module_of):
    wrong = module_of("import torch\n\n" + page_code("LP205", "Example"), "wrong")
    right = module_of("import torch\n\n" + page_code("LP205", "Use instead"), "right")
    (finding,) = found("LP205", wrong.Entropy, real(6, 4))
    assert "once_differentiable" in finding.help
    assert silent("LP205", right.Entropy, real(6, 4)) is Status.PROVED
