"""Losses of a residual: squared, absolute, robust, and of a quantile."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lossproof.checks.likeness.binding import pair, pair_or_columns
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms, Usual

Tensor = torch.Tensor


# ---------------------------------------------------------------------------- squared and absolute
def squared_error(input: Tensor, target: Tensor) -> Terms:
    return {"(input - target)^2": Term((input - target) ** 2)}


def square_of_mean(input: Tensor, target: Tensor) -> Terms:
    return {"mean(input - target)^2": Term((input - target).mean() ** 2)}


def signed_error(input: Tensor, target: Tensor) -> Terms:
    return {"target - input": Term(target - input)}


def other_signed_error(input: Tensor, target: Tensor) -> Terms:
    return {"input - target": Term(input - target)}


def absolute_error(input: Tensor, target: Tensor) -> Terms:
    return {"|input - target|": Term((input - target).abs())}


def absolute_of_mean(input: Tensor, target: Tensor) -> Terms:
    return {"|mean(input - target)|": Term((input - target).mean().abs())}


def root_of_mean(input: Tensor, target: Tensor, *, eps: Usual = (0.0,)) -> Terms:
    return {"sqrt(mean(e^2))": Term(((input - target) ** 2).mean().add(float(eps)).sqrt())}


def root_of_row_means(input: Tensor, target: Tensor) -> Terms:
    rows = ((input - target) ** 2).reshape(len(input), -1)
    return {"sqrt(mean(e^2))": Term(rows.mean(1).sqrt())}


def root_of_column_means(input: Tensor, target: Tensor) -> Terms:
    return {"sqrt(mean(e^2))": Term(((input - target) ** 2).mean(0).sqrt())}


def squared_log_error(input: Tensor, target: Tensor) -> Terms:
    return {"log error^2": Term((torch.log1p(input) - torch.log1p(target)) ** 2)}


def root_of_squared_log_error(input: Tensor, target: Tensor) -> Terms:
    error = torch.log1p(input) - torch.log1p(target)
    return {"sqrt(mean(log error^2))": Term((error**2).mean().sqrt())}


def symmetric_percentage_error(input: Tensor, target: Tensor) -> Terms:
    gap = (input - target).abs()
    return {"|error| / (|input| + |target|)": Term(gap / (input.abs() + target.abs()))}


def symmetric_percentage_of_sum(input: Tensor, target: Tensor) -> Terms:
    if bool((input * target >= 0).all()):
        return {}
    return {"|error| / |input + target|": Term((input - target).abs() / (input + target).abs())}


def percentage_error(input: Tensor, target: Tensor) -> Terms:
    return {"|error| / |target|": Term((input - target).abs() / target.abs())}


def percentage_of_input(input: Tensor, target: Tensor) -> Terms:
    return {"|error| / |input|": Term((input - target).abs() / input.abs())}


# ---------------------------------------------------------------------------- robust
def huber(input: Tensor, target: Tensor, *, delta: Usual = (1.0, 0.1)) -> Terms:
    d = float(delta)
    error = (input - target).abs()
    near = error <= d
    return {
        "e^2 near 0": Term(torch.where(near, error**2, 0), 0.5),
        "|e| far from 0": Term(torch.where(near, 0, error), d),
        "the constant far from 0": Term((~near).double(), -0.5 * d * d),
    }


def _huber_with(far: Callable[[Tensor, float], Tensor]) -> Definition:
    """The right square near 0, and another formula far from it."""

    def terms(input: Tensor, target: Tensor, *, delta: Usual = (1.0, 0.1)) -> Terms:
        d = float(delta)
        error = (input - target).abs()
        whole = torch.where(error <= d, 0.5 * error**2, far(error, d))
        return {} if d == 1 else {"huber": Term(whole)}

    return terms


HUBER_SLIPS = (
    (lambda e, d: e - 0.5, "has `|e| - 0.5` far from 0, which fits a delta of 1 only"),
    (lambda e, d: d * (e - 0.5), "has `delta * (|e| - 0.5)` far from 0, which fits a delta of 1 "
     "only"),
    (lambda e, d: d * e - 0.5 * d, "subtracts `0.5 * delta` far from 0, where the square of delta "
     "belongs"),
    (lambda e, d: d * e, "subtracts nothing far from 0, so that its branches do not meet"),
    (lambda e, d: e - 0.5 * d, "has a slope of 1 far from 0, where its slope is delta"),
    (lambda e, d: d * (e + 0.5 * d), "adds the constant far from 0 that is to be subtracted"),
)  # fmt: skip


def pseudo_huber(input: Tensor, target: Tensor, *, delta: Usual = (1.0,)) -> Terms:
    return {"sqrt(1 + (e/delta)^2)": Term((1 + ((input - target) / float(delta)) ** 2).sqrt())}


def log_cosh(input: Tensor, target: Tensor) -> Terms:
    error = input - target
    return {"log cosh e": Term(torch.logaddexp(error, -error) - math.log(2))}


def log_cosh_of_mean(input: Tensor, target: Tensor) -> Terms:
    return {"log mean cosh e": Term(torch.cosh(input - target).mean().log())}


def charbonnier(
    input: Tensor, target: Tensor, *, eps: Usual = (1e-3, 1e-6, 1e-9, 1e-12, 1.0)
) -> Terms:
    return {"sqrt(e^2 + eps^2)": Term(((input - target) ** 2 + float(eps) ** 2).sqrt())}


def charbonnier_unsquared_eps(
    input: Tensor, target: Tensor, *, eps: Usual = (1e-3, 1e-6, 1e-9, 1e-12)
) -> Terms:
    return {"sqrt(e^2 + eps)": Term(((input - target) ** 2 + float(eps)).sqrt())}


def wing(
    input: Tensor,
    target: Tensor,
    *,
    omega: Usual = (10.0, 5.0),
    epsilon: Usual = (2.0, 0.5),
) -> Terms:
    w, e = float(omega), float(epsilon)
    error = (input - target).abs()
    near = error < w
    constant = w - w * math.log(1 + w / e)
    return {
        "omega log(1 + |e|/epsilon) near 0": Term(torch.where(near, w * torch.log1p(error / e), 0)),
        "|e| far from 0": Term(torch.where(near, 0, error)),
        "C far from 0": Term((~near).double(), -constant),
    }


def wing_divided_by_omega(
    input: Tensor, target: Tensor, *, omega: Usual = (10.0,),
    epsilon: Usual = (2.0,),
) -> Terms:  # fmt: skip
    w, e = float(omega), float(epsilon)
    error = (input - target).abs()
    near = error < w
    constant = w - w * math.log(1 + w / e)
    far = torch.where(near, 0, error - constant)
    return {
        "near": Term(torch.where(near, w * torch.log1p(error / w), 0), 1.0),
        "far": Term(far, None),
    }


def _adaptive_wing(
    input: Tensor, target: Tensor, omega: float, theta: float, epsilon: float, alpha: float,
    inside: float,
) -> Terms:  # fmt: skip
    error = (input - target).abs()
    near = error < theta
    power = alpha - target
    ratio = torch.full_like(target, theta / epsilon)
    slope = omega / (1 + ratio**power) * power * ratio ** (power - 1) / epsilon
    constant = theta * slope - omega * torch.log1p(ratio**power)
    small = omega * torch.log1p((error / inside).clamp_min(1e-300) ** power)
    return {
        "omega log(1 + |e/epsilon|^(alpha - y)) near 0": Term(torch.where(near, small, 0)),
        "A |e| far from 0": Term(torch.where(near, 0, slope * error)),
        "C far from 0": Term(torch.where(near, 0, constant), -1.0),
    }


def adaptive_wing(
    input: Tensor,
    target: Tensor,
    *,
    omega: Usual = (14.0,),
    theta: Usual = (0.5,),
    epsilon: Usual = (1.0,),
    alpha: Usual = (2.1,),
) -> Terms:
    w, t, e, a = float(omega), float(theta), float(epsilon), float(alpha)
    return _adaptive_wing(input, target, w, t, e, a, e)


def adaptive_wing_divided_by_omega(
    input: Tensor,
    target: Tensor,
    *,
    omega: Usual = (14.0,),
    theta: Usual = (0.5,),
    epsilon: Usual = (1.0,),
    alpha: Usual = (2.1,),
) -> Terms:
    w, t, e, a = float(omega), float(theta), float(epsilon), float(alpha)
    if w == e:
        return {}
    return _adaptive_wing(input, target, w, t, e, a, w)


# ---------------------------------------------------------------------------- quantiles
def _quantile_terms(input: Tensor, target: Tensor, quantile: Usual, power: int) -> Terms:
    if isinstance(quantile, list):
        if input.dim() < 2 or len(quantile) not in (input.shape[-1], input.shape[1]):
            return {}
        shape = [1] * input.dim()
        axis = -1 if len(quantile) == input.shape[-1] else 1
        shape[axis] = len(quantile)
        q = torch.tensor(quantile, dtype=torch.float64).reshape(shape)
        if target.dim() < input.dim():
            target = target.unsqueeze(axis)
    else:
        q = torch.tensor(float(quantile), dtype=torch.float64)
    above = torch.relu(target - input) ** power
    below = torch.relu(input - target) ** power
    terms = {
        "q (target - input)+": Term(q * above),
        "(1 - q) (input - target)+": Term((1 - q) * below),
    }
    if q.numel() > 1:
        terms["(1 - q) (target - input)+"] = Term((1 - q) * above, 0.0)
        terms["q (input - target)+"] = Term(q * below, 0.0)
    return terms


def pinball(input: Tensor, target: Tensor, *, quantile: Usual = ()) -> Terms:
    return _quantile_terms(input, target, quantile, 1)


def _swapped_quantile(input: Tensor, target: Tensor, quantile: Usual, power: int) -> Terms:
    if isinstance(quantile, list):
        return _quantile_terms(input, target, [1 - q for q in quantile], power)
    if quantile == 0.5:
        return {}
    return _quantile_terms(input, target, 1 - float(quantile), power)


def pinball_swapped(input: Tensor, target: Tensor, *, quantile: Usual = ()) -> Terms:
    return _swapped_quantile(input, target, quantile, 1)


def expectile(input: Tensor, target: Tensor, *, quantile: Usual = ()) -> Terms:
    return _quantile_terms(input, target, quantile, 2)


def expectile_swapped(input: Tensor, target: Tensor, *, quantile: Usual = ()) -> Terms:
    return _swapped_quantile(input, target, quantile, 2)


def some_quantile(power: int) -> Definition:
    """A quantile, or an expectile, that no option tells: one of any weights."""

    def terms(input: Tensor, target: Tensor) -> Terms:
        if input.shape != target.shape:
            return {}
        return {
            "(target - input)+": Term(torch.relu(target - input) ** power, None),
            "(input - target)+": Term(torch.relu(input - target) ** power, None),
        }

    return terms


HUBER = "Huber, Robust Estimation of a Location Parameter, 1964"
ROOT = "return torch.sqrt(((input - target) ** 2).mean() + eps)"

LOSSES = (
    KnownLoss(
        "mse", "the mean squared error", "torch.nn.MSELoss",
        r"\bmse\b|mean squared error|squared error|\bl2 loss|mseloss", pair,
        (
            Reading(squared_error),
            Reading(square_of_mean, "squares the mean of the errors, so that errors of opposite "
                    "sign cancel", "return ((input - target) ** 2).mean()"),
            Reading(other_signed_error, "sums signed errors, which cancel",
                    "return ((input - target) ** 2).mean()"),
            Reading(signed_error, "sums signed errors, which cancel",
                    "return ((input - target) ** 2).mean()"),
        ),
        unlike=r"\brmse\b|root|\bbce\b|\bkl\b|log", everyday=True,
    ),
    KnownLoss(
        "rmse", "the root mean squared error", "its definition",
        r"\brmse\b|root mean square|rmseloss", pair,
        (
            Reading(root_of_mean),
            Reading(root_of_row_means),
            Reading(root_of_column_means),
            Reading(absolute_error, "takes the root of each squared error, which is the mean "
                    "absolute error", ROOT, r"\bmae\b|\bl 1\b"),
            Reading(squared_error, "takes no root", ROOT, r"\bmse\b"),
        ),
        unlike=r"log|rmsle",
    ),
    KnownLoss(
        "l1", "the mean absolute error", "torch.nn.L1Loss",
        r"\bmae\b|\bl 1 loss|\bl 1\b|mean absolute error|absolute error|maeloss", pair,
        (
            Reading(absolute_error),
            Reading(absolute_of_mean, "takes the absolute value of the mean error, in which errors "
                    "of opposite sign cancel", "return (input - target).abs().mean()"),
            Reading(other_signed_error, "sums signed errors, which cancel",
                    "return (input - target).abs().mean()"),
            Reading(signed_error, "sums signed errors, which cancel",
                    "return (input - target).abs().mean()"),
        ),
        unlike=r"smooth|percentage|log|cross|bce|scaled", everyday=True,
    ),
    KnownLoss(
        "msle", "the mean squared logarithmic error", "its definition",
        r"\bmsle\b|squared log", pair, (Reading(squared_log_error),), unlike=r"root|rmsle",
    ),
    KnownLoss(
        "rmsle", "the root mean squared logarithmic error", "its definition",
        r"rmsle|root mean squared log", pair,
        (
            Reading(root_of_squared_log_error),
            Reading(squared_log_error, "takes no root",
                    "torch.sqrt(((torch.log1p(input) - torch.log1p(target)) ** 2).mean())"),
            Reading(root_of_mean, "takes no logarithm",
                    "torch.sqrt(((torch.log1p(input) - torch.log1p(target)) ** 2).mean())"),
        ),
    ),
    KnownLoss(
        "smape", "the symmetric mean absolute percentage error",
        "Makridakis, Accuracy Measures, 1993", r"smape|symmetric mean abs", pair,
        (
            Reading(symmetric_percentage_error),
            Reading(symmetric_percentage_of_sum, "divides by the absolute value of the sum, which "
                    "is 0 where the two cancel",
                    "2 * (input - target).abs() / (input.abs() + target.abs())"),
        ),
    ),
    KnownLoss(
        "mape", "the mean absolute percentage error", "its definition",
        r"\bmape\b|percentage", pair,
        (
            Reading(percentage_error),
            Reading(percentage_of_input, "divides by the prediction instead of the target",
                    "return ((input - target) / target).abs().mean()", r"symmetric|smape"),
        ),
        unlike=r"symmetric|smape|weighted|wmape",
    ),
    KnownLoss(
        "huber", "the Huber loss", HUBER, r"huber|smooth l 1|smooth l1|smoothl1", pair,
        (
            Reading(huber), Reading(pseudo_huber),
            *(Reading(_huber_with(far), wrong) for far, wrong in HUBER_SLIPS),
        ),
        unlike=r"quantile|quantil|ber hu|reverse|berhu",
        everyday=True,
        mend="torch.where(e.abs() <= delta, 0.5 * e**2, delta * (e.abs() - 0.5 * delta))",
    ),
    KnownLoss(
        "log-cosh", "the log-cosh loss", "its definition", r"log cosh|logcosh", pair,
        (
            Reading(log_cosh),
            Reading(log_cosh_of_mean, "takes the logarithm of the mean, not the mean of the "
                    "logarithms", "return (e + F.softplus(-2 * e) - math.log(2)).mean()"),
        ),
    ),
    KnownLoss(
        "charbonnier", "the Charbonnier loss",
        "Charbonnier et al., Two Deterministic Half-Quadratic Regularization Algorithms, 1994",
        r"charbon", pair, (Reading(charbonnier), Reading(charbonnier_unsquared_eps)),
    ),
    KnownLoss(
        "wing", "the wing loss", "Feng et al., Wing Loss, 2018", r"wing", pair,
        (
            Reading(wing),
            Reading(wing_divided_by_omega, "divides by omega where it should divide by epsilon",
                    "omega * torch.log(1 + e.abs() / epsilon)"),
        ),
        unlike=r"adaptive|awing",
        mend="torch.where(e < omega, omega * torch.log(1 + e / epsilon), "
        "e - (omega - omega * math.log(1 + omega / epsilon)))  # e = |input - target|",
    ),
    KnownLoss(
        "adaptive-wing", "the adaptive wing loss", "Wang et al., Adaptive Wing Loss, 2019",
        r"adaptive wing|awing|a wing", pair,
        (
            Reading(adaptive_wing),
            Reading(adaptive_wing_divided_by_omega, "divides the error by omega within the power "
                    "where it should divide by epsilon, so that its branches do not meet",
                    "omega * torch.log(1 + (e / epsilon) ** (alpha - target))"),
        ),
    ),
    KnownLoss(
        "pinball", "the quantile loss", "Koenker and Bassett, Regression Quantiles, 1978",
        r"quantile|pinball", pair_or_columns,
        (
            Reading(pinball),
            Reading(pinball_swapped, "weights the two sides the other way round: it learns the "
                    "quantile 1 - q", "torch.max(q * (target - input), (q - 1) * (target - input))"
                    ".mean()"),
            Reading(some_quantile(1)),
        ),
        unlike=r"huber",
    ),
    KnownLoss(
        "expectile", "the expectile loss",
        "Newey and Powell, Asymmetric Least Squares Estimation and Testing, 1987", r"expectile",
        pair,
        (
            Reading(expectile),
            Reading(expectile_swapped, "weights the two sides the other way round: it learns the "
                    "expectile 1 - tau",
                    "e = target - input; (torch.where(e > 0, tau, 1 - tau) * e**2).mean()"),
            Reading(some_quantile(2)),
        ),
    ),
)  # fmt: skip
