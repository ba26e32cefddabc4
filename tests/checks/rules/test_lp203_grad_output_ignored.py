"""LP203 grad-output-ignored: the ways to misuse `grad_output`, the line, the mend, the page."""

import pytest
import torch
from torch import nn
from torch.autograd import Function

import lossproof
from lossproof.checks.report import Severity, Status


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


# ---------------------------------------------------------------------- the loss as a whole
class HeadInForward(Function):
    """The design of a tiled loss: ``backward`` runs in forward and fills the head's ``.grad``."""

    @staticmethod
    def forward(ctx, loss_of, head, hidden, target, shards):
        total, gradients = 0.0, []
        for part, labels in zip(hidden.chunk(shards), target.chunk(shards), strict=True):
            rows = part.detach().requires_grad_()
            with torch.enable_grad():
                value = loss_of(head(rows), labels) / shards
            value.backward()
            gradients.append(rows.grad)
            total = total + value.detach()
        ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    def backward(ctx, grad_output):
        return None, None, ctx.saved_tensors[0] * grad_output, None, None


class TiledLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, hidden, target):
        loss = nn.functional.cross_entropy
        return HeadInForward.apply(loss, self.head, hidden, target, 2)


def rows_and_classes(rows=8, features=6, classes=5):
    return real(rows, features), torch.randint(classes, (rows,))


def test_a_head_whose_gradient_no_factor_reaches(found):
    (finding,) = found("LP203", TiledLoss(), *rows_and_classes())
    assert finding.cause == "written-in-forward"
    assert "`self.head.weight` and `self.head.bias`" in finding.message
    assert finding.location.function.endswith("forward")
    assert "value.backward()" in finding.location.source
    assert finding.evidence["gradient of hidden"] == pytest.approx(2.0**16)
    assert finding.evidence["gradient of self.head.weight"] == pytest.approx(1.0)
    assert "grad_output * gradient" in finding.help


def test_the_other_rules_point_to_it(verdicts):
    inputs = rows_and_classes()
    for code in ("LP201", "LP202"):
        said = verdicts(code, TiledLoss(), *inputs)
        about_the_head = [one for one in said if "self.head.weight" in one.detail]
        assert about_the_head
        assert all("LP203" in one.detail for one in about_the_head)


def test_what_is_scaled_in_place(found):
    class InPlace(Function):
        @staticmethod
        def forward(ctx, input, target):
            ctx.gradient = 2 * (input - target)
            return ((input - target) ** 2).sum()

        @staticmethod
        def backward(ctx, grad_output):
            return ctx.gradient.mul_(grad_output), None

    (finding,) = found("LP203", InPlace, real(6, 4), torch.randn(6, 4))
    assert finding.cause == "scaled-in-place"
    assert "9 times for `input` the second time" in finding.notes[0]
    assert "mul_" in finding.help


def test_a_clipped_factor(found):
    """Right for every factor that one Function is asked for alone."""

    class Clips(Function):
        @staticmethod
        def forward(ctx, input, target):
            ctx.save_for_backward(2 * (input - target))
            return ((input - target) ** 2).sum()

        @staticmethod
        def backward(ctx, grad_output):
            return ctx.saved_tensors[0] * grad_output.clamp(max=100.0), None

    (finding,) = found("LP203", Clips, real(6, 4), torch.randn(6, 4))
    assert finding.cause == "not-proportional"
    assert finding.evidence["gradient of input"] == pytest.approx(100.0)


def test_a_gradient_kept_in_forward_is_a_warning(found, silent):
    class Kept(Function):
        @staticmethod
        def forward(ctx, input):
            ctx.save_for_backward(input.exp())
            return input.exp().sum()

        @staticmethod
        def backward(ctx, grad_output):
            return ctx.saved_tensors[0] * grad_output

    class Marked(Kept):
        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad_output):
            return ctx.saved_tensors[0] * grad_output

    (finding,) = found("LP203", Kept, real(6))
    assert (finding.cause, finding.severity) == ("constant-gradient", Severity.WARNING)
    assert "once_differentiable" in finding.help
    # The mend that is shown.
    assert silent("LP203", Marked, real(6)) is Status.PROVED


def chunked_cross_entropy(**options):
    options_of = getattr(nn, "LinearCrossEntropyOptions", None)
    if options_of is None:
        pytest.skip("this torch has no chunked cross entropy")

    def loss(input, weight, target):
        return nn.functional.linear_cross_entropy(
            input, weight, target, options=options_of(**options)
        )

    return loss, (real(8, 6), real(50, 6), torch.randint(50, (8,)))


def test_torchs_chunked_cross_entropy(found):
    loss, inputs = chunked_cross_entropy(allow_retain_graph=True)
    (finding,) = found("LP203", loss, *inputs)
    assert finding.cause == "constant-gradient"
    assert finding.message.startswith("the gradient of `linear_cross_entropy` is a constant")
    assert finding.evidence["relative error"] > 0.1
    assert finding.location.function.endswith("loss")
    assert "lossproof.chunk" in finding.help


def test_torchs_chunked_cross_entropy_that_refuses_a_second_pass(verdicts):
    loss, inputs = chunked_cross_entropy()
    (said,) = verdicts("LP203", loss, *inputs)
    assert said.status is Status.PROVED
    assert "a second backward pass raises" in said.detail


def test_ligers_chunked_loss(found):
    chunked_loss = pytest.importorskip("liger_kernel.chunked_loss")
    orpo = chunked_loss.LigerFusedLinearORPOLoss(compiled=False)

    def loss(hidden, weight, target):
        return orpo(weight, hidden, target)[0]

    inputs = real(4, 3, 6), real(50, 6), torch.randint(50, (4, 3))
    (finding,) = found("LP203", loss, *inputs)
    assert finding.cause == "constant-gradient"
    assert "`LigerFusedLinearORPOFunction`" in finding.message
    assert finding.location.file == __file__


def test_ligers_distillation_within_torch_func(found):
    chunked_loss = pytest.importorskip("liger_kernel.chunked_loss")
    distilled = chunked_loss.LigerFusedLinearJSDLoss(compiled=False)

    def loss(hidden, weight, teacher, teacher_weight, target):
        return distilled(hidden, weight, teacher, teacher_weight, target)

    rows = real(8, 6), real(50, 6), torch.randn(8, 6), torch.randn(50, 6)
    (finding,) = found("LP203", loss, *rows, torch.randint(50, (8,)))
    assert finding.cause == "constant-gradient"


def test_lossproofs_own_chunked_loss_is_right(silent):
    loss = lossproof.chunk(nn.functional.cross_entropy, nn.Linear(6, 5), chunk_size=3)
    assert silent("LP203", loss, *rows_and_classes()) is Status.PROVED
