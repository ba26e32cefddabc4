"""The map shows the elements whose gradient is wrong, and those alone."""

import pytest
import torch
from torch.autograd import Function

from lossproof.checks.chart import HeatMap, Unmeasured
from lossproof.checks.gradient_map import gradient_map


class WrongCorner(Function):
    """Squared error whose gradient is doubled at [0, 1]."""

    @staticmethod
    def forward(ctx, p, t):
        ctx.save_for_backward(p, t)
        return ((p - t) ** 2).sum()

    @staticmethod
    def backward(ctx, g):
        p, t = ctx.saved_tensors
        gradient = 2 * g * (p - t)
        gradient[0, 1] *= 2
        return gradient, None


P = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_one_wrong_element(examination):
    case = examination(WrongCorner, P.clone().requires_grad_(), torch.zeros(2, 3))
    chart = gradient_map(case, {"LP202"})
    assert isinstance(chart, HeatMap)
    # 4 in place of 8, beside a largest true gradient of 12.
    assert chart.values == ((0.0, pytest.approx(4 / 12), 0.0), (0.0, 0.0, 0.0))
    assert chart.caption.startswith("1 of 6 elements shown differ from finite differences")
    assert "(12)" in chart.caption


def test_no_finding_no_map(examination):
    case = examination(WrongCorner, "float[2,3]", "float[2,3]")
    assert gradient_map(case, {"LP301"}) is None
    right = examination(torch.nn.functional.mse_loss, "float[2,3]", "float[2,3]")
    assert gradient_map(right, {"LP202"}) is None


def test_an_ignored_upstream_gradient_is_seen(examination):
    class Ignores(Function):
        @staticmethod
        def forward(ctx, p, t):
            ctx.save_for_backward(p, t)
            return ((p - t) ** 2).sum()

        @staticmethod
        def backward(ctx, g):
            p, t = ctx.saved_tensors
            return 2 * (p - t), None

    case = examination(Ignores, torch.ones(2, 2, requires_grad=True), torch.zeros(2, 2))
    chart = gradient_map(case, {"LP203"})
    assert all(cell == pytest.approx(0.5, rel=1e-6) for row in chart.values for cell in row)


def test_a_detached_part_counts_where_it_is_the_fault(examination):
    def cut(p, t):
        return (p - t).square().detach().sum() + (p - t).sum()

    case = examination(cut, P.clone().requires_grad_(), torch.zeros(2, 3))
    chart = gradient_map(case, {"LP201"})
    assert chart.values[1][2] == pytest.approx(12 / 13, rel=1e-6)
    assert gradient_map(case, {"LP202"}) is None


def test_the_reference_is_the_truth_where_there_is_one(examination):
    def off(p, t):
        return 3 * (p - t).square().sum()

    def right(p, t):
        return (p - t).square().sum()

    case = examination(off, P.clone().requires_grad_(), torch.zeros(2, 3), reference=right)
    chart = gradient_map(case, {"LP103"})
    assert chart.values[1][2] == pytest.approx(2.0)
    assert "the gradient of the reference" in chart.caption
    assert gradient_map(examination(off, "float[2,3]", "float[2,3]"), {"LP103"}) is None


def test_the_argument_that_is_wrong_is_shown(examination):
    class Second(Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            return (a * b).sum()

        @staticmethod
        def backward(ctx, g):
            a, b = ctx.saved_tensors
            return g * b, 2 * g * a

    a, b = (torch.rand(3) + 0.5).requires_grad_(), (torch.rand(3) + 0.5).requires_grad_()
    assert gradient_map(examination(Second, a, b), {"LP202"}).column_label == "element of b"


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [((5,), 1, 5), ((70,), 2, 32), ((40, 40), 32, 32), ((2, 3, 4, 5), 4, 5), ((6, 1, 5), 6, 5)],
)
def test_every_shape_has_a_view(shape, rows, columns, examination):
    class Doubled(Function):
        @staticmethod
        def forward(ctx, p):
            ctx.save_for_backward(p)
            return p.square().sum()

        @staticmethod
        def backward(ctx, g):
            return 4 * g * ctx.saved_tensors[0]

    case = examination(Doubled, (torch.rand(shape) + 0.5).requires_grad_())
    vars(case)["call_seconds"] = 1e-4
    chart = gradient_map(case, {"LP202"})
    assert (len(chart.values), len(chart.values[0])) == (rows, columns)
    assert ("the first block" in chart.caption) is (torch.Size(shape).numel() > rows * columns)


def test_what_is_not_finite_is_told(examination):
    class Blows(Function):
        @staticmethod
        def forward(ctx, p):
            ctx.save_for_backward(p)
            return p.square().sum()

        @staticmethod
        def backward(ctx, g):
            gradient = 2 * g * ctx.saved_tensors[0]
            gradient[0] = float("nan")
            return gradient

    chart = gradient_map(examination(Blows, torch.ones(3, requires_grad=True)), {"LP202"})
    assert chart.values == ((None, 0.0, 0.0),)
    assert "Red: not finite (1)." in chart.caption


def test_a_slow_loss_has_no_map(examination):
    case = examination(WrongCorner, "float[2,3]", "float[2,3]")
    vars(case)["call_seconds"] = 1.0
    assert isinstance(gradient_map(case, {"LP202"}), Unmeasured)
