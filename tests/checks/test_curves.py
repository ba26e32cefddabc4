"""The curves against derivatives known in closed form, on lines that stay in the domain."""

import math

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.chart import LineChart, Unmeasured
from lossproof.checks.curves import curves
from lossproof.checks.domain import domain_of
from lossproof.checks.inputs import Inputs

F64 = torch.float64


def drawn(examination, loss, *inputs, hold_stops=True):
    return curves(examination(loss, *inputs), hold_stops)


def derivatives(charts):
    """The autograd series and the dots of the derivative chart."""
    assert [type(chart) for chart in charts] == [LineChart, LineChart]
    return charts[1].series


def gap(line, dots):
    """The largest relative distance of a dot from the line, at the dots."""
    at = dict(zip(line.x, line.y, strict=True))
    return max(abs(at[x] - y) / (1e-12 + abs(y)) for x, y in zip(dots.x, dots.y, strict=True))


def test_an_elementwise_loss_is_drawn_for_one_element(examination):
    p, t = torch.tensor([0.3, -0.7, 1.1]), torch.tensor([0.5, 0.5, 2.0])
    value, slope = drawn(examination, F.mse_loss, p.requires_grad_(), t)
    (curve,) = value.series
    assert value.x_label == slope.x_label == "input"
    assert len(curve.x) > 40 and curve.x == tuple(sorted(curve.x))
    assert curve.x[0] == -3 and curve.x[-1] == 3
    assert curve.y == pytest.approx([(x - 0.5) ** 2 for x in curve.x])
    line, dots = slope.series
    assert line.y == pytest.approx([2 * (x - 0.5) for x in line.x])
    assert dots.y == pytest.approx([2 * (x - 0.5) for x in dots.x], rel=1e-8)
    assert (line.mark, dots.mark) == ("line", "dots")


def test_both_labels_are_drawn_where_there_are_two(examination):
    p, t = torch.tensor([0.2, 0.6, 0.8], requires_grad=True), torch.tensor([0.0, 1.0, 1.0])
    value, slope = drawn(examination, F.binary_cross_entropy, p, t)
    assert [one.label for one in value.series] == ["target is 0", "target is 1"]
    assert len(slope.series) == 4
    inner = [(x, y) for x, y in zip(*_series(value.series[1]), strict=True) if x > 0]
    assert [y for _, y in inner] == pytest.approx([-math.log(x) for x, _ in inner])


def _series(one):
    return one.x, one.y


def test_a_wrong_backward_parts_from_the_dots(examination):
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, p, t):
            ctx.save_for_backward(p, t)
            return ((p - t) ** 2).mean()

        @staticmethod
        def backward(ctx, g):
            p, t = ctx.saved_tensors
            return g * (p - t) / p.numel(), None

    line, dots = derivatives(drawn(examination, Halved, "float[4]", "float[4]"))
    at = dict(zip(line.x, line.y, strict=True))
    assert [at[x] for x in dots.x] == pytest.approx([y / 2 for y in dots.y], rel=1e-6)


LOSSES = {
    "one logit": (F.cross_entropy, "float[4,5]", "int[4]<5"),
    "probabilities": (lambda p, t: (t * (t.log() - p.log())).sum(), "prob[4,5]", "prob[4,5]"),
    "log-probabilities": (F.kl_div, "logprob[4,5]", "prob[4,5]"),
    "positive": (lambda var, x: (var.log() + x**2 / var).mean(), "positive[4]", "float[4]"),
    "coupled": (lambda p, t: 1 - (p * t).sum() / (p + t).sum(), "unit[4,3]", "binary[4,3]"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_on_a_right_loss_every_dot_lies_on_its_line(name, examination):
    loss, *inputs = LOSSES[name]
    line, dots = derivatives(drawn(examination, loss, *inputs))[:2]
    assert len(dots.y) >= 7 and None not in dots.y
    assert gap(line, dots) < 1e-6


def test_vectors_of_length_1_and_rotations_are_turned(examination):
    generator = torch.Generator().manual_seed(0)
    u, v = (F.normalize(torch.randn(3, 4, generator=generator), dim=1) for _ in range(2))

    def cosine(u, v):
        assert domain_of(u.detach()).contains(u.detach())
        return (1 - (u * v).sum(1)).mean()

    charts = drawn(examination, cosine, u.requires_grad_(), v)
    assert charts[0].x_label == "angle by which a vector of u is turned"
    assert gap(*derivatives(charts)) < 1e-6
    skew = torch.randn(2, 3, 3, generator=generator)
    turns = torch.matrix_exp(skew - skew.mT)

    def away(r, goal):
        assert float((r @ r.mT - torch.eye(3, dtype=r.dtype)).abs().max()) < 1e-5
        return ((r - goal) ** 2).sum()

    charts = drawn(examination, away, turns.clone().requires_grad_(), turns.flip(0))
    assert charts[0].x_label == "angle by which a matrix of r is turned"
    assert gap(*derivatives(charts)) < 1e-6


def weighted(p, t):
    return (((p - t) ** 2).detach() * (p - t).abs()).mean()


def test_what_is_detached_on_purpose_is_held(examination):
    spec = ("float[4]", "float[4]")
    assert gap(*derivatives(drawn(examination, weighted, *spec))) < 1e-6
    assert gap(*derivatives(drawn(examination, weighted, *spec, hold_stops=False))) > 0.1


def test_where_there_is_no_number_there_is_a_gap_and_a_word(examination):
    value, _ = drawn(examination, lambda p: p.log().mean().neg(), torch.tensor([0.2, 0.7]))
    assert value.series[0].y[0] is None
    assert "no finite number at 0" in value.caption


def test_the_values_of_a_loss_that_is_a_vector_are_added_up(examination):
    value, _ = drawn(examination, lambda p, t: (p - t).abs(), "float[4]", "float[4]")
    assert value.y_label == "sum of the losses"


def test_a_slow_loss_has_fewer_points_or_none(examination):
    case = examination(F.mse_loss, "float[4]", "float[4]")
    vars(case)["call_seconds"] = 0.01
    assert len(curves(case, True)[1].series[1].x) == 7
    vars(case)["call_seconds"] = 1.0
    (chart,) = curves(case, True)
    assert chart == Unmeasured("Value and derivative", "one call of the loss takes 1 s")


def test_a_loss_of_its_own_parameters_alone_has_no_curve(examination):
    class Penalty(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self):
            return self.weight.square().sum()

    case = examination(Penalty())
    assert isinstance(case.inputs, Inputs)
    (chart,) = curves(case, True)
    assert "no input wants a gradient" in chart.why


def test_a_missing_share_of_the_mean_is_seen(examination):
    """With one element alone, a gradient without the 1/N of the mean would look right."""

    class SquaredError(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target):
            ctx.save_for_backward(input, target)
            return ((input - target) ** 2).mean()

        @staticmethod
        def backward(ctx, grad_output):
            input, target = ctx.saved_tensors
            return grad_output * 2 * (input - target), None

    chart = curves(examination(SquaredError, "float[8]", "float[8]"), True)[1]
    line, dots = chart.series
    for x, slope in zip(dots.x, dots.y, strict=True):
        gradient = min(zip(line.x, line.y, strict=True), key=lambda point: abs(point[0] - x))[1]
        assert abs(gradient) > 4 * abs(slope) or abs(gradient - slope) < 0.5
    assert max(map(abs, line.y)) > 6 * max(map(abs, dots.y))
