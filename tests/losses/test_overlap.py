"""Dice, Jaccard, Tversky and generalised Dice, beside sums written out in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.losses._confusion import _Confusion
from lossproof.losses.overlap import dice_loss, generalized_dice_loss, jaccard_loss
from lossproof.losses.tversky import focal_tversky_loss, tversky_loss
from lossproof.write import sweeping

Tensor = torch.Tensor
FLOAT64 = torch.float64
LOSSES = (dice_loss, jaccard_loss, tversky_loss, focal_tversky_loss, generalized_dice_loss)
NAMES = [loss.__name__ for loss in LOSSES]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=NAMES)


def labelled(*shape: int, classes: int = 3, ignored: bool = False) -> tuple[Tensor, Tensor]:
    logits = 2 * torch.randn(shape[0], classes, *shape[1:], dtype=FLOAT64)
    labels = torch.randint(0, classes, shape)
    if ignored:
        labels = labels.masked_fill(torch.rand(shape) < 0.3, -100)
    return logits, labels


def masks(labels: Tensor, classes: int) -> Tensor:
    hot = (labels.unsqueeze(1) == torch.arange(classes).view(-1, *[1] * (labels.ndim - 1))).double()
    return hot.masked_fill((labels == -100).unsqueeze(1), -100.0)


def in_numpy(score: Callable[..., Any], logits: Tensor, labels: Tensor) -> np.ndarray:
    """The value of each sample and class, by the textbook's product of p and t."""
    rows = []
    classes = logits.shape[1]
    pixels = logits.flatten(2).numpy(), labels.flatten(1).numpy()
    for x, y in zip(*pixels, strict=True):
        p = np.exp(x) / np.exp(x).sum(0)
        keep = y != -100
        pairs = [(p[c][keep], (y[keep] == c).astype(float)) for c in range(classes)]
        rows.append([1 - score(p, t) for p, t in pairs])
    return np.array(rows)


TEXTBOOK = {
    "dice": (
        dice_loss,
        {"smooth": 0.5},
        lambda p, t: (2 * (p * t).sum() + 0.5) / (p.sum() + t.sum() + 0.5),
    ),
    "squared dice": (
        dice_loss,
        {"smooth": 0.0, "squared": True},
        lambda p, t: 2 * (p * t).sum() / ((p**2).sum() + (t**2).sum()),
    ),
    "jaccard": (
        jaccard_loss,
        {"smooth": 2.0},
        lambda p, t: ((p * t).sum() + 2) / (p.sum() + t.sum() - (p * t).sum() + 2),
    ),
    "squared jaccard": (
        jaccard_loss,
        {"smooth": 0.0, "squared": True},
        lambda p, t: (p * t).sum() / ((p**2).sum() + (t**2).sum() - (p * t).sum()),
    ),
    "tversky": (
        tversky_loss,
        {"alpha": 0.2, "beta": 0.9, "smooth": 1.0},
        lambda p, t: (
            ((p * t).sum() + 1)
            / ((p * t).sum() + 0.2 * (p * (1 - t)).sum() + 0.9 * ((1 - p) * t).sum() + 1)
        ),
    ),
}


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("case", TEXTBOOK)
def test_the_textbook(case: str, ignored: bool) -> None:
    loss, options, score = TEXTBOOK[case]
    logits, labels = labelled(3, 4, 5, ignored=ignored)
    wanted = in_numpy(score, logits, labels)
    found = loss(logits, labels, reduction="none", **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(loss(logits, labels, **options), wanted.mean(), rtol=1e-12)
    # masks in place of labels
    found = loss(logits, masks(labels, 3), reduction="none", **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_focal_tversky_is_a_root() -> None:
    logits, labels = labelled(2, 9)
    plain = tversky_loss(logits, labels, reduction="none")
    found = focal_tversky_loss(logits, labels, gamma=2.0, reduction="none")
    torch.testing.assert_close(found, plain.sqrt())


def test_generalized_dice_is_weighted_by_the_size_of_the_classes() -> None:
    logits, labels = labelled(2, 40)
    for power, weighting in ((2, "square"), (1, "simple"), (0, "uniform")):
        p, t = torch.softmax(logits, 1), masks(labels, 3)
        w = t.sum(2) ** -power
        wanted = 1 - 2 * (w * (p * t).sum(2)).sum(1) / (w * (p + t).sum(2)).sum(1)
        found = generalized_dice_loss(logits, labels, class_weighting=weighting, reduction="none")
        torch.testing.assert_close(found, wanted)


def test_an_absent_class_weighs_as_much_as_the_rarest_in_generalized_dice() -> None:
    logits = torch.randn(1, 3, 10, dtype=FLOAT64)
    labels = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0, 1, 1]])
    p, t = torch.softmax(logits, 1), masks(labels, 3)
    for absent, w2 in (("count", 1 / 4), ("skip", 0.0)):
        w = torch.tensor([1 / 64, 1 / 4, w2], dtype=FLOAT64)
        wanted = 1 - 2 * (w * (p * t).sum(2)).sum() / (w * (p + t).sum(2)).sum()
        torch.testing.assert_close(generalized_dice_loss(logits, labels, absent=absent), wanted)


@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
def test_generalized_dice_may_leave_absent_classes_out(weighting: str) -> None:
    logits = torch.randn(1, 3, 10, dtype=FLOAT64)
    labels = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0, 1, 1]])
    of_present = generalized_dice_loss(
        torch.softmax(logits, 1)[:, :2],
        masks(labels, 3)[:, :2],
        class_weighting=weighting,
        activation="none",
    )
    found = generalized_dice_loss(logits, labels, class_weighting=weighting, absent="skip")
    torch.testing.assert_close(found, of_present)


def test_relations_between_the_losses() -> None:
    logits, labels = labelled(2, 30)
    dice = dice_loss(logits, labels, reduction="none")
    tversky = tversky_loss(logits, labels, alpha=0.5, beta=0.5, smooth=0.5, reduction="none")
    torch.testing.assert_close(dice, tversky)
    jaccard = jaccard_loss(logits, labels, smooth=0.0, reduction="none")
    dice = dice_loss(logits, labels, smooth=0.0, reduction="none")
    torch.testing.assert_close(jaccard, 2 * dice / (1 + dice))


@every_loss
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_soft_targets_are_best_predicted_by_themselves(loss: Any, activation: str) -> None:
    if activation == "softmax":
        target = torch.softmax(torch.randn(2, 3, 8, dtype=FLOAT64), 1)
        best = target.log()
    else:
        target = torch.rand(2, 3, 8, dtype=FLOAT64)
        best = torch.logit(target) if activation == "sigmoid" else target
    least = loss(best, target, activation=activation)
    assert least < 1e-12
    for size in (1e-3, 0.1):
        moved = best + size * torch.randn_like(best)
        moved = moved.clamp(0, 1) if activation == "none" else moved
        assert loss(moved, target, activation=activation) > least


@pytest.mark.parametrize("loss", [dice_loss, jaccard_loss])
def test_squared_losses_are_best_at_soft_targets(loss: Any) -> None:
    target = torch.rand(2, 3, 8, dtype=FLOAT64)
    options = {"squared": True, "activation": "none"}
    assert loss(target, target, **options) == 0
    assert loss((target + 0.01).clamp(max=1), target, **options) > 0


@every_loss
def test_small_losses_keep_their_digits(loss: Any) -> None:
    labels = torch.randint(0, 3, (2, 50))
    logits = 12.0 * masks(labels, 3).float()
    for target in (labels, masks(labels, 3).float()):
        exact = loss(logits.double(), target)
        assert exact < 1e-2
        torch.testing.assert_close(loss(logits, target).double(), exact, rtol=1e-5, atol=0)
        exact = loss(logits.double(), target.double() if target.is_floating_point() else target,
                     activation="sigmoid")  # fmt: skip
        found = loss(logits, target, activation="sigmoid")
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


@every_loss
def test_perfect_predictions_have_no_gradient(loss: Any) -> None:
    labels = torch.randint(0, 3, (2, 50))
    logits = (1e4 * masks(labels, 3).float()).requires_grad_()
    value = loss(logits, labels)
    value.backward()
    assert value == 0
    assert not logits.grad.any()


def test_sums_over_the_batch_and_over_classes() -> None:
    logits, labels = labelled(4, 6)
    p, t = torch.softmax(logits, 1), masks(labels, 3)

    def dice(axes: tuple[int, ...]) -> Tensor:
        return 1 - (2 * (p * t).sum(axes) + 1) / ((p + t).sum(axes) + 1)

    for average, classes, axes in (
        ("sample", "macro", (2,)),
        ("batch", "macro", (0, 2)),
        ("sample", "micro", (1, 2)),
        ("batch", "micro", (0, 1, 2)),
    ):
        options = {"average": average, "classes": classes}
        found = dice_loss(logits, labels, reduction="none", **options)
        torch.testing.assert_close(found, dice(axes))
        torch.testing.assert_close(dice_loss(logits, labels, **options), dice(axes).mean())


def test_absent_classes() -> None:
    logits, _ = labelled(2, 6)
    labels = torch.tensor([[0, 0, 1, 1, 0, 1], [2, 2, 2, 2, 2, 2]])
    values = dice_loss(logits, labels, reduction="none")
    present = torch.tensor([[True, True, False], [False, False, True]])
    torch.testing.assert_close(dice_loss(logits, labels, absent="skip"), values[present].mean())
    torch.testing.assert_close(dice_loss(logits, labels), values.mean())
    skipped = dice_loss(logits, labels, absent="skip", reduction="none")
    torch.testing.assert_close(skipped, torch.where(present, values, 0.0))


def test_class_weights_and_background() -> None:
    logits, labels = labelled(2, 6)
    values = dice_loss(logits, labels, reduction="none")
    weight = torch.tensor([0.0, 1.0, 3.0])
    found = dice_loss(logits, labels, weight=weight)
    torch.testing.assert_close(found, (values @ weight.double()).sum() / 8)
    plain = dice_loss(logits, labels, include_background=False, reduction="none")
    torch.testing.assert_close(plain, values[:, 1:])
    found = dice_loss(logits, labels, weight=weight, include_background=False)
    torch.testing.assert_close(found, (values @ weight.double()).sum() / 8)
    found = dice_loss(logits, labels, weight=weight, average="batch", reduction="none")
    values = dice_loss(logits, labels, average="batch", reduction="none")
    torch.testing.assert_close(found, values * weight)


def test_a_mask_may_ignore_one_class_of_a_pixel() -> None:
    logits = torch.randn(1, 2, 4, dtype=FLOAT64)
    target = torch.tensor([[[1.0, 0.0, 1.0, -100.0], [0.0, 1.0, -100.0, -100.0]]], dtype=FLOAT64)
    found = dice_loss(logits, target, activation="sigmoid", reduction="none")
    for c, kept in ((0, 3), (1, 2)):
        one = logits[:, c : c + 1, :kept], target[:, c : c + 1, :kept]
        wanted = dice_loss(*one, activation="sigmoid", reduction="none")
        torch.testing.assert_close(found[:, c : c + 1], wanted)


@every_loss
def test_ignored_masks_may_hold_anything(loss: Any) -> None:
    logits, labels = labelled(3, 8, ignored=True)
    target = masks(labels, 3)
    target[0] = -100.0  # a whole sample
    ignored = (target == -100).requires_grad_(False)
    for activation in ("softmax", "sigmoid"):
        results = []
        for poison in (0.0, float("nan"), float("inf"), -1e30):
            leaf = logits.masked_fill(ignored, poison).requires_grad_()
            value = loss(leaf, target, activation=activation)
            (slope,) = torch.autograd.grad(value, leaf)
            assert not slope[ignored].any()
            results.append((value.detach(), slope))
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("average", ["sample", "batch"])
def test_a_sweep_gives_the_gradient_of_the_plain_formula(
    loss: Any, ignored: bool, average: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, labels = labelled(3, 5, 7, classes=4, ignored=ignored)
    leaf = logits.clone().requires_grad_()
    wanted = loss(leaf, labels, average=average)
    (slope,) = torch.autograd.grad(wanted, leaf)
    for block in (3, 40, 100):
        monkeypatch.setattr(sweeping, "BLOCK", block)
        swept = []
        one = _Confusion.of_labels_gradient
        monkeypatch.setattr(
            _Confusion, "of_labels_gradient",
            lambda *a, one=one, swept=swept: swept.append(1) or one(*a),
        )  # fmt: skip
        found = loss(leaf, labels, average=average)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(found, leaf)[0], slope, rtol=1e-10, atol=1e-15
        )
        assert len(swept) > 1
        monkeypatch.setattr(_Confusion, "of_labels_gradient", one)


def test_the_derived_gradient_is_that_of_autograd_for_any_derivatives_in_the_sums() -> None:
    logits, labels = labelled(2, 9, ignored=True)
    formula = _Confusion("softmax", -100)
    upstream = [torch.randn(2, 3, dtype=FLOAT64) for _ in range(3)]
    leaf = logits.clone().requires_grad_()
    sums = formula.of_labels(leaf, labels)
    (wanted,) = torch.autograd.grad(sums[:2], leaf, upstream[:2])
    found = formula.of_labels_gradient(logits, labels, *upstream)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(lambda x: formula.of_labels(x, labels)[:2], leaf)


@pytest.mark.parametrize("ignored", [-100, 1])
def test_labels_take_the_same_way_as_masks(ignored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formulas for eager and for compiled graphs, and the general one."""
    logits, labels = labelled(2, 9)
    labels[0, :3] = ignored
    formula = _Confusion("softmax", ignored)
    target = masks(labels, 3)
    target[(labels == ignored).unsqueeze(1).expand_as(target)] = -100.0
    general = _Confusion("softmax", -100).sums(logits, target)
    eager = formula.of_labels(logits, labels)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    compiled = formula.of_labels(logits, labels)
    for one, other, third in zip(general, eager, compiled, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(one, third)


@every_loss
def test_nothing_to_compare_is_zero(loss: Any) -> None:
    for shape in ((0, 3, 4), (2, 3, 0)):
        logits = torch.randn(shape, requires_grad=True)
        labels = torch.zeros(shape[0], shape[2], dtype=torch.long)
        for average in ("sample", "batch"):
            value = loss(logits, labels, average=average)
            value.backward()
            assert value == 0
            assert not logits.grad.any()
    empty = torch.zeros(2, 3, 4)
    logits = torch.full((2, 3, 4), -1e4, requires_grad=True)
    value = loss(logits, empty, activation="sigmoid")
    value.backward()
    assert value == 0
    assert torch.isfinite(logits.grad).all()


@every_loss
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_class_may_be_ignored(loss: Any, activation: str) -> None:
    logits, labels = labelled(2, 20)
    target = masks(labels, 3).masked_fill((labels == 0).unsqueeze(1), -100.0)
    wanted = loss(logits, target, activation=activation)
    torch.testing.assert_close(loss(logits, labels, ignore_index=0, activation=activation), wanted)


def test_one_item_without_a_batch() -> None:
    logits, label = torch.randn(4), torch.tensor(2)
    value = dice_loss(logits, label)
    torch.testing.assert_close(value, dice_loss(logits.unsqueeze(0), label.unsqueeze(0)))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 5), st.floats(0, 2), st.floats(0, 2))
def test_values_lie_between_0_and_1(seed: int, smooth: float, alpha: float, beta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 30 * torch.randn(2, 3, 7, generator=generator)
    labels = torch.randint(0, 3, (2, 7), generator=generator)
    for values in (
        dice_loss(logits, labels, smooth=smooth, reduction="none"),
        jaccard_loss(logits, labels, smooth=smooth, reduction="none"),
        tversky_loss(logits, labels, alpha=alpha, beta=beta, smooth=smooth, reduction="none"),
        generalized_dice_loss(logits, labels, reduction="none"),
    ):
        assert (values >= 0).all()
        assert (values <= 1 + 1e-6).all()


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"smooth": -1.0}, ValueError, "smooth"),
    ({"smooth": float("nan")}, ValueError, "smooth"),
    ({"squared": 1}, TypeError, "squared"),
    ({"activation": "tanh"}, ValueError, "activation"),
    ({"activation": "none"}, ValueError, "`input` must hold numbers from 0 to 1"),
    ({"average": "image"}, ValueError, "average"),
    ({"classes": None}, ValueError, "classes"),
    ({"absent": "ignore"}, ValueError, "absent"),
    ({"include_background": "no"}, TypeError, "include_background"),
    ({"ignore_index": 1.5}, TypeError, "ignore_index"),
    ({"weight": torch.ones(2)}, ValueError, "each of the 3 classes"),
    ({"weight": -torch.ones(3)}, ValueError, "weight"),
    ({"weight": [1.0, 1.0, 1.0]}, TypeError, "weight"),
    ({"weight": torch.ones(3), "classes": "micro"}, ValueError, "macro"),
    ({"reduction": "average"}, ValueError, "reduction"),
    ({"normalizer": -1}, ValueError, "normalizer"),
    ({"target": torch.tensor([[0, 1], [2, 3]])}, ValueError, "classes from 0 to 2"),
    ({"target": torch.zeros(2, 3, dtype=torch.long)}, ValueError, "a label for each pixel"),
    ({"target": torch.zeros(2, 2)}, ValueError, "same shape"),
    ({"target": torch.full((2, 3, 2), 2.0)}, ValueError, "`target` must hold numbers from 0"),
    ({"target": torch.zeros(2, 2, dtype=torch.bool)}, TypeError, "target"),
    ({"input": torch.randn(2, 1, 2), "target": torch.zeros(2, 2).long()}, ValueError, "2 classes"),
    (
        {"input": torch.ones(2, 1, 2), "activation": "sigmoid"},
        ValueError,
        "`target` must be a mask",
    ),
    ({"input": torch.tensor(1.0)}, ValueError, "input"),
    ({"input": torch.zeros(2, 3, 2).long()}, TypeError, "input"),
]


@pytest.mark.parametrize(("changed", "error", "message"), WRONG)
def test_wrong_calls(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    call = {"input": 3 * torch.ones(2, 3, 2), "target": torch.zeros(2, 2).long(), **changed}
    with pytest.raises(error, match=message):
        dice_loss(call.pop("input"), call.pop("target"), **call)


def test_wrong_hyper_parameters() -> None:
    logits, labels = labelled(2, 4)
    for name in ("alpha", "beta", "smooth"):
        for value, error in ((-0.1, ValueError), ("1", TypeError), (True, TypeError)):
            for loss in (tversky_loss, focal_tversky_loss):
                with pytest.raises(error, match=name):
                    loss(logits, labels, **{name: value})
    with pytest.raises(ValueError, match="gamma"):
        focal_tversky_loss(logits, labels, gamma=0)
    with pytest.raises(ValueError, match="class_weighting"):
        generalized_dice_loss(logits, labels, class_weighting="cubic")
    with pytest.raises(ValueError, match="leaves no class"):
        dice_loss(logits[:, :1], masks(labels, 1), activation="sigmoid", include_background=False)
