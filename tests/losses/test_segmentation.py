"""Dice plus cross entropy, and the cross entropy of the hardest pixels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lossproof.losses.overlap import dice_loss
from lossproof.losses.segmentation import dice_ce_loss, topk_cross_entropy_loss

Tensor = torch.Tensor
FLOAT64 = torch.float64


def labelled(*shape: int) -> tuple[Tensor, Tensor]:
    logits = 2 * torch.randn(shape[0], 3, *shape[1:], dtype=FLOAT64)
    return logits, torch.randint(0, 3, shape)


def test_dice_ce_is_the_sum_of_both() -> None:
    logits, labels = labelled(2, 4, 5)
    labels[0, 0, :3] = -100
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=FLOAT64)
    wanted = 0.3 * dice_loss(logits, labels, weight=weight, average="batch", smooth=0.1)
    wanted += 2 * F.cross_entropy(logits, labels, weight=weight, label_smoothing=0.1)
    found = dice_ce_loss(
        logits, labels, lambda_dice=0.3, lambda_ce=2.0, weight=weight, average="batch",
        smooth=0.1, label_smoothing=0.1,
    )  # fmt: skip
    torch.testing.assert_close(found, wanted)


def test_dice_ce_takes_soft_masks() -> None:
    logits, _ = labelled(2, 7)
    target = torch.softmax(torch.randn(2, 3, 7, dtype=FLOAT64), 1)
    wanted = dice_loss(logits, target, squared=True) + F.cross_entropy(logits, target)
    torch.testing.assert_close(dice_ce_loss(logits, target, squared=True), wanted)


def test_dice_ce_options_reach_the_dice_loss() -> None:
    logits, labels = labelled(2, 6)
    labels[0] = 1
    for options in ({"absent": "skip"}, {"include_background": False}, {"smooth": 0.0}):
        found = dice_ce_loss(logits, labels, lambda_ce=0.0, **options)
        torch.testing.assert_close(found, dice_loss(logits, labels, **options))


def test_nothing_to_compare_is_zero() -> None:
    for loss in (dice_ce_loss, topk_cross_entropy_loss):
        for shape in ((2, 3, 5), (0, 3, 5), (2, 3, 0)):
            logits = torch.full(shape, float("nan")).requires_grad_()
            value = loss(logits, torch.full((shape[0], shape[2]), -100))
            value.backward()
            assert value == 0
            assert not logits.grad.any()


@pytest.mark.parametrize("k", [0.01, 0.25, 0.5, 1.0])
def test_topk_takes_the_largest(k: float) -> None:
    logits, labels = labelled(3, 4, 5)
    labels[0, :2] = -100
    logits.requires_grad_()
    values = F.cross_entropy(logits, labels, reduction="none")[labels != -100]
    wanted = values.sort(descending=True).values[: math.ceil(k * len(values))]
    for reduction in ("mean", "sum"):
        expected = getattr(wanted, reduction)()
        found = topk_cross_entropy_loss(logits, labels, k=k, reduction=reduction)
        torch.testing.assert_close(found, expected)
        slopes = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (found, expected)]
        torch.testing.assert_close(*slopes)
    found = topk_cross_entropy_loss(logits, labels, k=k, reduction="none")
    assert found.shape == labels.shape
    assert (found > 0).sum() == len(wanted)


def test_topk_of_all_is_cross_entropy() -> None:
    logits, labels = labelled(3, 8)
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=FLOAT64)
    found = topk_cross_entropy_loss(logits, labels, k=1.0, weight=weight)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, weight=weight))


def test_topk_chooses_by_the_weighted_loss() -> None:
    logits = torch.tensor([[0.0, 3.0], [1.0, 0.0]])
    labels = torch.tensor([0, 1])
    heavy = torch.tensor([1.0, 10.0])
    plain = topk_cross_entropy_loss(logits, labels, k=0.5, reduction="none")
    assert plain.tolist() == [pytest.approx(3.0486, abs=1e-4), 0.0]
    found = topk_cross_entropy_loss(logits, labels, k=0.5, weight=heavy, reduction="none")
    assert found.tolist() == [0.0, pytest.approx(13.1326, abs=1e-4)]
    mean = topk_cross_entropy_loss(logits, labels, k=0.5, weight=heavy)
    assert mean.item() == pytest.approx(1.31326, abs=1e-5)


def test_ties_are_all_taken() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [5.0, 0.0]])
    values = topk_cross_entropy_loss(
        logits, torch.zeros(4, dtype=torch.long), k=0.25, reduction="none"
    )
    assert values[:3].tolist() == [values[0].item()] * 3
    assert values[3] == 0


def test_a_single_item() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0])
    value = topk_cross_entropy_loss(logits, torch.tensor(1))
    torch.testing.assert_close(value, F.cross_entropy(logits, torch.tensor(1)))


WRONG: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (dice_ce_loss, {"lambda_dice": -1}, ValueError, "lambda_dice"),
    (dice_ce_loss, {"lambda_ce": "1"}, TypeError, "lambda_ce"),
    (dice_ce_loss, {"smooth": -1}, ValueError, "smooth"),
    (dice_ce_loss, {"label_smoothing": 2.0}, ValueError, "label_smoothing"),
    (dice_ce_loss, {"target": torch.full((2, 4), 3)}, ValueError, "classes from 0 to 2"),
    (topk_cross_entropy_loss, {"k": 0}, ValueError, "`k`"),
    (topk_cross_entropy_loss, {"k": 1.1}, ValueError, "`k`"),
    (topk_cross_entropy_loss, {"k": True}, TypeError, "`k`"),
    (topk_cross_entropy_loss, {"target": torch.zeros(2, 3, 4)}, TypeError, "target"),
    (topk_cross_entropy_loss, {"target": torch.zeros(2, 3).long()}, ValueError, "target"),
    (topk_cross_entropy_loss, {"weight": torch.ones(4)}, ValueError, "weight"),
    (topk_cross_entropy_loss, {"reduction": "max"}, ValueError, "reduction"),
]


@pytest.mark.parametrize(("loss", "changed", "error", "message"), WRONG)
def test_wrong_calls(
    loss: Any, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    call = {"target": torch.zeros(2, 4).long(), **changed}
    with pytest.raises(error, match=message):
        loss(torch.randn(2, 3, 4), call.pop("target"), **call)


def test_no_label_of_a_small_type_is_taken_for_ignored() -> None:
    input, target = torch.randn(6, 200), torch.arange(153, 159)
    weight = torch.rand(200)
    found = topk_cross_entropy_loss(input, target.to(torch.uint8), weight=weight, k=1.0)
    torch.testing.assert_close(found, topk_cross_entropy_loss(input, target, weight=weight, k=1.0))


@pytest.mark.parametrize(
    ("k", "count", "taken"),
    [(0.3, 100, 30), (0.3, 101, 31), (0.54, 50, 27), (0.07, 100, 7), (2 / 3, 3, 2), (1e-3, 5, 1)],
)
def test_the_share_of_the_pixels_is_exact(k: float, count: int, taken: int) -> None:
    logits = torch.randn(count, 3, dtype=torch.float64)
    values = topk_cross_entropy_loss(
        logits, torch.zeros(count, dtype=torch.long), k=k, reduction="none"
    )
    assert int((values > 0).sum()) == taken
