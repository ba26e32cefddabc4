"""Regression losses against closed forms in fifty digits, and against torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from lossproof.losses.regression import (
    huber_loss,
    l1_loss,
    log_cosh_loss,
    mse_loss,
    smooth_l1_loss,
)
from lossproof.losses.relative_errors import msle_loss, smape_loss
from lossproof.losses.robust_regression import charbonnier_loss, general_robust_loss, wing_loss

Tensor = torch.Tensor
ERRORS = (0.0, 1e-6, 1e-3, 0.3, 0.999, 1.0, 1.001, 7.0, 30.0, 100.0, 1e4)


def barron(e: mpf, alpha: float, c: float = 1.0) -> mpf:
    z, a = (e / mpf(c)) ** 2, mpf(alpha)
    if alpha == 2:
        return z / 2
    if alpha == 0:
        return mpmath.log(1 + z / 2)
    if alpha == -math.inf:
        return 1 - mpmath.exp(-z / 2)
    return abs(a - 2) / a * ((z / abs(a - 2) + 1) ** (a / 2) - 1)


def huber(e: mpf, delta: float) -> mpf:
    return e**2 / 2 if abs(e) <= delta else delta * (abs(e) - mpf(delta) / 2)


def wing(e: mpf, w: float, eps: float) -> mpf:
    if abs(e) < w:
        return w * mpmath.log(1 + abs(e) / eps)
    return abs(e) - w + w * mpmath.log(1 + mpf(w) / eps)


OF_THE_ERROR: dict[str, tuple[Callable[..., Tensor], Callable[[mpf], mpf]]] = {
    "mse": (mse_loss, lambda e: e**2),
    "l1": (l1_loss, abs),
    "huber": (huber_loss, partial(huber, delta=1.0)),
    "huber 0.5": (partial(huber_loss, delta=0.5), partial(huber, delta=0.5)),
    "smooth l1": (smooth_l1_loss, partial(huber, delta=1.0)),
    "smooth l1 0.25": (partial(smooth_l1_loss, beta=0.25), lambda e: 4 * huber(e, 0.25)),
    "smooth l1 0": (partial(smooth_l1_loss, beta=0.0), abs),
    "log cosh": (log_cosh_loss, lambda e: mpmath.log(mpmath.cosh(e))),
    "charbonnier": (
        partial(charbonnier_loss, eps=0.125),
        lambda e: mpmath.sqrt(e**2 + mpf(0.125) ** 2),
    ),
    "wing": (wing_loss, partial(wing, w=10.0, eps=2.0)),
    "wing 0.5": (partial(wing_loss, width=0.5, curvature=0.25), partial(wing, w=0.5, eps=0.25)),
    **{
        f"robust {alpha}": (
            partial(general_robust_loss, alpha=alpha, scale=2.0),
            partial(barron, alpha=alpha, c=2.0),
        )
        for alpha in (2, 2.0, 1.999, 1.0, 0.5, 1e-9, 0, -1e-9, -2.0, -8.0, -1e6, -math.inf)
    },
}


@pytest.mark.parametrize("name", OF_THE_ERROR)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 5e-14)])
def test_value_and_gradient_at_any_error(name: str, dtype: torch.dtype, tolerance: float) -> None:
    loss, truth = OF_THE_ERROR[name]
    errors = torch.tensor([s * e for e in ERRORS for s in (1, -1)], dtype=dtype)
    input = errors.clone().requires_grad_()
    values = loss(input, torch.zeros_like(errors), reduction="none")
    (gradient,) = torch.autograd.grad(values.sum(), input)
    with mpmath.workdps(50):
        for e, value, slope in zip(
            errors.tolist(), values.tolist(), gradient.tolist(), strict=True
        ):
            exact = truth(mpf(e))
            assert abs(value - exact) <= tolerance * exact, e
            if e == 0:
                assert slope == 0
                continue
            one_sided = 1 if abs(e) <= 1 else -1  # the kinks of these functions lie at 1
            exact = mpmath.diff(truth, mpf(e), h=mpf(10) ** -20, direction=-one_sided)
            assert abs(slope - exact) <= tolerance * abs(exact) + 1e-30, e


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (mse_loss, F.mse_loss, {}),
        (l1_loss, F.l1_loss, {}),
        (huber_loss, F.huber_loss, {"delta": 0.7}),
        (smooth_l1_loss, F.smooth_l1_loss, {"beta": 0.7}),
        (smooth_l1_loss, F.smooth_l1_loss, {"beta": 0.0}),
    ],
)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_torchs_own(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], options: dict, reduction: str
) -> None:
    input, target = torch.randn(2, 6, 5, dtype=torch.float64)
    found = ours(input, target, reduction=reduction, **options)
    torch.testing.assert_close(found, theirs(input, target, reduction=reduction, **options))


def test_other_shapes_are_refused_where_torch_broadcasts() -> None:
    with pytest.raises(ValueError, match=r"same shape, got \[4, 1\] and \[4\]"):
        mse_loss(torch.randn(4, 1), torch.randn(4))


def test_the_mean_of_nothing_is_zero() -> None:
    input = torch.zeros(0, 3, requires_grad=True)
    mse_loss(input, torch.zeros(0, 3)).backward()
    assert mse_loss(input, torch.zeros(0, 3)).item() == 0
    assert input.grad is not None


def test_float64_targets_keep_their_digits() -> None:
    input = torch.tensor([1.0], requires_grad=True)
    value = huber_loss(input, torch.tensor([1.0 + 1e-12], dtype=torch.float64))
    value.backward()
    assert value.item() == pytest.approx(5e-25, rel=1e-3)


@pytest.mark.parametrize("delta", [1e10, 1e38, 1e300])
def test_a_threshold_beyond_all_errors_leaves_half_the_square(delta: float) -> None:
    input = torch.tensor([1e-5, 1.0, 1e3], requires_grad=True)
    values = huber_loss(input, torch.zeros(3), delta=delta, reduction="none")
    torch.testing.assert_close(values, 0.5 * input.square(), rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(values.sum(), input)[0], input.detach())


SMOOTH = sorted(OF_THE_ERROR.keys() - {"l1", "smooth l1 0", "wing", "wing 0.5"})


@pytest.mark.parametrize("name", SMOOTH)
def test_the_curvature_at_the_target_is_seen(name: str) -> None:
    loss, truth = OF_THE_ERROR[name]
    input = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(input, torch.zeros_like(input)), input, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), input)
    exact = mpmath.diff(truth, mpf(0), n=2, h=mpf(10) ** -5)
    assert curvature.item() == pytest.approx(float(exact), rel=1e-6)


def test_log_cosh_is_half_the_square_of_a_tiny_error() -> None:
    error = torch.tensor([1e-3, 1e-5, 1e-10])
    found = log_cosh_loss(error, torch.zeros(3), reduction="none")
    torch.testing.assert_close(found, 0.5 * error**2, rtol=1e-6, atol=0)


@given(alpha=st.floats(-20, 4), error=st.floats(-1e3, 1e3))
def test_a_smaller_alpha_costs_less(alpha: float, error: float) -> None:
    value = partial(
        general_robust_loss,
        torch.tensor([error], dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
    )
    assert value(alpha=alpha - 0.1) <= value(alpha=alpha) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (huber_loss, {"delta": 0}, "`delta` must be a number above 0, got 0"),
        (huber_loss, {"delta": True}, "`delta`"),
        (smooth_l1_loss, {"beta": -1.0}, "`beta` must be a number of at least 0"),
        (charbonnier_loss, {"eps": 0.0}, "`eps` must be a number above 0"),
        (general_robust_loss, {"alpha": math.inf}, "`alpha`"),
        (general_robust_loss, {"alpha": math.nan}, "`alpha`"),
        (general_robust_loss, {"alpha": -1e7}, "`alpha`"),
        (general_robust_loss, {"alpha": "2"}, "`alpha`"),
        (general_robust_loss, {"alpha": torch.tensor(-math.inf)}, "`alpha`"),
        (general_robust_loss, {"alpha": torch.ones(2)}, "`alpha`"),
        (general_robust_loss, {"scale": -1.0}, "`scale`"),
        (wing_loss, {"width": 0.0}, "`width`"),
        (wing_loss, {"curvature": math.nan}, "`curvature`"),
    ],
)
def test_options_out_of_range(loss: Callable[..., Tensor], options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        loss(torch.zeros(2), torch.zeros(2), **options)


# -- relative errors ---------------------------------------------------------------------------

PAIRS = [(0.0, 0.0), (0.0, 1e8), (3.0, 3.0), (3.0, 3.000001), (1e4, 1e-4), (1e-15, 0.0), (2.0, 7.0)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-7), (torch.float64, 1e-15)])
def test_msle(dtype: torch.dtype, tolerance: float) -> None:
    input, target = torch.tensor(PAIRS, dtype=dtype).unbind(-1)
    input = input.clone().requires_grad_()
    values = msle_loss(input, target, reduction="none")
    (gradient,) = torch.autograd.grad(values.sum(), input)
    with mpmath.workdps(50):
        for x, y, value, slope in torch.stack((input, target, values, gradient), 1).tolist():
            ratio = mpmath.log((1 + mpf(x)) / (1 + mpf(y)))
            assert abs(value - ratio**2) <= 4 * tolerance * ratio**2
            exact = 2 * ratio / (1 + mpf(x))
            assert abs(slope - exact) <= 4 * tolerance * abs(exact)


def test_msle_has_its_curvature_at_the_target() -> None:
    input = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(msle_loss(input, input.detach()), input, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), input)
    assert curvature.item() == pytest.approx(2 / 16)


def test_msle_names_what_is_negative() -> None:
    with pytest.raises(ValueError, match="`input` must hold numbers of at least 0, got -0.5"):
        msle_loss(torch.tensor([1.0, -0.5]), torch.ones(2))
    with pytest.raises(ValueError, match="`target`"):
        msle_loss(torch.ones(2), torch.tensor([1.0, -0.5]))
    assert (
        msle_loss(torch.tensor([1.0, -0.5]), torch.ones(2), mask=torch.tensor([True, False])) == 0
    )


def test_smape() -> None:
    input = torch.tensor([0.0, 3.0, 3.0, -1.0, 1e-30, 1e4], requires_grad=True)
    target = torch.tensor([0.0, 1.0, 3.0, 1.0, 0.0, 1.0])
    values = smape_loss(input, target, reduction="none")
    torch.testing.assert_close(values, torch.tensor([0.0, 1.0, 0.0, 2.0, 2.0, 2 * 9999 / 10001]))
    (gradient,) = torch.autograd.grad(values.sum(), input)
    exact = [0.0, 4 * 1 / 16, 0.0, 0.0, 0.0, 4 / 10001**2]  # 4 y / (x + y)^2 beyond the target
    torch.testing.assert_close(gradient, torch.tensor(exact))
