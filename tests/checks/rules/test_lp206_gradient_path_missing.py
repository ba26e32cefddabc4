"""LP206 gradient-path-missing: the forward line, the weight, two paths, the page."""

import pytest
import torch
from torch import nn
from torch.autograd import Function

from lossproof.checks.report import Status


def real(*shape):
    return torch.randn(*shape, requires_grad=True)


class Cosine(Function):
    """One minus the cosine; a subclass says what backward does."""

    @staticmethod
    def forward(ctx, p, t):
        p_norm = p.pow(2).sum(-1, keepdim=True).sqrt()  # <-- here
        t_norm = t.pow(2).sum(-1, keepdim=True).sqrt()
        a, b = p / p_norm, t / t_norm
        ctx.save_for_backward(a, b, p_norm)
        return 1 - (a * b).sum(-1)


class NormIsConstant(Cosine):
    @staticmethod
    def backward(ctx, grad_output):
        _, b, p_norm = ctx.saved_tensors
        return -grad_output.unsqueeze(-1) * b / p_norm, None


class NormHasTheWrongSign(Cosine):
    @staticmethod
    def backward(ctx, grad_output):
        a, b, p_norm = ctx.saved_tensors
        c = (a * b).sum(-1, keepdim=True)
        return -grad_output.unsqueeze(-1) * (b + c * a) / p_norm, None


class NormIsHalved(Cosine):
    @staticmethod
    def backward(ctx, grad_output):
        a, b, p_norm = ctx.saved_tensors
        c = (a * b).sum(-1, keepdim=True)
        return -grad_output.unsqueeze(-1) * (b - 0.5 * c * a) / p_norm, None


@pytest.mark.parametrize(
    ("loss", "cause", "weight"),
    [
        (NormIsConstant, "missing-path", 0),
        (NormHasTheWrongSign, "path-sign", -1),
        (NormIsHalved, "path-weight", 0.5),
    ],
)
def test_the_line_of_forward(found, silent, marked, loss, cause, weight):
    inputs = real(6, 4), torch.randn(6, 4)
    (finding,) = found("LP206", loss, *inputs)
    assert finding.cause == cause
    assert finding.evidence["weight"] == weight
    assert "`p_norm`" in finding.message
    assert finding.location.line == marked(Cosine.forward)
    assert finding.related[0][0] == "backward"
    silent("LP202", loss, *inputs)


def test_one_use_of_a_value(found):
    """`w` is used twice; only one use is differentiated."""

    class Twice(Function):
        @staticmethod
        def forward(ctx, w, x):
            ctx.save_for_backward(w, x)
            score = w * x
            penalty = w.pow(2).sum(dim=1)
            return score.sum(dim=1) + penalty

        @staticmethod
        def backward(ctx, grad_output):
            _, x = ctx.saved_tensors
            return grad_output.unsqueeze(1) * x, None

    (finding,) = found("LP206", Twice, real(6, 4), torch.randn(6, 4))
    assert "`penalty`" in finding.message
    assert finding.location.source.strip() == "penalty = w.pow(2).sum(dim=1)"


def test_two_paths(found):
    class Three(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            a = x.sin()
            b = x.exp()
            c = x**3
            return (a + b + c).sum()

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return grad_output * (x.cos() - 3 * x**2)

    (finding,) = found("LP206", Three, real(6, 4))
    assert "`b` as a constant" in finding.message
    assert "`c` has the wrong sign" in finding.message


def test_a_right_backward_is_proved(silent):
    class Right(Cosine):
        @staticmethod
        def backward(ctx, grad_output):
            a, b, p_norm = ctx.saved_tensors
            c = (a * b).sum(-1, keepdim=True)
            return -grad_output.unsqueeze(-1) * (b - c * a) / p_norm, None

    assert silent("LP206", Right, real(6, 4), torch.randn(6, 4)) is Status.PROVED


def test_a_loss_without_a_function_is_not_applicable(silent):
    assert silent("LP206", nn.MSELoss(), real(6, 4), torch.randn(6, 4)) is Status.NOT_APPLICABLE


def test_the_page(found, silent, page_code, module_of):
    wrong = module_of("import torch\n\n" + page_code("LP206", "Example"), "wrong")
    right = module_of("import torch\n\n" + page_code("LP206", "Use instead"), "right")
    inputs = torch.rand(12, requires_grad=True), torch.rand(12)
    (finding,) = found("LP206", wrong.Dice, *inputs)
    assert finding.cause == "missing-path"
    assert "size" in finding.message
    assert silent("LP206", right.Dice, *inputs) is Status.PROVED
