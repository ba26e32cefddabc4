"""Hinge."""

from __future__ import annotations

import pytest
import torch

from lossproof.losses.margins import hinge_loss


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("margin", [1.0, 0.25])
def test_hinge_by_cases(squared: bool, margin: float) -> None:
    scores = torch.tensor([2.0, 0.5, 0.1, -3.0, 0.0, 1e4, -1e4])
    for sign in (1.0, -1.0):
        short = [max(0.0, margin - sign * x) for x in scores.tolist()]
        wanted = torch.tensor([s**2 if squared else s for s in short])
        found = hinge_loss(
            scores, torch.full((7,), sign), margin=margin, squared=squared, reduction="none"
        )
        torch.testing.assert_close(found, wanted)


def test_the_gradient_is_the_sign_inside_the_margin_and_0_beyond() -> None:
    scores = torch.tensor([0.5, 0.5, 1.5, -1.5], requires_grad=True)
    loss = hinge_loss(scores, torch.tensor([1.0, -1.0, 1.0, -1.0]), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.tolist() == [-1, 1, 0, 0]


def test_masked_items_may_hold_anything() -> None:
    scores, target = torch.tensor([0.5, float("nan")]), torch.tensor([1.0, 0.0])
    loss = hinge_loss(scores, target, mask=torch.tensor([True, False]))
    assert loss.item() == 0.5


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (torch.tensor([0.0, 1.0]), {}, "`target` must hold -1 or 1, got 0"),
        (torch.tensor([-1.0]), {}, "same shape"),
        (torch.tensor([-1, 1]), {}, "`target` must be a floating-point tensor"),
        (torch.tensor([-1.0, 1.0]), {"margin": 0}, "`margin`"),
        (torch.tensor([-1.0, 1.0]), {"squared": 1}, "`squared` must be True or False"),
        (torch.tensor([-1.0, 1.0]), {"mask": torch.ones(2)}, "`mask`"),
    ],
)
def test_wrong_calls(target: torch.Tensor, options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        hinge_loss(torch.randn(2), target, **options)
