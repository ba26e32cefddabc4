"""Losses for wrong labels: generalised and symmetric cross entropy."""

from __future__ import annotations

import mpmath
import pytest
import torch

from lossproof.losses.classification import cross_entropy_loss
from lossproof.losses.noisy_labels import (
    generalized_cross_entropy_loss,
    symmetric_cross_entropy_loss,
)
from lossproof.write import sweeping

EDGES = (-1e4, -104.0, -30.0, -1.0, 0.0, 1.0, 17.0, 30.0, 80.0)


@pytest.fixture(params=[False, True])
def swept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(sweeping, "BLOCK", 2)


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("q", [0.05, 0.7, 1.0])
@pytest.mark.parametrize("edge", EDGES)
def test_generalized_exact_at_all_margins(q: float, edge: float) -> None:
    input = torch.tensor([[edge, 0.0]]).repeat(8, 1).requires_grad_()
    loss = generalized_cross_entropy_loss(input, torch.zeros(8, dtype=int), q=q)
    x = input[0, 0].item()
    with mpmath.workdps(60):
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(x)))
        value, slope = (1 - p**q) / q, -(p**q) * (1 - p)
    assert loss.item() == pytest.approx(float(value), rel=3e-6)
    (gradient,) = torch.autograd.grad(loss, input)
    assert 8 * gradient[0, 0].item() == pytest.approx(float(slope), rel=2e-5, abs=1e-37)


def test_generalized_goes_to_cross_entropy_and_to_the_absolute_error() -> None:
    input, target = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 4, (6,))
    torch.testing.assert_close(
        generalized_cross_entropy_loss(input, target, q=1e-7),
        cross_entropy_loss(input, target),
        rtol=1e-6,
        atol=0,
    )
    one_hot = target.unsqueeze(1) == torch.arange(4)
    torch.testing.assert_close(
        generalized_cross_entropy_loss(input, target, q=1),
        (input.softmax(1) - one_hot.double()).abs().sum(1).mean() / 2,
    )


@pytest.mark.usefixtures("swept")
def test_generalized_soft_targets_are_the_mean_over_labels() -> None:
    input = torch.randn(6, 4, dtype=torch.float64)
    soft = torch.rand(6, 4, dtype=torch.float64).softmax(1)
    p = input.softmax(1)
    torch.testing.assert_close(
        generalized_cross_entropy_loss(input, soft, q=0.7),
        (soft * (1 - p**0.7) / 0.7).sum(1).mean(),
    )


@pytest.mark.usefixtures("swept")
def test_symmetric_by_its_formula() -> None:
    """Both cross entropies, the second with the logarithm of a clamped one-hot target."""
    input = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 4, (12,))
    p = input.softmax(1)
    one_hot = target.unsqueeze(1) == torch.arange(4)
    log_target = torch.where(one_hot, 0.0, -4.0)
    wanted = 0.1 * cross_entropy_loss(input, target) - (p * log_target).sum(1).mean()
    found = symmetric_cross_entropy_loss(input, target)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, input), torch.autograd.grad(wanted, input), rtol=1e-8, atol=1e-12
    )


@pytest.mark.usefixtures("swept")
def test_symmetric_is_exact_where_the_label_is_nearly_certain() -> None:
    input = torch.tensor([[40.0, 0.0]]).repeat(8, 1)
    value = symmetric_cross_entropy_loss(input, torch.zeros(8, dtype=int)).item()
    assert value == pytest.approx(4.1 * float(mpmath.exp(-40)), rel=1e-5)


def test_ignored_labels_and_weights() -> None:
    input, target = torch.randn(5, 3), torch.tensor([0, 1, 2, -100, 1])
    weight = torch.tensor([1.0, 2.0, 3.0])
    for loss in (generalized_cross_entropy_loss, symmetric_cross_entropy_loss):
        values = loss(input[[0, 1, 2, 4]], target[[0, 1, 2, 4]], reduction="none")
        weights = weight[target[[0, 1, 2, 4]]]
        torch.testing.assert_close(
            loss(input, target, weight=weight), (weights * values).sum() / weights.sum()
        )
        nothing = loss(input * float("nan"), torch.full((5,), -100))
        assert nothing.item() == 0


@pytest.mark.parametrize("q", [0, 1.5, -1, float("nan"), True, "0.7"])
def test_generalized_refuses_another_q(q: object) -> None:
    with pytest.raises(
        (ValueError, TypeError), match="`q` must be a number above 0 and of at most"
    ):
        generalized_cross_entropy_loss(torch.randn(2, 3), torch.tensor([0, 1]), q=q)


@pytest.mark.parametrize("options", [{"alpha": -1}, {"beta": -1}, {"log_zero": 0}])
def test_symmetric_refuses_other_options(options: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        symmetric_cross_entropy_loss(torch.randn(2, 3), torch.tensor([0, 1]), **options)
