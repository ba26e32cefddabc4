"""Losses of discriminators and generators at scores whose losses are known, and at any size."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import nn

from lossproof.losses import adversarial as gan
from lossproof.losses.gradient_penalty import gradient_penalty_loss

Tensor = torch.Tensor
SCORES = [-1e4, -100.0, -30.0, -1.5, -1.0, 0.0, 0.3, 1.0, 2.0, 30.0, 100.0, 1e4]


def logistic(margin: float) -> float:
    with mpmath.workdps(50):
        return float(mpmath.log1p(mpmath.exp(-mpmath.mpf(margin))))


# The value at a real score, at a generated one, and for the generator.
DEFINITIONS: dict[str, tuple[Callable[[float], float], ...]] = {
    "hinge": (lambda s: max(0.0, 1 - s), lambda s: max(0.0, 1 + s), lambda s: -s),
    "nonsaturating": (logistic, lambda s: logistic(-s), logistic),
    "least_squares": (
        lambda s: 0.5 * (s - 1) ** 2,
        lambda s: 0.5 * s**2,
        lambda s: 0.5 * (s - 1) ** 2,
    ),
    "wasserstein": (lambda s: -s, lambda s: s, lambda s: -s),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_each_pair_of_scores_has_its_value(name: str) -> None:
    at_real, at_fake, for_generator = DEFINITIONS[name]
    grid = torch.tensor([(r, f) for r in SCORES for f in SCORES], dtype=torch.float64)
    real, fake = grid.unbind(1)
    found = getattr(gan, f"{name}_discriminator_loss")(real, fake, reduction="none")
    wanted = [at_real(r) + at_fake(f) for r, f in grid.tolist()]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)
    scores = torch.tensor(SCORES, dtype=torch.float64)
    found = getattr(gan, f"{name}_generator_loss")(scores, reduction="none")
    assert found.tolist() == pytest.approx([for_generator(s) for s in SCORES], rel=1e-12)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_gradients(name: str) -> None:
    real = torch.randn(6, dtype=torch.float64, requires_grad=True)
    fake = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(getattr(gan, f"{name}_discriminator_loss"), (real, fake))
    assert torch.autograd.gradcheck(getattr(gan, f"{name}_generator_loss"), fake)


def test_a_generator_learns_where_the_discriminator_is_sure() -> None:
    fake = torch.tensor([-1e4, -200.0], requires_grad=True)
    gan.nonsaturating_generator_loss(fake, reduction="sum").backward()
    assert fake.grad.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_weights_and_masks(name: str) -> None:
    loss = getattr(gan, f"{name}_discriminator_loss")
    real, fake = torch.randn(2, 4), torch.randn(2, 4)
    mask = torch.tensor([[True, False, True, True], [False, True, True, True]])
    weight = torch.rand(2, 4)
    values = loss(real, fake, reduction="none")
    wanted = (values * weight)[mask].sum() / weight[mask].sum()
    real[~mask], fake[~mask] = math.nan, math.inf
    torch.testing.assert_close(loss(real, fake, weight=weight, mask=mask), wanted)


def test_the_penalty_of_a_critic_of_which_the_slope_is_known() -> None:
    critic = nn.Linear(3, 1, dtype=torch.float64)
    samples = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(samples).sum(), samples, create_graph=True)
    length = critic.weight.norm()
    torch.testing.assert_close(gradient_penalty_loss(slope), (length - 1) ** 2)
    torch.testing.assert_close(gradient_penalty_loss(slope, norm=0.0), length**2)
    (found,) = torch.autograd.grad(gradient_penalty_loss(slope), critic.weight)
    torch.testing.assert_close(found, 2 * (length - 1) * critic.weight / length)


def test_the_penalty_of_images_takes_all_their_pixels() -> None:
    slope = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    wanted = (slope.flatten(1).norm(dim=1) - 2.0).square()
    torch.testing.assert_close(gradient_penalty_loss(slope, norm=2.0, reduction="none"), wanted)
    leaf = slope.requires_grad_()
    assert torch.autograd.gradcheck(lambda g: gradient_penalty_loss(g, norm=2.0), leaf)


@pytest.mark.parametrize(("norm", "value"), [(0.0, 0.0), (1.0, 1.0), (3.0, 9.0)])
def test_a_flat_critic_has_a_finite_penalty(norm: float, value: float) -> None:
    slope = torch.zeros(4, 3, requires_grad=True)
    found = gradient_penalty_loss(slope, norm=norm)
    found.backward()
    assert found == value and not slope.grad.any()


def test_the_penalty_leaves_masked_samples_out() -> None:
    slope, mask = torch.randn(3, 2, 2), torch.tensor([True, False, True])
    wanted = gradient_penalty_loss(slope[mask])
    slope[1] = math.nan
    slope.requires_grad_()
    found = gradient_penalty_loss(slope, mask=mask)
    found.backward()
    torch.testing.assert_close(found, wanted)
    assert slope.grad.isfinite().all()


X = torch.randn(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gan.hinge_discriminator_loss(X, X[:3]), ValueError, "`real` and `fake` must have"),
        (lambda: gan.hinge_discriminator_loss(X, 1.0), TypeError, "`fake` must be a floating"),
        (lambda: gan.hinge_generator_loss(X.int()), TypeError, "`fake` must be a floating-point"),
        (lambda: gan.wasserstein_generator_loss(X, reduction="all"), ValueError, "`reduction`"),
        (lambda: gan.least_squares_generator_loss(X, mask=X), TypeError, "`mask`"),
        (lambda: gradient_penalty_loss(X), ValueError, r"`input` must have the shape \(N, \*\)"),
        (lambda: gradient_penalty_loss(X[:, None], norm=-1.0), ValueError, "`norm`"),
        (lambda: gradient_penalty_loss(X[:, None], mask=X > 0, weight=X[:3]), ValueError, "weight"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    call: Callable[[], Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
