"""The Jensen-Shannon divergence between views."""

from __future__ import annotations

import math

import pytest
import torch

from lossproof.losses.consistency import jsd_consistency_loss

NAN = float("nan")


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_it_is_the_mean_divergence_from_the_mean(scale: float, views: int) -> None:
    input = (scale * torch.randn(4, views, 5, dtype=torch.float64)).requires_grad_()
    p = input.softmax(2)
    mean = p.mean(1, keepdim=True)
    wanted = (p * (p.log() - mean.log())).sum(2).mean(1)
    found = jsd_consistency_loss(input, reduction="none")
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), input),
        torch.autograd.grad(wanted.sum(), input),
        rtol=1e-7,
        atol=1e-14,
    )


def test_nearly_equal_views_keep_a_small_positive_value() -> None:
    """In float32 the plain formula gives rounding noise of either sign."""
    exact = torch.randn(50, 1, 8, dtype=torch.float64)
    exact = exact + 1e-3 * torch.randn(50, 3, 8, dtype=torch.float64)
    wanted = jsd_consistency_loss(exact, reduction="none")
    found = jsd_consistency_loss(exact.float(), reduction="none")
    assert (found > 0).all()
    torch.testing.assert_close(found.double(), wanted, rtol=5e-3, atol=0)


@pytest.mark.parametrize("size", [90.0, 1e4])
def test_opposed_certainties_have_the_largest_value(size: float) -> None:
    input = torch.tensor([[[size, 0.0], [0.0, size]]], requires_grad=True)
    loss = jsd_consistency_loss(input)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, input)
    assert torch.isfinite(gradient).all()


def test_equal_views_have_no_gradient() -> None:
    input = torch.randn(4, 1, 5).expand(4, 3, 5).clone().requires_grad_()
    loss = jsd_consistency_loss(input)
    (gradient,) = torch.autograd.grad(loss, input)
    assert loss.item() < 1e-13
    assert gradient.abs().max() < 1e-7


def test_masked_samples_may_hold_anything() -> None:
    input = torch.randn(4, 3, 5)
    mask = torch.tensor([True, False, True, True])
    wanted = jsd_consistency_loss(input[mask])
    input[1] = NAN
    input.requires_grad_()
    loss = jsd_consistency_loss(input, mask=mask)
    torch.testing.assert_close(loss, wanted)
    assert not torch.autograd.grad(loss, input)[0][1].any()


@pytest.mark.parametrize("shape", [(4, 5), (4, 0, 5), (4, 3, 0), (4, 3, 5, 1)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`input` must have"):
        jsd_consistency_loss(torch.randn(shape))
