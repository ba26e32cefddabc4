"""LP207 function-misuse: each misuse with its line, what is left to other rules, the page."""

import pytest
import torch
from torch import nn
from torch.autograd import Function

from lossproof.checks.report import Severity, Status


def real(*shape):
    return torch.randn(*shape, requires_grad=True)


class NoBackward(Function):  # <-- here
    @staticmethod
    def forward(ctx, x):
        return (x**2).sum()


class NoContext(Function):
    @staticmethod
    def forward(x):  # <-- here
        return (x**2).sum()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output


class ContextAndSetup(Function):
    @staticmethod
    def forward(ctx, x):  # <-- here
        return (x**2).sum()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        return 2 * grad_output * ctx.saved_tensors[0]


class TooFew(Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return scale * (x**2).sum()

    @staticmethod
    def backward(ctx, grad_output):
        return 2 * ctx.scale * grad_output * ctx.saved_tensors[0]  # <-- here


class TooMany(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x**2).sum()

    @staticmethod
    def backward(ctx, grad_output):
        return 2 * grad_output * ctx.saved_tensors[0], grad_output  # <-- here


class WrongShape(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x**2).sum()

    @staticmethod
    def backward(ctx, grad_output):
        return 2 * grad_output * ctx.saved_tensors[0][0, :2]  # <-- here


class WrongType(Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum()

    @staticmethod
    def backward(ctx, grad_output):
        return 1.0  # <-- here


class Raises(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x**2).sum()

    @staticmethod
    def backward(ctx, grad_output):
        return 2 * ctx.scale * grad_output * ctx.saved_tensors[0]  # <-- here


class ReturnsNumber(Function):
    @staticmethod
    def forward(ctx, x):
        return x.pow(2).sum().item()  # <-- here

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output


class KeepsItsOutput(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.result = torch.exp(x)  # <-- here
        return ctx.result

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.result


MISUSES = {
    NoBackward: "no-backward",
    NoContext: "missing-ctx",
    ContextAndSetup: "extra-ctx",
    TooMany: "gradient-count",
    WrongShape: "gradient-shape",
    WrongType: "gradient-type",
    Raises: "backward-raises",
    ReturnsNumber: "no-tensor-returned",
    KeepsItsOutput: "output-on-ctx",
}


@pytest.mark.parametrize("loss", MISUSES, ids=lambda loss: loss.__name__)
def test_a_misuse_is_found_with_its_line(found, marked, loss):
    (finding,) = found("LP207", lambda x: loss.apply(x), real(3, 4))
    assert finding.cause == MISUSES[loss]
    assert finding.location.line == marked(loss)
    assert loss.__name__ in finding.message


def test_too_few_gradients_are_completed(found, marked):
    (finding,) = found("LP207", lambda x: TooFew.apply(x, 0.5), real(3, 4))
    assert finding.cause == "gradient-count"
    assert finding.location.line == marked(TooFew)
    assert finding.evidence == {"returned": 1, "arguments": 2}
    assert finding.help == "`return 2 * ctx.scale * grad_output * ctx.saved_tensors[0], None`"


def test_an_instance_is_called(found):
    class Legacy(Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output

    (finding,) = found("LP207", lambda x: Legacy()(x), real(3))
    assert finding.cause == "instantiated"
    assert "apply" in finding.help


def test_an_output_kept_is_a_warning(found):
    (finding,) = found("LP207", KeepsItsOutput, real(3, 4))
    assert finding.severity is Severity.WARNING


def test_inputs_kept_as_attributes_are_no_misuse(silent):
    class KeepsItsInput(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.x = x
            return (x**2).sum()

        @staticmethod
        def backward(ctx, grad_output):
            return 2 * grad_output * ctx.x

    assert silent("LP207", KeepsItsInput, real(3, 4)) is Status.PROVED


def test_trailing_none_is_no_misuse(silent):
    class Generous(Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output.expand(3, 4), None, None

    assert silent("LP207", Generous, real(3, 4)) is Status.PROVED


def test_a_gradient_that_broadcasts_is_no_misuse(silent):
    class Summed(Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return (x * w).sum()

        @staticmethod
        def backward(ctx, grad_output):
            x, w = ctx.saved_tensors
            return grad_output * w.expand_as(x), grad_output * x

    assert silent("LP207", Summed, real(3, 4), real(4)) is Status.PROVED


def test_a_loss_without_a_function_is_not_applicable(silent):
    assert silent("LP207", nn.MSELoss(), real(6, 4), torch.randn(6, 4)) is Status.NOT_APPLICABLE


def test_an_error_of_the_loss_outside_of_a_function_is_not_its_business(silent):
    class Square(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x**2).sum()

        @staticmethod
        def backward(ctx, grad_output):
            return 2 * grad_output * ctx.saved_tensors[0]

    def loss(x):
        return Square.apply(x) / {}["scale"]

    silent("LP207", loss, real(3))


def test_the_page(found, silent, page_code, module_of):
    wrong = module_of("import torch\n\n" + page_code("LP207", "Example"), "wrong")
    right = module_of("import torch\n\n" + page_code("LP207", "Use instead"), "right")
    inputs = real(6, 4), torch.randn(6, 4), 0.5
    (finding,) = found("LP207", wrong.WeightedL2, *inputs)
    assert finding.cause == "gradient-count"
    assert silent("LP207", right.WeightedL2, *inputs) is Status.PROVED
