"""Gradients that are constants where they are differentiated."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lossproof.checks.factors import study_of
from lossproof.checks.second_order import first_missing


def real(*shape):
    return torch.randn(*shape, requires_grad=True)


class Kept(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(3 * x**2)
        return (x**3).sum()

    @staticmethod
    def backward(ctx, upstream):
        return ctx.saved_tensors[0] * upstream


class Computed(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x**3).sum()

    @staticmethod
    def backward(ctx, upstream):
        return 3 * ctx.saved_tensors[0] ** 2 * upstream


class Refuses(Kept):
    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        return ctx.saved_tensors[0] * upstream


class Straight(Function):
    """A loss without curvature: its gradient is a constant."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(torch.full_like(x, 2.0))
        return (2 * x).sum()

    @staticmethod
    def backward(ctx, upstream):
        return ctx.saved_tensors[0] * upstream


@torch.library.custom_op("lossproof_tests::cubes", mutates_args=())
def cubes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (x**3).sum(), 3 * x**2


cubes.register_autograd(
    lambda ctx, upstream, _: ctx.gradient * upstream,
    setup_context=lambda ctx, inputs, output: setattr(ctx, "gradient", output[1]),
)


def by_operation(x):
    return cubes(x)[0]


@pytest.fixture
def missing(examination):
    def run(loss, *inputs):
        case = examination(loss, *inputs)
        return first_missing(case, study_of(case).own_nodes)

    return run


def test_a_kept_gradient_is_a_constant(missing):
    found = missing(Kept, real(5))
    assert found.diagnosis.name == "Kept"
    assert (found.claimed, found.error) == (0.0, 1.0)


def test_it_is_silent_and_wrong_in_torch_itself():
    """What the rule says happens, seen without it: half of the second derivative is gone."""
    x = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    gradients = {}
    for name, loss in (("kept", Kept.apply), ("plain", lambda x: (x**3).sum())):
        (first,) = torch.autograd.grad(loss(x) ** 2, x, create_graph=True)
        (gradients[name],) = torch.autograd.grad(first.sum(), x)
    # (x^6)'' = 30 x^4, of which 2 * (3 x^2)^2 = 18 x^4 comes through the factor.
    assert gradients["plain"] == pytest.approx(30 * 1.5**4)
    assert gradients["kept"] == pytest.approx(18 * 1.5**4)
    (first,) = torch.autograd.grad(Kept.apply(x), x, create_graph=True)
    assert not first.requires_grad


def test_within_other_operations(missing):
    assert missing(lambda x: Kept.apply(torch.tanh(x)) / 7, real(5)) is not None


@pytest.mark.parametrize("loss", [Computed, Refuses, Straight], ids=lambda c: c.__name__)
def test_what_is_right_or_loud_is_none(missing, loss):
    assert missing(loss, real(5)) is None


def test_an_operation_of_a_library(missing):
    found = missing(by_operation, real(5))
    assert found.diagnosis is None
    assert found.error > 0.1
    assert found.true != pytest.approx(found.claimed)


def test_a_loss_of_torchs_operations_has_nothing_to_miss(missing):
    assert missing(F.mse_loss, real(5), torch.randn(5)) is None
