"""Right backwards in every style must be acquitted, surrogates left alone, wrong ones convicted."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lossproof.checks.causes import examine_functions
from lossproof.checks.report import Outcome, Severity, Status
from lossproof.checks.rules import RULES

GRADIENT_RULES = ("LP202", "LP203", "LP205", "LP206", "LP207")


def real(*shape):
    return torch.randn(*shape, requires_grad=True)


def plain(*shape):
    return torch.randn(*shape)


def positive(*shape):
    return (torch.rand(*shape) + 0.5).requires_grad_()


RIGHT = {}
SURROGATE = {}
WRONG = {}


def kept(collection, *inputs):
    """Keep a loss with a function that makes its inputs."""

    def keep(loss):
        collection[loss.__name__] = (loss, lambda: tuple(make() for make in inputs))
        return loss

    return keep


def two():
    return (lambda: real(6, 4)), (lambda: real(6, 4))


# ---------------------------------------------------------------------- right
@kept(RIGHT, *two())
class SavedInputs(Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = grad_output * 2 * (input - target) / input.numel()
        return grad, -grad


@kept(RIGHT, *two())
class SavedResidual(Function):
    """Keeps what forward computed, so it has no second derivative, and says nothing of it."""

    @staticmethod
    def forward(ctx, input, target):
        residual = input - target
        ctx.save_for_backward(residual)
        return residual.abs().sum()

    @staticmethod
    def backward(ctx, grad_output):
        (residual,) = ctx.saved_tensors
        return grad_output * residual.sign(), -grad_output * residual.sign()


@kept(RIGHT, lambda: real(6, 4), lambda: plain(6, 4))
class OnlyWhatIsNeeded(Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return (input * target.cos()).sum(dim=1)

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad_input = grad_target = None
        if ctx.needs_input_grad[0]:
            grad_input = grad_output.unsqueeze(1) * target.cos()
        if ctx.needs_input_grad[1]:
            grad_target = -grad_output.unsqueeze(1) * input * target.sin()
        return grad_input, grad_target


@kept(RIGHT, *two())
class SetupContext(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input, target):
        return torch.log(torch.cosh(input - target)).mean()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        slope = torch.tanh(input - target) * grad_output / input.numel()
        return slope, -slope


@kept(RIGHT, lambda: real(5, 3))
class InPlaceMarkedDirty(Function):
    @staticmethod
    def forward(ctx, input):
        input.mul_(3.0)
        ctx.mark_dirty(input)
        return input

    @staticmethod
    def backward(ctx, grad_output):
        return 3.0 * grad_output


@kept(RIGHT, *two())
class InPlaceInside(Function):
    @staticmethod
    def forward(ctx, input, target):
        total = input.clone()
        total.sub_(target).pow_(2)
        ctx.save_for_backward(input, target)
        return total.sum()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = 2 * (input - target)
        grad.mul_(grad_output)
        return grad, -grad


@kept(RIGHT, lambda: real(6, 4))
class GradientSavedAndScaledInPlace(Function):
    """As fused losses do: the gradient is made in forward, and backward scales it where it lies."""

    @staticmethod
    def forward(ctx, logits):
        probability = torch.softmax(logits, 1)
        grad = probability.clone()
        grad[:, 0] -= 1
        ctx.save_for_backward(grad)
        return -torch.log(probability[:, 0]).sum()

    @staticmethod
    def backward(ctx, grad_output):
        (grad,) = ctx.saved_tensors
        grad.mul_(grad_output)
        return grad


@kept(RIGHT, lambda: real(10, 6), lambda: real(7, 6), lambda: torch.randint(0, 7, (10,)))
class GradientTakenInForward(Function):
    @staticmethod
    def forward(ctx, hidden, weight, target):
        grads = torch.zeros_like(hidden), torch.zeros_like(weight)
        total = hidden.new_zeros(())
        for rows in (slice(0, 5), slice(5, 10)):
            h = hidden[rows].detach().requires_grad_(True)
            w = weight.detach().requires_grad_(True)
            with torch.enable_grad():
                part = nn.functional.cross_entropy(h @ w.T, target[rows], reduction="sum")
                grad_h, grad_w = torch.autograd.grad(part, (h, w))
            grads[0][rows] = grad_h
            grads[1].add_(grad_w)
            total += part.detach()
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx, grad_output):
        grad_h, grad_w = ctx.saved_tensors
        return grad_h * grad_output, grad_w * grad_output, None


@kept(RIGHT, lambda: real(6, 4))
class BackwardInForward(Function):
    @staticmethod
    def forward(ctx, input):
        inner = input.detach().requires_grad_()
        with torch.enable_grad():
            value = (inner**3).sum()
            value.backward()
        ctx.save_for_backward(inner.grad)
        return value.detach()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.saved_tensors[0]


@kept(RIGHT, *two())
class TwoOutputs(Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        hits = (input > target).sum()
        ctx.mark_non_differentiable(hits)
        return (input * target).sum(), input.exp(), hits

    @staticmethod
    def backward(ctx, grad_product, grad_exp, grad_hits):
        input, target = ctx.saved_tensors
        return grad_product * target + grad_exp * input.exp(), grad_product * input


class SecondOutputIgnored(Function):
    """Returns a number for the log besides the loss, and does not differentiate it."""

    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        return input.pow(2).sum(), input.abs().mean()

    @staticmethod
    def backward(ctx, grad_loss, grad_logged):
        (input,) = ctx.saved_tensors
        return grad_loss * 2 * input


@kept(RIGHT, lambda: real(6, 4))
def only_the_first_output_is_used(input):
    return SecondOutputIgnored.apply(input)[0]


@kept(RIGHT, lambda: real(6, 4), lambda: positive(4))
class BroadcastSummedByTorch(Function):
    @staticmethod
    def forward(ctx, input, weight):
        ctx.save_for_backward(input, weight)
        return (input**2 * weight).sum()

    @staticmethod
    def backward(ctx, grad_output):
        input, weight = ctx.saved_tensors
        return grad_output * 2 * input * weight, grad_output * input**2


@kept(RIGHT, lambda: real(6, 4))
class Inner(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.saved_tensors[0].exp()


@kept(RIGHT, lambda: real(6, 4))
class Nested(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return Inner.apply(x).sum()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.saved_tensors[0].exp()


@kept(RIGHT, lambda: real(4, 5))
class Bisection(Function):
    """The threshold of a sparse projection: right, but no differentiable code."""

    @staticmethod
    def forward(ctx, x):
        low = x.amax(1, keepdim=True) - 1
        high = x.amax(1, keepdim=True)
        for _ in range(60):
            middle = (low + high) / 2
            above = torch.relu(x - middle).sum(1, keepdim=True) > 1
            low = torch.where(above, middle, low)
            high = torch.where(above, high, middle)
        projected = torch.relu(x - low)
        ctx.save_for_backward(projected)
        return projected

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        support = (ctx.saved_tensors[0] > 0).to(grad_output.dtype)
        mean = (grad_output * support).sum(1, keepdim=True) / support.sum(1, keepdim=True)
        return support * (grad_output - mean)


@kept(RIGHT, lambda: real(6, 4))
class InNumpy(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.as_tensor(np.log(np.cosh(x.detach().numpy())).sum())

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * torch.tanh(ctx.saved_tensors[0])


@kept(RIGHT, lambda: real(6, 4))
class ComputedInHalf(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin().sum()

    @staticmethod
    def backward(ctx, grad_output):
        rounded = ctx.saved_tensors[0].cos().numpy().astype("float16")
        return grad_output * torch.as_tensor(rounded)


@kept(RIGHT, lambda: real(6, 4))
class CastsToFloat(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.logsumexp(x.float(), 1).sum().to(x.dtype)

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return (grad_output.float() * torch.softmax(x.float(), 1)).to(x.dtype)


@kept(RIGHT, lambda: real(6, 4))
class Random(Function):
    @staticmethod
    def forward(ctx, x):
        mask = (torch.rand_like(x) > 0.3).to(x.dtype)
        ctx.save_for_backward(mask)
        return (x * mask).sum()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.saved_tensors[0]


@kept(RIGHT, lambda: real(6, 4))
class WithoutMaterialisedGradients(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x.sum(), (x**2).sum()

    @staticmethod
    def backward(ctx, grad_sum, grad_square):
        (x,) = ctx.saved_tensors
        found = torch.zeros_like(x)
        if grad_sum is not None:
            found = found + grad_sum
        if grad_square is not None:
            found = found + grad_square * 2 * x
        return found


class KeepsNothing(nn.Module):
    """A module around a Function with its own parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, input, target):
        return SavedInputs.apply(self.scale * input, target)


MADE_IN_FORWARD = (
    "GradientSavedAndScaledInPlace", "GradientTakenInForward", "BackwardInForward"
)  # fmt: skip
"""Right, but constant where the gradient is differentiated: a warning of LP203."""

RIGHT["a_module_with_a_parameter"] = (KeepsNothing(), lambda: (real(6, 4), plain(6, 4)))


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("code", GRADIENT_RULES)
def test_a_right_backward_has_no_finding(found, silent, code, name):
    loss, inputs = RIGHT[name]
    if code == "LP203" and name in MADE_IN_FORWARD:
        (finding,) = found(code, loss, *inputs())
        assert finding.cause == "constant-gradient"
        assert finding.severity is Severity.WARNING
    else:
        silent(code, loss, *inputs())


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_backward_is_proved(verdicts, name):
    loss, inputs = RIGHT[name]
    said = verdicts("LP202", loss, *inputs())
    assert any(verdict.status is Status.PROVED for verdict in said), said
    assert not any("differs" in verdict.detail for verdict in said), said


def test_a_right_backward_is_right_at_a_million_elements(examination):
    case = examination(SavedInputs, real(1000, 1000), plain(1000, 1000))
    (diagnosis,) = examine_functions(case)
    assert diagnosis.verdict.status == "proved"


def test_rounding_inside_a_backward_is_told_and_is_no_finding(verdicts):
    loss, inputs = RIGHT["ComputedInHalf"]
    said = verdicts("LP202", loss, *inputs())
    assert "only: it computes in float32 or narrower" in said[0].detail


# ---------------------------------------------------------------------- wrong on purpose
@kept(SURROGATE, lambda: real(6, 4))
class Rounded(Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output


@kept(SURROGATE, lambda: real(6, 4))
class Spike(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output / (1 + 10 * ctx.saved_tensors[0].abs()) ** 2


@kept(SURROGATE, lambda: real(6, 4))
class Reversed(Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad_output):
        return -0.5 * grad_output


@kept(SURROGATE, lambda: real(6, 4))
class Clipped(Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.clamp(-0.6, 0.6)


@kept(SURROGATE, lambda: real(6, 4))
class ClampedWithGradient(Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(-0.5, 0.5)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output


@pytest.mark.parametrize("name", SURROGATE)
@pytest.mark.parametrize("code", GRADIENT_RULES)
def test_a_surrogate_gradient_is_no_finding(silent, code, name):
    loss, inputs = SURROGATE[name]
    silent(code, loss, *inputs())


@pytest.mark.parametrize("name", SURROGATE)
def test_a_surrogate_gradient_is_told(verdicts, name):
    loss, inputs = SURROGATE[name]
    (said,) = verdicts("LP202", loss, *inputs())
    assert said.status is Status.UNPROVED
    assert "surrogate" in said.detail or "on purpose" in said.detail


def test_a_surrogate_inside_a_loss_is_told(verdicts):
    def quantised(input, target):
        return ((Rounded.apply(input) - target) ** 2).mean()

    said = verdicts("LP202", quantised, real(6, 4), plain(6, 4))
    assert [verdict.status for verdict in said] == [Status.UNPROVED]


# ---------------------------------------------------------------------- one witness is not enough
class WrongInNumpy(Function):
    """Only finite differences can look into this forward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.as_tensor(np.log(np.cosh(x.detach().numpy())).sum())

    @staticmethod
    def backward(ctx, grad_output):
        return 2 * grad_output * torch.tanh(ctx.saved_tensors[0])


class WrongInPlace(Function):
    """Autograd cannot re-derive this: it writes over what the derivative needs."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        y = x.exp()
        z = y * y
        y.zero_()
        return z.sum()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * torch.exp(2 * ctx.saved_tensors[0])


def test_a_forward_in_numpy_is_convicted_by_finite_differences_and_the_path_integral(examination):
    (diagnosis,) = examine_functions(examination(WrongInNumpy, real(3, 2)))
    assert diagnosis.verdict.status == "wrong"
    assert diagnosis.verdict.witnesses == ("the path integral", "finite differences")
    (fault,) = diagnosis.faults
    assert fault.cause.kind.value == "constant-factor"
    assert fault.cause.evidence["factor"] == pytest.approx(2, rel=1e-4)


def test_a_jump_in_numpy_convicts_nobody(silent):
    class Stairs(Function):
        @staticmethod
        def forward(ctx, x):
            number = x.detach().numpy()
            return torch.as_tensor((number + np.round(3 * number)).sum())

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output.expand(3, 2)

    silent("LP202", Stairs, real(3, 2))


def test_forward_mode_takes_the_place_of_the_re_derivation(examination):
    (diagnosis,) = examine_functions(examination(WrongInPlace, real(3, 2)))
    assert diagnosis.verdict.status == "wrong"
    assert diagnosis.verdict.witnesses == ("forward mode", "finite differences")


def test_each_wrong_gradient_is_measured(examination):
    class HalfWrong(Function):
        @staticmethod
        def forward(ctx, input, target):
            ctx.save_for_backward(input, target)
            return (input * target).sum()

        @staticmethod
        def backward(ctx, grad_output):
            input, target = ctx.saved_tensors
            return grad_output * target, grad_output * input * 1.01

    (diagnosis,) = examine_functions(examination(HalfWrong, real(6, 4), real(6, 4)))
    verdict = diagnosis.verdict
    assert verdict.wrong == (1,)
    assert verdict.errors[0] < 1e-12
    assert math.isclose(verdict.errors[1], 0.01, rel_tol=0.02)


@pytest.mark.parametrize("code", GRADIENT_RULES)
def test_a_loss_of_torch_operations_has_no_finding(code):
    """Each rule says something, and nothing bad, of a loss without a Function."""
    from lossproof.checks.examination import Examination
    from lossproof.checks.inputs import inputs_for
    from lossproof.checks.subject import subject_of

    subject = subject_of(nn.HuberLoss())
    case = Examination(subject, inputs_for(subject, (real(6, 4), plain(6, 4)), 0))
    said = RULES[code].examine(case)
    assert said
    assert all(isinstance(verdict, Outcome) for verdict in said)
