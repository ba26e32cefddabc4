"""LP202 wrong-backward: the finding's parts, the loss as a whole, the page, the exemptions."""

import pytest
import torch
from torch import nn
from torch.autograd import Function

import lossproof
from lossproof.checks.report import Status


def real(*shape):
    return torch.randn(*shape, requires_grad=True)


class Squared(Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        return grad_output * 2 * (input - target), None  # <-- here


def test_the_parts_of_a_finding(found, marked):
    (finding,) = found("LP202", Squared, real(5, 4), torch.randn(5, 4))
    assert finding.cause == "missing-1/N"
    assert finding.location.line == marked(Squared)
    assert "`input`" in finding.message
    assert "in `Squared`" in finding.message
    assert finding.evidence["factor"] == pytest.approx(20)
    assert finding.evidence["relative error"] == pytest.approx(0.95)
    assert finding.evidence["elements that differ"] == 20
    returned, right = finding.evidence["backward returns"], finding.evidence["derivative"]
    assert returned == pytest.approx(20 * right)
    assert "numel()" in finding.help
    assert any("finite differences" in note for note in finding.notes)


def test_the_evidence_names_the_worst_element(found):
    class OneElement(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x**2).sum()

        @staticmethod
        def backward(ctx, grad_output):
            grad = 2 * ctx.saved_tensors[0].clone()
            grad[1, 2] += 1
            return grad_output * grad

    (finding,) = found("LP202", OneElement, real(3, 4))
    assert finding.evidence["element"] == "[1, 2]"
    assert finding.evidence["elements that differ"] == 1


@pytest.mark.parametrize("size", [1e-3, 1e-4, 1e-5])
def test_a_small_relative_error_is_found(found, size):
    class AlmostRight(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin().mean()

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return grad_output * x.cos() / x.numel() * (1 + size)

    (finding,) = found("LP202", AlmostRight, real(6, 4))
    assert finding.evidence["relative error"] == pytest.approx(size, rel=0.01)


def test_a_sign_flip_at_a_million_elements(found):
    class Flipped(Function):
        @staticmethod
        def forward(ctx, input, target):
            ctx.save_for_backward(input, target)
            return (input - target).abs().mean()

        @staticmethod
        def backward(ctx, grad_output):
            input, target = ctx.saved_tensors
            return -grad_output * (input - target).sign() / input.numel(), None

    (finding,) = found("LP202", Flipped, real(1000, 1000), torch.randn(1000, 1000))
    assert finding.cause == "sign"


def test_each_function_of_a_loss_is_judged(found):
    class Cubed(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output * 2 * ctx.saved_tensors[0] ** 2

    def loss(input, target):
        return Squared.apply(input, target) + Cubed.apply(input).sum()

    findings = found("LP202", loss, real(5, 4), torch.randn(5, 4))
    assert {finding.cause for finding in findings} == {"missing-1/N", "constant-factor"}


def test_a_function_that_the_loss_does_not_use_is_left_alone(silent):
    def loss(input, target):
        Squared.apply(input, target)
        return (input - target).abs().sum()

    assert silent("LP202", loss, real(5, 4), torch.randn(5, 4)) is Status.PROVED


# ---------------------------------------------------------------------- the loss as a whole
def test_stops_on_purpose_are_no_fault(silent):
    def focal(logits, target):
        p = torch.sigmoid(logits * target)
        return -((1 - p.detach()) ** 2 * torch.log(p)).mean()

    target = torch.randint(0, 2, (6, 4)) * 2.0 - 1
    assert silent("LP202", focal, real(6, 4), target) is Status.PROVED


def test_a_straight_through_estimate_by_detach_is_no_fault(silent):
    def quantised(input, target):
        rounded = input + (input.round() - input).detach()
        return ((rounded - target) ** 2).mean()

    assert silent("LP202", quantised, real(6, 4), torch.randn(6, 4)) is Status.PROVED


def test_a_hook_that_changes_the_gradient_is_told(verdicts):
    def reversed_by_a_hook(input):
        inner = input * 1.0
        inner.register_hook(lambda gradient: -gradient)
        return (inner**2).sum()

    (said,) = verdicts("LP202", reversed_by_a_hook, real(6, 4))
    assert said.status is Status.UNPROVED
    assert "hook" in said.detail


def test_ctc_is_undecided(silent):
    log_probs = torch.randn(8, 2, 5).log_softmax(-1).requires_grad_()
    targets = torch.randint(1, 5, (2, 3))
    lengths = torch.full((2,), 8), torch.full((2,), 3)
    assert silent("LP202", nn.CTCLoss(), log_probs, targets, *lengths) is not Status.PROVED


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (nn.MSELoss(), lambda: (real(6, 4), torch.randn(6, 4))),
        (nn.L1Loss(), lambda: (real(6, 4), torch.randn(6, 4))),
        (nn.CrossEntropyLoss(), lambda: (real(6, 4), torch.randint(0, 4, (6,)))),
        (nn.MultiMarginLoss(), lambda: (real(6, 4), torch.randint(0, 4, (6,)))),
        (nn.BCELoss(), lambda: (torch.rand(6).requires_grad_(), torch.rand(6))),
        (nn.TripletMarginLoss(), lambda: (real(6, 4), real(6, 4), real(6, 4))),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_losses_of_torch_are_proved(silent, loss, inputs):
    assert silent("LP202", loss, *inputs()) is Status.PROVED


def test_parameters_of_the_loss_count(silent):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_variance = nn.Parameter(torch.tensor(0.3))

        def forward(self, input, target):
            error = (input - target) ** 2
            return (error * torch.exp(-self.log_variance) + self.log_variance).mean()

    assert silent("LP202", Weighted(), real(6, 4), torch.randn(6, 4)) is Status.PROVED


def test_a_loss_without_gradient_is_not_applicable(silent):
    assert silent("LP202", lambda x: (x > 0).sum(), real(6)) is Status.NOT_APPLICABLE


def test_a_loss_that_writes_to_its_input_is_left_to_another_rule(silent):
    def doubling(input):
        value = input.sum()
        input.mul_(2.0)
        return value + (input**2).sum()

    assert silent("LP202", doubling, real(6)) is not None


def test_the_page(found, silent, page_code, module_of):
    wrong = module_of("import torch\n\n" + page_code("LP202", "Example"), "wrong")
    right = module_of("import torch\n\n" + page_code("LP202", "Use instead"), "right")
    inputs = real(6, 4), torch.randn(6, 4)
    (finding,) = found("LP202", wrong.MSE, *inputs)
    assert finding.cause == "missing-1/N"
    assert silent("LP202", right.MSE, *inputs) is Status.PROVED


class Anomaly(Function):
    """Kepler's equation by a fixed number of steps; the backward is the solution's own."""

    @staticmethod
    def forward(ctx, input):
        angle = input
        for _ in range(10):
            angle = input + 0.3 * torch.sin(angle)
        ctx.save_for_backward(angle)
        return (angle**2).sum()

    @staticmethod
    def backward(ctx, grad_output):
        (angle,) = ctx.saved_tensors
        return grad_output * 2 * angle / (1 - 0.3 * torch.cos(angle))


def test_a_forward_that_iterates_is_not_convicted_for_the_last_digits():
    report = lossproof.check(Anomaly, torch.linspace(0.1, 3.0, 8).requires_grad_())
    assert "LP202" not in {finding.code for finding in report}
    details = [outcome.detail for outcome in report.unproved if outcome.code == "LP202"]
    assert len(details) == 1
    assert "may only approximate" in details[0]
