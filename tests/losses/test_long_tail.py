"""Losses for rare classes: logit adjustment and label-distribution-aware margins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from lossproof.losses.classification import cross_entropy_loss
from lossproof.losses.long_tail import (
    LDAMLoss,
    LogitAdjustedCrossEntropyLoss,
    ldam_loss,
    logit_adjusted_cross_entropy_loss,
)
from lossproof.write import sweeping

COUNTS = torch.tensor([500, 60, 7, 1])


@pytest.fixture(params=[False, True])
def swept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(sweeping, "BLOCK", 8)


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("tau", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logit_adjustment_is_cross_entropy_of_adjusted_logits(tau: float, smoothing: float) -> None:
    input = torch.randn(10, 4, 2, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 4, (10, 2))
    target[0] = -100
    weight = torch.rand(4, dtype=torch.float64)
    prior = COUNTS.double() / COUNTS.sum()
    found = logit_adjusted_cross_entropy_loss(
        input, target, class_counts=COUNTS, tau=tau, weight=weight, label_smoothing=smoothing
    )
    wanted = F.cross_entropy(
        input + tau * prior.log().view(4, 1), target, weight=weight, label_smoothing=smoothing
    )
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, input), torch.autograd.grad(wanted, input), rtol=1e-8, atol=1e-12
    )


def test_balanced_softmax_is_tau_1() -> None:
    """The definition of Ren et al.: exp(x_c) n_c over their sum."""
    input, target = torch.randn(6, 4), torch.randint(0, 4, (6,))
    share = COUNTS * input.exp()
    p = (share / share.sum(1, keepdim=True)).gather(1, target.unsqueeze(1))
    torch.testing.assert_close(
        logit_adjusted_cross_entropy_loss(input, target, class_counts=COUNTS), -p.log().mean()
    )


def test_a_prior_as_prediction_has_the_bayes_optimum_at_equal_logits() -> None:
    """Equal logits predict the prior itself: the gradient over the training set is 0."""
    input = torch.zeros(568, 4, requires_grad=True)
    target = torch.repeat_interleave(torch.arange(4), COUNTS)
    loss = logit_adjusted_cross_entropy_loss(input, target, class_counts=COUNTS)
    (gradient,) = torch.autograd.grad(loss, input)
    assert gradient.sum(0).abs().max() < 1e-6


@pytest.mark.usefixtures("swept")
def test_ldam_by_its_formula() -> None:
    input = torch.rand(10, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 4, (10,))
    margins = COUNTS.double() ** -0.25
    margins = 0.5 * margins / margins.max()
    moved = 30 * (input - margins * F.one_hot(target, 4))
    weight = torch.rand(4, dtype=torch.float64)
    found = ldam_loss(input, target, class_counts=COUNTS, weight=weight)
    wanted = F.cross_entropy(moved, target, weight=weight)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, input), torch.autograd.grad(wanted, input), rtol=1e-8, atol=1e-12
    )


def test_ldam_without_margin_is_scaled_cross_entropy() -> None:
    input, target = torch.rand(5, 4), torch.tensor([0, 1, 2, 3, -100])
    torch.testing.assert_close(
        ldam_loss(input, target, class_counts=COUNTS, max_margin=0.0, scale=8.0),
        cross_entropy_loss(8 * input, target),
    )


def test_only_proportions_of_the_counts_matter() -> None:
    input, target = torch.rand(5, 4), torch.tensor([0, 1, 2, 3, 0])
    for loss in (ldam_loss, logit_adjusted_cross_entropy_loss):
        torch.testing.assert_close(
            loss(input, target, class_counts=COUNTS),
            loss(input, target, class_counts=COUNTS.float() / 1e6),
        )


def test_a_single_sample_and_its_gradient_under_vmap() -> None:
    input, target = torch.rand(5, 4), torch.tensor([0, 1, 2, 3, 0])
    for loss in (LDAMLoss, LogitAdjustedCrossEntropyLoss):
        module = loss(class_counts=COUNTS, reduction="none")
        assert list(module.state_dict()) == ["class_counts"]
        torch.testing.assert_close(torch.func.vmap(module)(input, target), module(input, target))


@pytest.mark.parametrize("loss", [ldam_loss, logit_adjusted_cross_entropy_loss])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_counts": torch.ones(3)}, "`class_counts` must hold one number for each of the 4"),
        ({"class_counts": torch.tensor([1, 2, 3, 0])}, "`class_counts` must hold numbers above 0"),
        ({"class_counts": [1, 2, 3, 4]}, "`class_counts` must be a tensor"),
        ({"class_counts": COUNTS, "weight": torch.ones(5)}, "`weight`"),
    ],
)
def test_wrong_counts(loss: Callable, options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        loss(torch.randn(2, 4), torch.tensor([0, 1]), **options)


def test_wrong_options() -> None:
    input, target = torch.randn(2, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="`tau`"):
        logit_adjusted_cross_entropy_loss(input, target, class_counts=COUNTS, tau=-1)
    with pytest.raises(ValueError, match="`scale`"):
        ldam_loss(input, target, class_counts=COUNTS, scale=0)
    with pytest.raises(ValueError, match="`max_margin`"):
        ldam_loss(input, target, class_counts=COUNTS, max_margin=-0.1)
    with pytest.raises(TypeError, match="`target` must be a tensor of integers"):
        ldam_loss(input, torch.rand(2, 4), class_counts=COUNTS)
