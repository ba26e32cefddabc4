"""Scores of a whole distribution, against the integral that defines them and against all pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from lossproof.losses.scoring import crps_ensemble_loss, crps_gaussian_loss, energy_score_loss

Tensor = torch.Tensor
FLOAT64 = torch.float64


def crps(cdf: Callable[[mpf], mpf], y: float, kinks: list[float]) -> mpf:
    """The integral of the squared distance of two distribution functions."""
    points = sorted({-mpmath.inf, mpmath.inf, mpf(y), *map(mpf, kinks)})
    return mpmath.fsum(
        mpmath.quad(lambda x, high=high: (cdf(x) - (1 if high > y else 0)) ** 2, [low, high])
        for low, high in pairwise(points)
    )


@pytest.mark.parametrize(("m", "s"), [(0.0, 1.0), (1.5, 0.3), (-2.0, 4.0), (5.0, 1.0)])
def test_crps_of_a_normal_distribution_is_its_integral(m: float, s: float) -> None:
    exact = crps(lambda x: mpmath.ncdf(x, m, s), 0.5, [m - 3 * s, m, m + 3 * s])
    found = crps_gaussian_loss(
        torch.tensor([m], dtype=FLOAT64), torch.tensor([0.5], dtype=FLOAT64), s
    )
    assert found.item() == pytest.approx(float(exact), rel=1e-9)


def closed_form(x: mpf, y: mpf, s: mpf) -> mpf:
    z = (y - x) / s
    return s * (z * (2 * mpmath.ncdf(z) - 1) + 2 * mpmath.npdf(z) - 1 / mpmath.sqrt(mpmath.pi))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (FLOAT64, 2e-15)])
def test_crps_of_a_normal_distribution_in_the_tails(dtype: torch.dtype, tolerance: float) -> None:
    rows = [
        (e, 0.0, s) for e in (-1e4, -50.0, -6.0, -0.1, 1e-5, 2.0, 9.0) for s in (0.01, 1.0, 8.0)
    ]
    input, target, scale = (t.clone() for t in torch.tensor(rows, dtype=dtype).unbind(-1))
    input.requires_grad_(), scale.requires_grad_()
    values = crps_gaussian_loss(input, target, scale, reduction="none")
    slopes = torch.autograd.grad(values.sum(), (input, scale))
    with mpmath.workdps(60):
        for row in range(len(rows)):
            x, y, s = (mpf(t[row].item()) for t in (input, target, scale))
            exact = closed_form(x, y, s)
            assert abs(values[row].item() - exact) <= 4 * tolerance * exact
            density = 2 * mpmath.npdf((x - y) / s)
            along = mpmath.erf((x - y) / (s * mpmath.sqrt(2))), density - 1 / mpmath.sqrt(mpmath.pi)
            for slope, exact in zip(slopes, along, strict=True):
                assert abs(slope[row].item() - exact) <= 4 * tolerance, (x, s)


def naive(members: np.ndarray, y: float, fair: bool) -> float:
    """By all pairs of members."""
    m = len(members)
    pairs = np.abs(members[:, None] - members[None, :]).sum()
    return float(np.abs(members - y).mean() - pairs / (2 * m * (m - 1 if fair else m)))


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=9),
    st.floats(-100, 100),
    st.booleans(),
)
def test_crps_of_an_ensemble_is_that_of_all_pairs(
    members: list[float], y: float, fair: bool
) -> None:
    found = crps_ensemble_loss(
        torch.tensor([members], dtype=FLOAT64), torch.tensor([y], dtype=FLOAT64), fair=fair
    )
    exact = naive(np.array(members), y, fair)
    assert found.item() == pytest.approx(exact, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("members", [[1.0], [0.5, 3.0], [-2.0, 0.0, 0.0, 1.0, 9.0]])
def test_crps_of_an_ensemble_is_the_integral_of_its_steps(members: list[float]) -> None:
    def cdf(x: mpf) -> mpf:
        return mpf(sum(member <= x for member in members)) / len(members)

    exact = crps(cdf, 0.75, members)
    found = crps_ensemble_loss(
        torch.tensor([members], dtype=FLOAT64), torch.tensor([0.75], dtype=FLOAT64)
    )
    assert found.item() == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("fair", [False, True])
def test_the_gradient_of_an_ensemble_is_that_of_all_pairs(fair: bool) -> None:
    input = torch.randn(5, 4, 7, dtype=FLOAT64, requires_grad=True)
    target, m = torch.randn(5, 4, dtype=FLOAT64), 7
    between = (input.unsqueeze(-1) - input.unsqueeze(-2)).abs().sum((-1, -2))
    exact = (input - target.unsqueeze(-1)).abs().mean(-1) - between / (
        2 * m * (m - 1 if fair else m)
    )
    weight = torch.rand(5, 1, dtype=FLOAT64)
    found = crps_ensemble_loss(input, target, fair=fair, weight=weight)
    wanted = (exact * weight).sum() / (weight.sum() * 4)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(
        torch.autograd.grad(found, input), torch.autograd.grad(wanted, input), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("fair", [False, True])
def test_a_large_batch_is_swept_to_the_same(fair: bool) -> None:
    input = torch.randn(4100, 65, requires_grad=True)
    target, mask = torch.randn(4100), torch.rand(4100) < 0.7
    found = crps_ensemble_loss(input, target, fair=fair, mask=mask)
    parts = [
        crps_ensemble_loss(x, y, fair=fair, mask=k, normalizer=mask.sum())
        for x, y, k in zip(input.split(100), target.split(100), mask.split(100), strict=True)
    ]
    torch.testing.assert_close(found, sum(parts))
    (whole,), (pieces,) = (torch.autograd.grad(v, input) for v in (found, sum(parts)))
    torch.testing.assert_close(whole, pieces)


def test_a_sharp_ensemble_keeps_its_digits() -> None:
    spread = torch.randn(1, 50)
    members = 1e-4 * (spread - spread.mean())
    found = crps_ensemble_loss(members, torch.zeros(1))
    exact = crps_ensemble_loss(members.double(), torch.zeros(1, dtype=FLOAT64))
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)


def test_equal_members_are_one_forecast() -> None:
    input = torch.full((3, 6), 2.0, requires_grad=True)
    target = torch.tensor([2.0, 5.0, -1.0])
    values = crps_ensemble_loss(input, target, reduction="none")
    torch.testing.assert_close(values, torch.tensor([0.0, 3.0, 3.0]))
    (slope,) = torch.autograd.grad(values.sum(), input)
    torch.testing.assert_close(slope.sum(-1), torch.tensor([0.0, -1.0, 1.0]))


def test_the_fair_score_does_not_depend_on_the_number_of_members() -> None:
    draws = torch.randn(40_000, 8, dtype=FLOAT64)
    target = torch.randn(40_000, dtype=FLOAT64)
    exact = crps_gaussian_loss(torch.zeros_like(target), target, 1.0).item()
    for m in (2, 8):
        fair = crps_ensemble_loss(draws[:, :m], target, fair=True).item()
        plain = crps_ensemble_loss(draws[:, :m], target).item()
        assert fair == pytest.approx(exact, abs=0.02)
        assert plain == pytest.approx(exact + 1 / (math.sqrt(math.pi) * m), abs=0.02)


def test_a_single_item() -> None:
    members, target = torch.randn(5), torch.tensor(0.3)
    one = crps_ensemble_loss(members, target, reduction="none")
    assert one.shape == ()
    torch.testing.assert_close(one, crps_ensemble_loss(members[None], target[None]))
    assert crps_ensemble_loss(members, target, mask=torch.tensor(False)) == 0


@pytest.mark.parametrize("fair", [False, True])
def test_energy_score(fair: bool) -> None:
    input = torch.randn(6, 5, 3, dtype=FLOAT64, requires_grad=True)
    target = torch.randn(6, 3, dtype=FLOAT64)
    found = energy_score_loss(input, target, fair=fair, reduction="none")
    for x, y, value in zip(input.detach().numpy(), target.numpy(), found.tolist(), strict=True):
        pairs = sum(np.linalg.norm(a - b) for a in x for b in x)
        exact = np.mean([np.linalg.norm(a - y) for a in x]) - pairs / (2 * 5 * (4 if fair else 5))
        assert value == pytest.approx(exact, rel=1e-12)


def test_the_energy_score_of_one_dimension_is_the_crps() -> None:
    input, target = torch.randn(7, 6, dtype=FLOAT64), torch.randn(7, dtype=FLOAT64)
    torch.testing.assert_close(
        energy_score_loss(input.unsqueeze(-1), target.unsqueeze(-1)),
        crps_ensemble_loss(input, target),
    )


def test_the_energy_score_of_equal_vectors_has_a_gradient_of_zero() -> None:
    input = torch.zeros(2, 4, 3, requires_grad=True)
    value = energy_score_loss(input, torch.zeros(2, 3))
    (slope,) = torch.autograd.grad(value, input, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), input, materialize_grads=True)
    assert value.item() == 0
    assert (slope == 0).all()
    assert (curvature == 0).all()


def test_masked_vectors_may_be_anything() -> None:
    input, target = torch.randn(3, 4, 2), torch.randn(3, 2)
    mask = torch.tensor([True, False, True])
    clean = energy_score_loss(input, target, mask=mask)
    spoiled, spoiled_target = input.clone(), target.clone()
    spoiled[1], spoiled_target[1] = math.nan, math.inf
    spoiled.requires_grad_()
    value = energy_score_loss(spoiled, spoiled_target, mask=mask)
    value.backward()
    assert value == clean
    assert spoiled.grad is not None
    assert torch.isfinite(spoiled.grad).all()


@pytest.mark.parametrize(
    ("loss", "shapes", "options", "message"),
    [
        (crps_ensemble_loss, [(4, 3), (3,)], {}, "a last axis for the members, got"),
        (crps_ensemble_loss, [(4,), (4,)], {}, "a last axis for the members, got"),
        (crps_ensemble_loss, [(4, 0), (4,)], {}, "a last axis for the members, got"),
        (crps_ensemble_loss, [(4, 1), (4,)], {"fair": True}, "at least 2 members"),
        (crps_ensemble_loss, [(4, 3), (4,)], {"fair": 1}, "`fair` must be True or False"),
        (energy_score_loss, [(4, 5, 3), (3,)], {}, "an axis for the members before the last"),
        (energy_score_loss, [(4, 5, 3), (4, 2)], {}, "an axis for the members before the last"),
        (energy_score_loss, [(3,), (3,)], {}, r"`input` must have the shape \(\*, m, d\)"),
        (energy_score_loss, [(4, 1, 3), (4, 3)], {"fair": True}, "at least 2 members"),
    ],
)
def test_calls_that_cannot_be(
    loss: Callable[..., Tensor], shapes: list[tuple[int, ...]], options: dict, message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        loss(*(torch.zeros(shape) for shape in shapes), **options)
