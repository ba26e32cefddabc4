"""Likelihoods and quantile losses against closed forms in fifty digits and what they are for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from lossproof.losses.probabilistic import (
    gaussian_nll_loss,
    laplace_nll_loss,
    mixture_density_loss,
    student_t_nll_loss,
)
from lossproof.losses.quantiles import expectile_loss, interval_score_loss, pinball_loss

Tensor = torch.Tensor
FLOAT64 = torch.float64
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (FLOAT64, 1e-13)], ids=["float32", "float64"]
)


@pytest.fixture(autouse=True)
def fifty_digits() -> Iterator[None]:
    with mpmath.workdps(50):
        yield


# -- likelihoods -------------------------------------------------------------------------------


def gaussian(x: mpf, y: mpf, var: mpf) -> mpf:
    return (mpmath.log(2 * mpmath.pi * var) + (x - y) ** 2 / var) / 2


def laplace(x: mpf, y: mpf, b: mpf) -> mpf:
    return mpmath.log(2 * b) + abs(x - y) / b


def student_t(x: mpf, y: mpf, s: mpf, nu: mpf) -> mpf:
    ratio = mpmath.loggamma(nu / 2) - mpmath.loggamma((nu + 1) / 2)
    tail = (nu + 1) / 2 * mpmath.log1p(((x - y) / s) ** 2 / nu)
    return mpmath.log(s) + mpmath.log(nu * mpmath.pi) / 2 + ratio + tail


ERRORS = (-1e4, -30.0, -1.5, 0.25, 3.0, 100.0)
SCALES = (1e-3, 0.5, 1.0, 40.0)


@DTYPES
@pytest.mark.parametrize(
    ("loss", "truth", "more"),
    [
        (partial(gaussian_nll_loss, full=True), gaussian, ()),
        (laplace_nll_loss, laplace, ()),
        (student_t_nll_loss, student_t, ((0.25, 1.0, 4.0, 15.0, 17.0, 1e4),)),
    ],
    ids=["gaussian", "laplace", "student"],
)
def test_likelihood(
    loss: Callable[..., Tensor],
    truth: Callable[..., mpf],
    more: tuple,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    points = list(product(ERRORS, (0.0,), SCALES, *more))
    tensors = [t.clone().requires_grad_() for t in torch.tensor(points, dtype=dtype).unbind(-1)]
    values = loss(*tensors, reduction="none")
    predicted = [i for i in range(len(tensors)) if i != 1]
    slopes = torch.autograd.grad(values.sum(), [tensors[i] for i in predicted])
    for row, value in enumerate(values.tolist()):
        point = [mpf(t[row].item()) for t in tensors]
        exact = truth(*point)
        assert abs(value - exact) <= tolerance * max(abs(exact), 1), point
        for i, slope in zip(predicted, slopes, strict=True):

            def along(number: mpf, i: int = i, point: list[mpf] = point) -> mpf:
                return truth(*point[:i], number, *point[i + 1 :])

            exact = mpmath.diff(along, point[i], h=abs(point[i]) * mpf(10) ** -18)
            assert abs(slope[row].item() - exact) <= tolerance * max(abs(exact), 1), (point, i)


def test_students_t_with_many_degrees_of_freedom_is_normal() -> None:
    input, target = torch.randn(2, 50)
    for df in (1e12, 1e30):
        found = student_t_nll_loss(input, target, 2.0, df, reduction="none")
        exact = gaussian_nll_loss(input, target, 4.0, full=True, reduction="none")
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("full", [False, True])
def test_torchs_gaussian(full: bool) -> None:
    input, target = torch.randn(2, 6, 5, dtype=FLOAT64)
    var = torch.rand(6, 5, dtype=FLOAT64) + 0.1
    found = gaussian_nll_loss(input, target, var, full=full)
    torch.testing.assert_close(found, F.gaussian_nll_loss(input, target, var, full=full))


def test_the_plain_gaussian_has_true_derivatives() -> None:
    # The battery leaves them out, because `beta` stops the gradient.
    input, target = torch.randn(2, 6, dtype=FLOAT64)
    var = torch.rand(6, dtype=FLOAT64) + 0.1
    leaves = (input.requires_grad_(), target.requires_grad_(), var.requires_grad_())
    assert torch.autograd.gradcheck(gaussian_nll_loss, leaves)
    assert torch.autograd.gradgradcheck(gaussian_nll_loss, leaves)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_beta_nll_scales_each_gradient_by_the_variance(beta: float) -> None:
    input, target = torch.randn(2, 20, dtype=FLOAT64)
    var = torch.rand(20, dtype=FLOAT64) + 0.1
    leaves = [t.clone().requires_grad_() for t in (input, var)]
    plain = gaussian_nll_loss(leaves[0], target, leaves[1], reduction="none")
    scaled = gaussian_nll_loss(leaves[0], target, leaves[1], beta=beta, reduction="none")
    torch.testing.assert_close(scaled, plain * var**beta)
    for found, slope in zip(
        torch.autograd.grad(scaled.sum(), leaves),
        torch.autograd.grad(plain.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(found, slope * var**beta)


def test_with_a_beta_of_one_the_mean_has_the_gradient_of_the_squared_error() -> None:
    input = torch.randn(20, dtype=FLOAT64, requires_grad=True)
    target, var = torch.randn(20, dtype=FLOAT64), torch.rand(20, dtype=FLOAT64) + 0.1
    value = gaussian_nll_loss(input, target, var, beta=1.0, reduction="sum")
    (slope,) = torch.autograd.grad(value, input)
    torch.testing.assert_close(slope, input.detach() - target)


def test_a_number_is_the_same_for_all() -> None:
    input, target = torch.randn(2, 6, 5, dtype=FLOAT64)
    for loss in (gaussian_nll_loss, laplace_nll_loss, partial(student_t_nll_loss, df=3.0)):
        spread = torch.full_like(input, 0.25)
        torch.testing.assert_close(loss(input, target, 0.25), loss(input, target, spread))


@pytest.mark.parametrize("loss", [gaussian_nll_loss, laplace_nll_loss])
@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.tensor([1.0, 0.0]), "must hold numbers above 0, got 0"),
        (torch.ones(1), r"must have the same shape, got \[2\] and \[1\]"),
        (torch.ones(2, dtype=torch.int64), "must be a floating-point tensor, got torch.int64"),
        (0.0, "must be a number above 0, got 0.0"),
        (math.nan, "must be a number above 0, got nan"),
        (True, "must be a number above 0, got True"),
        (None, "must be a number above 0, got None"),
    ],
)
def test_a_scale_that_cannot_be(loss: Callable[..., Tensor], scale: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        loss(torch.ones(2), torch.ones(2), scale)


def test_masked_items_may_be_anything() -> None:
    input = torch.tensor([0.5, math.nan, math.inf], requires_grad=True)
    scale = torch.tensor([0.5, math.nan, -1.0], requires_grad=True)
    df = torch.tensor([3.0, -math.inf, math.nan], requires_grad=True)
    target, mask = torch.tensor([2.0, math.nan, -3.0]), torch.tensor([True, False, False])
    value = student_t_nll_loss(input, target, scale, df, mask=mask)
    value.backward()
    alone = student_t_nll_loss(torch.tensor(0.5), torch.tensor(2.0), 0.5, 3.0)
    torch.testing.assert_close(value, alone)
    for tensor in (input, scale, df):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert (tensor.grad[1:] == 0).all()


# -- mixtures ----------------------------------------------------------------------------------


def mixture(means: list[mpf], y: mpf, scales: list[mpf], logits: list[mpf]) -> mpf:
    weights = [mpmath.exp(x) for x in logits]
    densities = [
        w * mpmath.exp(-(((y - m) / s) ** 2) / 2) / (s * mpmath.sqrt(2 * mpmath.pi))
        for w, m, s in zip(weights, means, scales, strict=True)
    ]
    return -mpmath.log(mpmath.fsum(densities) / mpmath.fsum(weights))


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_mixture(size: float) -> None:
    means, logits = torch.randn(2, 4, 3, dtype=FLOAT64) * size
    target, scales = torch.randn(4, dtype=FLOAT64), torch.rand(4, 3, dtype=FLOAT64) + 0.1
    values = mixture_density_loss(means, target, scales, logits, reduction="none")
    for m, y, s, x, value in zip(means, target, scales, logits, values.tolist(), strict=True):
        exact = mixture(
            *([mpf(v) for v in t.tolist()] if t.ndim else mpf(t.item()) for t in (m, y, s, x))
        )
        assert value == pytest.approx(float(exact), rel=1e-12)


def test_a_mixture_of_one_is_normal() -> None:
    input, target = torch.randn(2, 7)
    scale = torch.rand(7) + 0.1
    found = mixture_density_loss(
        input.unsqueeze(-1), target, scale.unsqueeze(-1), torch.randn(7, 1)
    )
    torch.testing.assert_close(found, gaussian_nll_loss(input, target, scale**2, full=True))


def test_a_mixture_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match="a last axis for the components, got"):
        mixture_density_loss(torch.zeros(4, 3), torch.zeros(3), 1.0, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="`input` and `logits` must have the same shape"):
        mixture_density_loss(torch.zeros(4, 3), torch.zeros(4), 1.0, torch.zeros(4, 2))


# -- quantiles ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.001, 0.25, 0.5, 0.9])
def test_the_quantile_is_what_minimises_the_pinball_loss(level: float) -> None:
    target = torch.randn(999, dtype=FLOAT64)
    quantile = torch.quantile(target, level, interpolation="nearest")
    candidates = torch.cat([target, torch.linspace(-4, 4, 101, dtype=FLOAT64)])
    values = torch.stack(
        [pinball_loss(c.expand_as(target), target, quantiles=level) for c in candidates]
    )
    best = pinball_loss(quantile.expand_as(target), target, quantiles=level)
    assert best <= values.min() + 1e-3 / 999


@given(st.floats(0.01, 0.99), st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_pinball(level: float, x: float, y: float) -> None:
    input = torch.tensor([x], dtype=FLOAT64, requires_grad=True)
    value = pinball_loss(input, torch.tensor([y], dtype=FLOAT64), quantiles=level)
    (slope,) = torch.autograd.grad(value, input)
    assert value.item() == pytest.approx(max(level * (y - x), (level - 1) * (y - x)), rel=1e-12)
    assert slope.item() == pytest.approx(0 if x == y else -level if y > x else 1 - level)


def test_several_quantiles_are_one_after_the_other() -> None:
    levels = (0.1, 0.5, 0.9)
    input, target = torch.randn(6, 5, 3), torch.randn(6, 5)
    values = pinball_loss(input, target, quantiles=levels, reduction="none")
    for k, level in enumerate(levels):
        single = pinball_loss(input[..., k], target, quantiles=level, reduction="none")
        torch.testing.assert_close(values[..., k], single)
    torch.testing.assert_close(pinball_loss(input, target, quantiles=list(levels)), values.mean())
    mask = torch.rand(6, 5, 1) < 0.5
    masked = pinball_loss(input, target, quantiles=levels, mask=mask)
    torch.testing.assert_close(masked, values[mask.squeeze(-1)].mean())


@pytest.mark.parametrize(
    ("quantiles", "message"),
    [
        (0.0, "`quantiles` must be a number above 0 and below 1, got 0.0"),
        (1, "above 0 and below 1"),
        ("0.5", "above 0 and below 1"),
        (None, "above 0 and below 1"),
        ((), "must ascend"),
        ((0.5, 0.1), "must ascend"),
        ((0.5, 0.5), "must ascend"),
        ((0.1, 2.0), "above 0 and below 1"),
        ((0.1, True), "above 0 and below 1"),
        ((0.1, 0.9), r"must hold 2 quantiles on its last axis, got \[4, 3\]"),
    ],
)
def test_levels_that_cannot_be(quantiles: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        pinball_loss(torch.zeros(4, 3), torch.zeros(4), quantiles=quantiles)


def test_one_level_takes_no_axis_of_quantiles() -> None:
    with pytest.raises(ValueError, match="same shape"):
        pinball_loss(torch.zeros(4, 1), torch.zeros(4), quantiles=0.5)


def test_expectile_of_the_middle_is_half_the_squared_error() -> None:
    input, target = torch.randn(2, 30, dtype=FLOAT64)
    torch.testing.assert_close(expectile_loss(input, target), 0.5 * F.mse_loss(input, target))


def test_the_level_of_an_expectile_is_as_exact_as_the_numbers() -> None:
    target = torch.tensor([1.0, -1.0], dtype=FLOAT64)
    found = expectile_loss(torch.zeros_like(target), target, expectile=0.1, reduction="none")
    assert found.tolist() == [0.1, 0.9]


@pytest.mark.parametrize("level", [0.1, 0.8])
def test_the_expectile_balances_the_two_sides(level: float) -> None:
    target = torch.randn(200, dtype=FLOAT64)
    low, high = target.min().item(), target.max().item()

    def imbalance(m: float) -> float:
        above, below = (target - m).relu().sum(), (m - target).relu().sum()
        return float(level * above - (1 - level) * below)

    expectile = float(
        mpmath.findroot(
            lambda m: imbalance(float(m)), (low, high), solver="anderson", tol=1e-20, verify=False
        )
    )
    input = torch.full_like(target, expectile, requires_grad=True)
    value = expectile_loss(input, target, expectile=level)
    (slope,) = torch.autograd.grad(value, input)
    assert abs(slope.sum().item()) < 1e-6


@pytest.mark.parametrize("alpha", [0.05, 0.5])
def test_the_interval_score_is_two_pinball_losses(alpha: float) -> None:
    lower, upper, target = torch.randn(3, 40, dtype=FLOAT64)  # many of these intervals are crossed
    found = interval_score_loss(lower, upper, target, alpha=alpha, reduction="none")
    ends = [
        pinball_loss(end, target, quantiles=level, reduction="none")
        for end, level in ((lower, alpha / 2), (upper, 1 - alpha / 2))
    ]
    torch.testing.assert_close(found, 2 / alpha * (ends[0] + ends[1]))
    assert (found > 0).all()


@pytest.mark.parametrize(
    ("loss", "tensors", "options", "message"),
    [
        (expectile_loss, 2, {"expectile": 1.0}, "`expectile` must be a number above 0 and below 1"),
        (interval_score_loss, 3, {"alpha": 0.0}, "`alpha` must be a number above 0 and below 1"),
        (partial(gaussian_nll_loss, var=1.0), 2, {"beta": 1.5}, "`beta` must be a number of"),
        (partial(gaussian_nll_loss, var=1.0), 2, {"full": 1}, "`full` must be True or False"),
    ],
)
def test_options_out_of_range(
    loss: Callable[..., Tensor], tensors: int, options: dict, message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        loss(*torch.zeros(tensors, 2), **options)
