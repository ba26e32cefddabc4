"""LP203 grad-output-ignored: the ways to misuse `grad_output`, the line, the mend, the page."""

import pytest
import torch
from torch import nn
from torch.autograd import Function

from lossproof.checks.report import Status


def real(*shape):
    return torch.randn(*shape, requires_grad=True)


class Base(Function):
    """A squared error per row; a subclass says how backward uses `grad_output`."""

    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).sum(dim=1)


class Ignores(Base):
    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = 2 * (input - target)
        return grad, -grad  # <-- here


class IgnoresForOne(Base):
    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = 2 * (input - target)
        return grad_output[:, None] * grad, -grad  # <-- here


class UsesTheMean(Base):
    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = grad_output.mean() * 2 * (input - target)  # <-- here
        return grad, -grad


class UsesTheSum(Base):
    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = grad_output.sum() * 2 * (input - target)  # <-- here
        return grad, -grad


class Squares(Base):
    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = grad_output[:, None] ** 2 * 2 * (input - target)  # <-- here
        return grad, -grad


class Divides(Base):
    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = 2 * (input - target) / grad_output[:, None]  # <-- here
        return grad, -grad


CAUSES = {
    Ignores: "grad-output-ignored",
    IgnoresForOne: "grad-output-ignored",
    UsesTheMean: "grad-output-reduced",
    UsesTheSum: "grad-output-reduced",
    Squares: "grad-output-twice",
    Divides: "grad-output-inverted",
}


@pytest.mark.parametrize("loss", CAUSES, ids=lambda loss: loss.__name__)
def test_a_misuse_is_named(found, silent, loss):
    inputs = real(6, 4), real(6, 4)
    (finding,) = found("LP203", loss, *inputs)
    assert finding.cause == CAUSES[loss]
    # One fault, one finding: everything else is right.
    silent("LP202", loss, *inputs)
    silent("LP206", loss, *inputs)


@pytest.mark.parametrize(
    "loss", [IgnoresForOne, UsesTheMean, UsesTheSum, Squares, Divides], ids=lambda c: c.__name__
)
def test_the_line(found, lines_of, marked, loss):
    findings = found("LP203", loss, real(6, 4), real(6, 4))
    assert lines_of(findings) == [marked(loss)]


def test_which_input_is_said(found):
    (finding,) = found("LP203", IgnoresForOne, real(6, 4), real(6, 4))
    assert "in the gradient of `target`" in finding.message


def test_the_words_mean_and_sum(found):
    (mean,) = found("LP203", UsesTheMean, real(6, 4), real(6, 4))
    (total,) = found("LP203", UsesTheSum, real(6, 4), real(6, 4))
    assert "the mean of `grad_output`" in mean.message
    assert "the sum of `grad_output`" in total.message


def test_inside_a_module(found):
    class Wrapped(nn.Module):
        def forward(self, input, target):
            return 0.5 * Ignores.apply(input, target).mean()

    (finding,) = found("LP203", Wrapped(), real(6, 4), torch.randn(6, 4))
    assert "`Ignores`" in finding.message
    assert any("is applied here" in why for why, _ in finding.related)


def test_a_gradient_made_in_forward(found):
    class Chunked(Function):
        @staticmethod
        def forward(ctx, input):
            copy = input.detach().requires_grad_()
            with torch.enable_grad():
                value = copy.exp().sum()
                (grad,) = torch.autograd.grad(value, copy)
            ctx.save_for_backward(grad)
            return value.detach()

        @staticmethod
        def backward(ctx, grad_output):
            return ctx.saved_tensors[0]

    (finding,) = found("LP203", Chunked, real(6, 4))
    assert finding.cause == "grad-output-ignored"
    assert finding.help == "multiply each gradient that backward returns by `grad_output`" or (
        "grad_output" in finding.help
    )


def test_the_page(found, silent, page_code, module_of):
    wrong = module_of("import torch\n\n" + page_code("LP203", "Example"), "wrong")
    right = module_of("import torch\n\n" + page_code("LP203", "Use instead"), "right")
    inputs = real(6, 4), torch.randn(6, 4)
    (finding,) = found("LP203", wrong.MSE, *inputs)
    assert finding.cause == "grad-output-ignored"
    assert silent("LP203", right.MSE, *inputs) is Status.PROVED


def test_a_loss_without_gradient_is_not_applicable(silent):
    assert silent("LP203", lambda x: x.argmax(), real(4)) is Status.NOT_APPLICABLE


def test_a_loss_of_torch_operations_is_proved(silent):
    assert silent("LP203", nn.CrossEntropyLoss(), real(6, 4), torch.randint(0, 4, (6,))) is (
        Status.PROVED
    )
