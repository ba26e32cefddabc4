"""Boxes beside formulas in Fractions and numpy, and the losses of a detector's confidence."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.losses.boxes import ciou_loss, diou_loss, giou_loss, iou_loss
from lossproof.losses.detection import (
    distribution_focal_loss,
    quality_focal_loss,
    varifocal_loss,
)

Tensor = torch.Tensor
FLOAT64 = torch.float64
BOX_LOSSES = (iou_loss, giou_loss, diou_loss, ciou_loss)
every_box_loss = pytest.mark.parametrize("loss", BOX_LOSSES, ids=lambda loss: loss.__name__)


def exact(a: list[int], b: list[int]) -> tuple[float, float, float]:
    """IoU, GIoU and DIoU loss of two boxes that have a size, in fractions."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    around = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    iou = Fraction(width * height, union)
    area = around[0] * around[1]
    centres = (a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2
    gap = Fraction(area - union, area)
    distance = Fraction(centres, 4 * (around[0] ** 2 + around[1] ** 2))
    return float(1 - iou), float(1 - iou + gap), float(1 - iou + distance)


corner, side = st.integers(-6, 6), st.integers(1, 9)
a_box = st.tuples(corner, corner, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@settings(max_examples=60)
@given(a_box, a_box)
def test_box_losses_in_fractions(a: list[int], b: list[int]) -> None:
    one, other = torch.tensor(a, dtype=FLOAT64), torch.tensor(b, dtype=FLOAT64)
    for loss, wanted in zip((iou_loss, giou_loss, diou_loss), exact(a, b), strict=True):
        assert loss(one, other).item() == pytest.approx(wanted, abs=1e-14)
        assert loss(other, one).item() == pytest.approx(wanted, abs=1e-14)


def boxes(n: int) -> Tensor:
    low, size = 4 * torch.randn(n, 2, dtype=FLOAT64), 5 * torch.rand(n, 2, dtype=FLOAT64) + 0.1
    return torch.cat([low, low + size], 1)


def test_ciou_by_its_formula() -> None:
    a, b = boxes(200), boxes(200)
    a.requires_grad_()
    values = ciou_loss(a, b, reduction="none")
    (width, height), (w, h) = (b[:, 2:] - b[:, :2]).T, (a[:, 2:] - a[:, :2]).T
    v = 4 / math.pi**2 * (torch.atan(width / height) - torch.atan(w / h)) ** 2
    alpha = (v / (iou_loss(a, b, reduction="none") + v)).detach()
    wanted = diou_loss(a, b, reduction="none") + alpha * v
    torch.testing.assert_close(values, wanted)
    slopes = [torch.autograd.grad(x.sum(), a, retain_graph=True)[0] for x in (values, wanted)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("loss", [iou_loss, giou_loss, diou_loss])
def test_gradients_of_boxes(loss: Any) -> None:
    a, b = boxes(20).requires_grad_(), boxes(20)
    assert torch.autograd.gradcheck(lambda x: loss(x, b, reduction="sum"), a)


@every_box_loss
def test_boxes_that_nearly_agree_keep_their_digits(loss: Any) -> None:
    truth = torch.tensor([[16.0, 32.0, 48.0, 80.0]])
    for power in (-6, -10, -14, -17):
        shift = torch.tensor([1.0, -1.0, 2.0, 1.0]) * 2.0**power
        near = truth + shift  # without rounding
        assert torch.equal(near.double(), truth.double() + shift)
        wanted = loss(near.double(), truth.double())
        torch.testing.assert_close(loss(near, truth).double(), wanted, rtol=1e-4, atol=0)


@every_box_loss
def test_boxes_without_a_size(loss: Any) -> None:
    """Coincident, distant, inside one another, inside out: all is finite."""
    point, line = [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 5.0, 1.0]
    box, far, turned = [0.0, 0.0, 4.0, 4.0], [9.0, 9.0, 9.0, 9.0], [5.0, 5.0, 1.0, 1.0]
    for dtype in (torch.float32, FLOAT64):
        for truth in (point, line, box, far):
            for predicted in (point, line, box, far, turned):
                leaf = torch.tensor([predicted], dtype=dtype, requires_grad=True)
                value = loss(leaf, torch.tensor([truth], dtype=dtype))
                (slope,) = torch.autograd.grad(value, leaf)
                assert torch.isfinite(value), (predicted, truth)
                assert torch.isfinite(slope).all(), (predicted, truth)
                assert (value == 0) == (predicted == truth), (predicted, truth)
                assert value != 0 or not slope.any()
    tiny = torch.tensor([[0.0, 0.0, 1e-30, 1e-25]], requires_grad=True)
    (slope,) = torch.autograd.grad(loss(tiny, torch.tensor([box])), tiny)
    assert torch.isfinite(slope).all()


@every_box_loss
def test_masked_boxes_may_hold_anything(loss: Any) -> None:
    a, b = boxes(6), boxes(6)
    mask = torch.tensor([True, False, True, True, False, True])
    weight = torch.rand(6, dtype=FLOAT64)
    results = []
    for poison in (0.0, float("nan"), float("inf")):
        leaf = a.masked_fill(~mask.unsqueeze(1), poison).requires_grad_()
        truth = b.masked_fill(~mask.unsqueeze(1), poison)
        value = loss(leaf, truth, mask=mask, weight=weight)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    wanted = (loss(a, b, reduction="none") * weight)[mask].sum() / weight[mask].sum()
    torch.testing.assert_close(results[0][0], wanted)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


@every_box_loss
def test_wrong_boxes(loss: Any) -> None:
    a, b = boxes(3), boxes(3)
    for wrong, error, message in (
        ((a, b[:2]), ValueError, "same shape"),
        ((a[:, :3], b[:, :3]), ValueError, "x1, y1, x2, y2"),
        ((a[0, 0], b[0, 0]), ValueError, "x1, y1, x2, y2"),
        ((a, b.long()), TypeError, "target"),
        ((a, b.flip(1)), ValueError, "at least 0"),
    ):
        with pytest.raises(error, match=message):
            loss(*wrong)
    with pytest.raises(ValueError, match="weight"):
        loss(a, b, weight=torch.ones(4))
    with pytest.raises(ValueError, match="mask"):
        loss(a, b, mask=torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="reduction"):
        loss(a, b, reduction="mean_all")


def test_quality_focal_loss_by_its_formula() -> None:
    logits = 3 * torch.randn(50, dtype=FLOAT64)
    quality = torch.rand(50, dtype=FLOAT64)
    p = torch.sigmoid(logits)
    entropy = -(quality * p.log() + (1 - quality) * (1 - p).log())
    for beta in (0.0, 0.5, 1.0, 2.0, 3.5):
        found = quality_focal_loss(logits, quality, beta=beta, reduction="none")
        torch.testing.assert_close(found, (quality - p).abs() ** beta * entropy)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_quality_focal_loss_at_its_target_and_far_away(beta: float) -> None:
    for x, q in ((0.0, 0.5), (1e4, 1.0), (-1e4, 0.0), (1e4, 0.0), (-1e4, 1.0)):
        leaf = torch.tensor(x, requires_grad=True)
        value = quality_focal_loss(leaf, torch.tensor(q), beta=beta)
        (slope,) = torch.autograd.grad(value, leaf)
        assert torch.isfinite(slope)
        right = x == 0 or (x > 0) == (q > 0)
        if right and (beta or x):
            assert value == 0
        elif x:
            assert value == 1e4
            assert abs(slope) == 1
    small = torch.tensor([12.0, 15.0])
    exact_values = quality_focal_loss(small.double(), torch.ones(2).double(), reduction="none")
    found = quality_focal_loss(small, torch.ones(2), reduction="none")
    torch.testing.assert_close(found.double(), exact_values, rtol=1e-5, atol=0)


def test_varifocal_loss_by_its_formula() -> None:
    logits = 3 * torch.randn(60, dtype=FLOAT64)
    quality = torch.rand(60, dtype=FLOAT64) * (torch.rand(60) < 0.5)
    p = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy(p, quality, reduction="none")
    for gamma, alpha in ((0.0, 1.0), (0.5, 0.3), (2.0, 0.75)):
        wanted = torch.where(quality > 0, quality * entropy, alpha * p**gamma * entropy)
        found = varifocal_loss(logits, quality, gamma=gamma, alpha=alpha, reduction="none")
        torch.testing.assert_close(found, wanted)
    for gamma in (0.5, 2.0):
        leaf = torch.tensor([-1e4, 1e4], requires_grad=True)
        value = varifocal_loss(leaf, torch.zeros(2), alpha=1.0, gamma=gamma, reduction="sum")
        assert value == 1e4
        torch.testing.assert_close(torch.autograd.grad(value, leaf)[0], torch.tensor([0.0, 1.0]))


def test_distribution_focal_loss_by_its_formula() -> None:
    logits = torch.randn(40, 6, dtype=FLOAT64)
    y = torch.cat([5 * torch.rand(34, dtype=FLOAT64), torch.arange(6).double()])
    low = y.floor().clamp(max=4)
    logs, rows = torch.log_softmax(logits, 1), torch.arange(40)
    wanted = -(low + 1 - y) * logs[rows, low.long()] - (y - low) * logs[rows, low.long() + 1]
    found = distribution_focal_loss(logits, y, reduction="none")
    torch.testing.assert_close(found, wanted)
    found = distribution_focal_loss(logits.view(10, 4, 6), y.view(10, 4), reduction="none")
    torch.testing.assert_close(found, wanted.view(10, 4))
    sure = torch.tensor([[20.0, 0.0, 0.0]])
    value = distribution_focal_loss(sure, torch.zeros(1))
    assert value.item() == pytest.approx(math.log1p(2 * math.exp(-20)), rel=1e-5)


def test_masked_coordinates_may_hold_anything() -> None:
    logits, y = torch.randn(4, 5), 4 * torch.rand(4)
    mask = torch.tensor([True, False, True, False])
    bad = torch.where(mask.unsqueeze(1), logits, float("nan")).requires_grad_()
    value = distribution_focal_loss(bad, torch.where(mask, y, 99.0), mask=mask)
    torch.testing.assert_close(value.detach(), distribution_focal_loss(logits[mask], y[mask]))
    (slope,) = torch.autograd.grad(value, bad)
    assert not slope[~mask].any()
    assert torch.isfinite(slope).all()


WRONG: list[tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (quality_focal_loss, (torch.zeros(3), torch.zeros(2)), {}, ValueError, "same shape"),
    (quality_focal_loss, (torch.zeros(3), torch.full((3,), 1.5)), {}, ValueError, "from 0 to 1"),
    (quality_focal_loss, (torch.zeros(3), torch.zeros(3)), {"beta": -1}, ValueError, "beta"),
    (varifocal_loss, (torch.zeros(3), torch.zeros(3)), {"gamma": "2"}, TypeError, "gamma"),
    (varifocal_loss, (torch.zeros(3), torch.zeros(3)), {"alpha": -0.1}, ValueError, "alpha"),
    (varifocal_loss, (torch.zeros(3), torch.zeros(3).long()), {}, TypeError, "target"),
    (distribution_focal_loss, (torch.zeros(3, 4), torch.zeros(4)), {}, ValueError, "axis of bins"),
    (distribution_focal_loss, (torch.zeros(3, 0), torch.zeros(3)), {}, ValueError, "axis of bins"),
    (distribution_focal_loss, (torch.zeros(3, 4), torch.full((3,), 3.1)), {}, ValueError, "0 to 3"),
    (distribution_focal_loss, (torch.tensor(1.0), torch.tensor(1.0)), {}, ValueError, "bins"),
]


@pytest.mark.parametrize(("loss", "tensors", "options", "error", "message"), WRONG)
def test_wrong_calls(
    loss: Any, tensors: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loss(*tensors, **options)
