"""Losses for counts against closed forms in fifty digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import mpmath
import pytest
import torch
import torch.nn.functional as F
from mpmath import mpf
from torch import distributions

from lossproof.losses._distribution import log_gamma_growth
from lossproof.losses.counts import negative_binomial_nll_loss, poisson_nll_loss, tweedie_loss

Tensor = torch.Tensor
FLOAT64 = torch.float64
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (FLOAT64, 1e-13)], ids=["float32", "float64"]
)


@pytest.fixture(autouse=True)
def fifty_digits() -> Iterator[None]:
    with mpmath.workdps(50):
        yield


def poisson(x: mpf, y: mpf) -> mpf:
    return mpmath.exp(x) - y * x + mpmath.loggamma(y + 1)


def tweedie(x: mpf, y: mpf, p: float) -> mpf:
    p = mpf(p)
    return y * mpmath.exp((1 - p) * x) / (p - 1) + mpmath.exp((2 - p) * x) / (2 - p)


def negative_binomial(x: mpf, y: mpf, alpha: mpf) -> mpf:
    r, mean = 1 / alpha, mpmath.exp(x)
    coefficient = mpmath.loggamma(y + r) - mpmath.loggamma(r) - mpmath.loggamma(y + 1)
    hit = mpmath.log(alpha * mean / (1 + alpha * mean))
    return r * mpmath.log1p(alpha * mean) - y * hit - coefficient


def agree(
    loss: Callable[..., Tensor],
    truth: Callable[..., mpf],
    points: list[tuple[float, ...]],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """Value and gradients in all but the target, the second number of each point."""
    tensors = [t.clone().requires_grad_() for t in torch.tensor(points, dtype=dtype).unbind(-1)]
    values = loss(*tensors, reduction="none")
    predicted = [i for i in range(len(tensors)) if i != 1]
    slopes = torch.autograd.grad(values.sum(), [tensors[i] for i in predicted])
    for row, value in enumerate(values.tolist()):
        point = [mpf(t[row].item()) for t in tensors]
        exact = truth(*point)
        assert abs(value - exact) <= tolerance * max(abs(exact), 1e-2), point
        for i, slope in zip(predicted, slopes, strict=True):

            def along(number: mpf, i: int = i, point: list[mpf] = point) -> mpf:
                return truth(*point[:i], number, *point[i + 1 :])

            exact = mpmath.diff(along, point[i], h=abs(point[i]) * mpf(10) ** -18 or mpf(10) ** -18)
            assert abs(slope[row].item() - exact) <= tolerance * max(abs(exact), 1), (point, i)


@DTYPES
def test_poisson(dtype: torch.dtype, tolerance: float) -> None:
    points = list(product((-1e4, -20.0, -1.0, 0.0, 2.0, 20.0), (0.0, 1.0, 7.0, 100.0)))
    agree(partial(poisson_nll_loss, full=True), poisson, points, dtype, tolerance)


@DTYPES
@pytest.mark.parametrize("p", [1.01, 1.5, 1.9])
def test_tweedie(p: float, dtype: torch.dtype, tolerance: float) -> None:
    points = list(product((-20.0, -1.0, 0.0, 2.0, 20.0), (0.0, 0.25, 7.0, 100.0)))
    agree(partial(tweedie_loss, p=p), partial(tweedie, p=p), points, dtype, tolerance)


@DTYPES
def test_negative_binomial(dtype: torch.dtype, tolerance: float) -> None:
    means, counts = (-20.0, -1.0, 0.0, 2.0, 5.0, 1e3), (0.0, 1.0, 3.0, 20.0)
    points = list(product(means, counts, (1e-7, 1e-3, 0.06, 0.12, 0.13, 1.0, 30.0)))
    loss = partial(negative_binomial_nll_loss, full=True)
    agree(loss, negative_binomial, points, dtype, tolerance)


def test_the_negative_binomial_of_no_dispersion_is_poissons() -> None:
    input, target = torch.randn(50), torch.poisson(torch.full((50,), 3.0))
    for dispersion in (1e-12, 1e-30):
        found = negative_binomial_nll_loss(input, target, dispersion, reduction="none")
        torch.testing.assert_close(found, poisson_nll_loss(input, target, reduction="none"))
    dispersion = torch.full((50,), 1e-30, requires_grad=True)
    (slope,) = torch.autograd.grad(
        negative_binomial_nll_loss(input, target, dispersion, reduction="sum"), dispersion
    )
    # half of (y - m)^2 - y, which says whether the counts vary more than Poisson's
    exact = -0.5 * ((target - input.exp()) ** 2 - target)
    torch.testing.assert_close(slope, exact, rtol=1e-5, atol=1e-5)


@DTYPES
@pytest.mark.parametrize("step", [0.5, 1.0, 30.0])
def test_log_gamma_growth(step: float, dtype: torch.dtype, tolerance: float) -> None:
    inverse = torch.tensor([1e-30, 1e-6, 0.01, 0.1249, 0.1251, 0.5, 3.0, 100.0], dtype=dtype)
    for one, found in zip(inverse.tolist(), log_gamma_growth(inverse, step).tolist(), strict=True):
        with mpmath.workdps(120):
            z = 1 / mpf(one)
            exact = mpmath.loggamma(z + step) - mpmath.loggamma(z) - step * mpmath.log(z)
        assert abs(found - exact) <= tolerance * max(abs(exact), 1), one


def test_without_the_logarithm_of_the_input() -> None:
    mean = torch.rand(40, dtype=FLOAT64) * 5 + 0.1
    target = torch.poisson(mean)
    for loss in (
        poisson_nll_loss,
        tweedie_loss,
        partial(negative_binomial_nll_loss, dispersion=0.3),
    ):
        torch.testing.assert_close(
            loss(mean, target, log_input=False), loss(mean.log(), target), rtol=1e-12, atol=0
        )


def test_a_zero_and_a_mean_of_zero() -> None:
    input = torch.tensor([-1e4], requires_grad=True)
    for loss in (
        poisson_nll_loss,
        tweedie_loss,
        partial(negative_binomial_nll_loss, dispersion=0.3),
    ):
        value = loss(input, torch.zeros(1))
        (slope,) = torch.autograd.grad(value, input)
        assert value.item() == 0
        assert slope.item() == 0


def test_torchs_poisson() -> None:
    input, target = torch.randn(30, dtype=FLOAT64), torch.poisson(torch.ones(30, dtype=FLOAT64))
    torch.testing.assert_close(poisson_nll_loss(input, target), F.poisson_nll_loss(input, target))
    exact = -distributions.Poisson(input.exp()).log_prob(target).mean()
    torch.testing.assert_close(poisson_nll_loss(input, target, full=True), exact)


def test_tweedie_is_least_where_the_mean_is_the_target() -> None:
    target = torch.tensor([0.2, 3.0, 50.0], dtype=FLOAT64)
    best = tweedie_loss(target, target, p=1.3, log_input=False, reduction="none")
    for factor in (0.5, 0.99, 1.01, 2.0):
        mean = target * factor
        assert (tweedie_loss(mean, target, p=1.3, log_input=False, reduction="none") > best).all()


def test_integer_counts_are_counts() -> None:
    input, target = torch.randn(5, dtype=FLOAT64), torch.tensor([0, 1, 2, 7, 3])
    for loss in (poisson_nll_loss, tweedie_loss):
        torch.testing.assert_close(loss(input, target), loss(input, target.double()))


@pytest.mark.parametrize("loss", [poisson_nll_loss, tweedie_loss])
def test_numbers_that_cannot_be(loss: Callable[..., Tensor]) -> None:
    ones, wrong = torch.ones(2), torch.tensor([1.0, -1.0])
    with pytest.raises(ValueError, match="`target` must hold numbers of at least 0, got -1"):
        loss(ones, wrong)
    with pytest.raises(ValueError, match="`input` must hold numbers above 0, got -1"):
        loss(wrong, ones, log_input=False)
    mask = torch.tensor([True, False])
    assert math.isfinite(loss(wrong, wrong, log_input=False, mask=mask))


@pytest.mark.parametrize("dispersion", [0.0, -1.0, torch.tensor([1.0, 0.0]), True, "1"])
def test_a_dispersion_that_cannot_be(dispersion: object) -> None:
    with pytest.raises((ValueError, TypeError), match="`dispersion`"):
        negative_binomial_nll_loss(torch.ones(2), torch.ones(2), dispersion)


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (poisson_nll_loss, {"log_input": 1}, "`log_input` must be True or False"),
        (poisson_nll_loss, {"full": None}, "`full` must be True or False"),
        (tweedie_loss, {"p": 1.0}, "`p` must be a number above 1 and below 2"),
        (tweedie_loss, {"p": 2}, "`p` must be a number above 1 and below 2"),
    ],
)
def test_options_out_of_range(loss: Callable[..., Tensor], options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        loss(torch.zeros(2), torch.zeros(2), **options)


def test_masked_items_may_be_anything() -> None:
    nan = math.nan
    input = torch.tensor([0.5, nan, math.inf], requires_grad=True)
    dispersion = torch.tensor([0.5, nan, -1.0], requires_grad=True)
    target = torch.tensor([2.0, nan, -3.0])
    value = negative_binomial_nll_loss(
        input, target, dispersion, mask=torch.tensor([True, False, False])
    )
    value.backward()
    alone = negative_binomial_nll_loss(torch.tensor(0.5), torch.tensor(2.0), 0.5)
    torch.testing.assert_close(value, alone)
    for tensor in (input, dispersion):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert (tensor.grad[1:] == 0).all()
