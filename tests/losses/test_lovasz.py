"""The Lovász losses beside their definition: sets of wrong pixels, one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lossproof.losses import lovasz
from lossproof.losses.lovasz import lovasz_hinge_loss, lovasz_softmax_loss

Tensor = torch.Tensor
FLOAT64 = torch.float64


def extension(errors: Tensor, truth: Tensor) -> Tensor:
    """The Jaccard loss of ever larger sets of wrong pixels, by counting."""
    total, before, wrong = errors.new_zeros(()), 0.0, set[int]()
    for i in errors.argsort(descending=True).tolist():
        wrong.add(i)
        mask = {j for j in range(len(truth)) if truth[j]}
        predicted = mask ^ wrong
        loss = 1 - len(mask & predicted) / len(mask | predicted)
        total = total + errors[i] * (loss - before)
        before = loss
    return total


def defined(logits: Tensor, labels: Tensor, ignored: int = -100) -> Tensor:
    """The value of each class, over all pixels that count; NaN for absent classes."""
    p = torch.softmax(logits, 1).transpose(0, 1).flatten(1)
    keep = labels.flatten() != ignored
    rows = [((labels.flatten() == c)[keep], p[c][keep]) for c in range(len(p))]
    return torch.stack([extension((t.double() - q).abs(), t) for t, q in rows])


@pytest.mark.parametrize("ignored", [False, True])
def test_softmax_by_definition(ignored: bool) -> None:
    logits = torch.randn(2, 3, 2, 5, dtype=FLOAT64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 2, 5))
    if ignored:
        labels[torch.rand(labels.shape) < 0.4] = -100
    wanted = defined(logits, labels)
    found = lovasz_softmax_loss(logits, labels)
    torch.testing.assert_close(found, wanted.mean())
    slopes = [torch.autograd.grad(value, logits)[0] for value in (found, wanted.mean())]
    torch.testing.assert_close(*slopes)
    torch.testing.assert_close(lovasz_softmax_loss(logits, labels, reduction="none"), wanted)
    images = torch.stack(
        [defined(x.unsqueeze(0), t.unsqueeze(0)) for x, t in zip(logits, labels, strict=True)]
    )
    found = lovasz_softmax_loss(logits, labels, per_image=True, classes="all", reduction="none")
    torch.testing.assert_close(found, images)


def test_absent_classes() -> None:
    logits = torch.randn(1, 3, 6, dtype=FLOAT64)
    labels = torch.tensor([[0, 0, 1, 1, -100, 0]])
    values = defined(logits, labels)
    torch.testing.assert_close(values[2], torch.softmax(logits, 1)[0, 2, [0, 1, 2, 3, 5]].max())
    torch.testing.assert_close(lovasz_softmax_loss(logits, labels), values[:2].mean())
    torch.testing.assert_close(lovasz_softmax_loss(logits, labels, classes="all"), values.mean())


def test_class_weights() -> None:
    logits, labels = torch.randn(2, 3, 8, dtype=FLOAT64), torch.randint(0, 3, (2, 8))
    weight = torch.tensor([1.0, 0.0, 3.0])
    for per_image in (False, True):
        options = {"per_image": per_image, "classes": "all"}
        values = lovasz_softmax_loss(logits, labels, reduction="none", **options)
        found = lovasz_softmax_loss(logits, labels, weight=weight, **options)
        wanted = (values * weight).sum(-1).mean() / 4
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("per_image", [False, True])
def test_samples_of_a_single_pixel(per_image: bool) -> None:
    logits = torch.randn(6, 3)
    labels = torch.tensor([0, 1, 2, 2, -100, 1])
    found = lovasz_softmax_loss(logits, labels, per_image=per_image, reduction="none")
    as_images = lovasz_softmax_loss(
        logits.unsqueeze(2), labels.unsqueeze(1), per_image=per_image, reduction="none"
    )
    assert found.shape == ((6, 3) if per_image else (3,))
    torch.testing.assert_close(found, as_images)


def test_probabilities_and_sigmoid() -> None:
    logits, labels = torch.randn(2, 3, 8, dtype=FLOAT64), torch.randint(0, 3, (2, 8))
    given = torch.softmax(logits, 1)
    torch.testing.assert_close(
        lovasz_softmax_loss(given, labels, activation="none"), lovasz_softmax_loss(logits, labels)
    )
    torch.testing.assert_close(
        lovasz_softmax_loss(logits, labels, activation="sigmoid"),
        lovasz_softmax_loss(torch.sigmoid(logits), labels, activation="none"),
    )


@pytest.mark.parametrize("ignored", [False, True])
def test_hinge_by_definition(ignored: bool) -> None:
    logits = 2 * torch.randn(3, 4, 5, dtype=FLOAT64)
    logits.requires_grad_()
    target = torch.randint(0, 2, (3, 4, 5))
    if ignored:
        target[torch.rand(target.shape) < 0.4] = -100
    keep = target != -100
    errors = torch.relu(1 - (2 * target - 1) * logits)
    images = torch.stack(
        [extension(e[k], t[k] == 1) for e, t, k in zip(errors, target, keep, strict=True)]
    )
    found = lovasz_hinge_loss(logits, target, reduction="none")
    torch.testing.assert_close(found, images)
    slopes = [torch.autograd.grad(value.sum(), logits)[0] for value in (found, images)]
    torch.testing.assert_close(*slopes)
    found = lovasz_hinge_loss(logits, target, per_image=False)
    torch.testing.assert_close(found, extension(errors[keep], target[keep] == 1))
    same = lovasz_hinge_loss(logits, target.double())
    torch.testing.assert_close(same, lovasz_hinge_loss(logits, target))


def test_hinge_of_right_logits_is_twice_the_jaccard_loss() -> None:
    target = torch.rand(2, 50) < 0.5
    predicted = torch.rand(2, 50) < 0.5
    value = lovasz_hinge_loss(torch.where(predicted, 1.0, -1.0), target, reduction="none")
    iou = (predicted & target).sum(1) / (predicted | target).sum(1)
    torch.testing.assert_close(value, 2 * (1 - iou))


def test_slopes_keep_their_digits_in_a_large_image() -> None:
    logits = torch.randn(1, 2, 300, 300, requires_grad=True)
    labels = torch.randint(0, 2, (1, 300, 300))
    (found,) = torch.autograd.grad(lovasz_softmax_loss(logits, labels), logits)
    wide = logits.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(lovasz_softmax_loss(wide, labels), wide)
    near = (found - exact).abs() <= 1e-4 * exact.abs() + 1e-12
    assert near.float().mean() > 0.999  # of errors that are equal in float32 one is the larger


def test_perfect_and_confidently_wrong_predictions() -> None:
    labels = torch.randint(0, 3, (2, 30))
    hot = (labels.unsqueeze(1) == torch.arange(3).view(-1, 1)).float()
    logits = (1e4 * hot).requires_grad_()
    value = lovasz_softmax_loss(logits, labels)
    assert value == 0
    assert not torch.autograd.grad(value, logits)[0].any()
    assert lovasz_softmax_loss(-logits, labels) > 0.9
    small = 12 * hot  # p = 1 - 1.2e-5
    exact = lovasz_softmax_loss(small.double(), labels)
    torch.testing.assert_close(
        lovasz_softmax_loss(small, labels).double(), exact, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("loss", [lovasz_softmax_loss, lovasz_hinge_loss])
def test_ignored_pixels_may_hold_anything(loss: Any) -> None:
    shape = (2, 3, 8) if loss is lovasz_softmax_loss else (2, 8)
    logits, labels = torch.randn(shape), torch.randint(0, 2, (2, 8))
    ignored = torch.rand(2, 8) < 0.4
    ignored[1] = True
    labels[ignored] = -100
    outside = ignored.unsqueeze(1).expand(shape) if len(shape) == 3 else ignored
    for per_image in (False, True):
        results = []
        for poison in (0.0, float("nan"), float("inf"), -1e30):
            leaf = logits.masked_fill(outside, poison).requires_grad_()
            value = loss(leaf, labels, per_image=per_image)
            (slope,) = torch.autograd.grad(value, leaf)
            assert not slope[outside].any()
            results.append((value.detach(), slope))
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def test_both_ways_to_sort_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = torch.randn(3, 500)
    fast = lovasz._descending(keys)
    monkeypatch.setattr(lovasz, "visible", lambda keys: False)
    torch.testing.assert_close(keys.gather(1, fast), keys.gather(1, lovasz._descending(keys)))


def test_nothing_to_compare_is_zero() -> None:
    for shape in ((0, 3, 4), (2, 3, 0)):
        logits = torch.randn(shape, requires_grad=True)
        labels = torch.zeros(shape[0], shape[2], dtype=torch.long)
        for options in ({}, {"per_image": True}, {"classes": "all"}):
            value = lovasz_softmax_loss(logits, labels, **options)
            value.backward()
            assert value == 0
            assert not logits.grad.any()
    for shape in ((0, 4), (2, 0), (0,)):
        for per_image in (True, False):
            assert lovasz_hinge_loss(
                torch.randn(shape), torch.zeros(shape), per_image=per_image
            ) == 0  # fmt: skip


WRONG: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (lovasz_softmax_loss, {"per_image": 1}, TypeError, "per_image"),
    (lovasz_softmax_loss, {"classes": "some"}, ValueError, "classes"),
    (lovasz_softmax_loss, {"activation": None}, ValueError, "activation"),
    (lovasz_softmax_loss, {"weight": torch.ones(2)}, ValueError, "3 classes"),
    (lovasz_softmax_loss, {"target": torch.rand(2, 3, 4)}, TypeError, "integers"),
    (lovasz_softmax_loss, {"target": torch.full((2, 4), 3)}, ValueError, "classes from 0 to 2"),
    (lovasz_softmax_loss, {"reduction": 1}, ValueError, "reduction"),
    (lovasz_hinge_loss, {"target": torch.zeros(2, 4).long()}, ValueError, "same shape"),
    (lovasz_hinge_loss, {"target": torch.full((2, 3, 4), 2)}, ValueError, "0 or 1"),
    (lovasz_hinge_loss, {"per_image": None}, TypeError, "per_image"),
    (lovasz_hinge_loss, {"ignore_index": 0.5}, TypeError, "ignore_index"),
    (lovasz_hinge_loss, {"normalizer": "3"}, TypeError, "normalizer"),
]


@pytest.mark.parametrize(("loss", "changed", "error", "message"), WRONG)
def test_wrong_calls(
    loss: Any, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    shape = (2, 4) if loss is lovasz_softmax_loss else (2, 3, 4)
    call = {"target": torch.zeros(shape).long(), **changed}
    with pytest.raises(error, match=message):
        loss(torch.randn(2, 3, 4), call.pop("target"), **call)
