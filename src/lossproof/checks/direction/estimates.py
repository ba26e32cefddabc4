"""An estimate of numbers: on the way to the target the loss must not grow.

What a perfect estimate is depends on how the loss reads it: the target itself, its logarithm, its
logit. The loss is convicted only if it is worse for each of these than for a random estimate. A
loss of the difference alone has one reading only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from lossproof.checks.conventions import Fault, distinct
from lossproof.checks.direction import Comparison, is_rising
from lossproof.checks.roles import role_by_name

Tensor = torch.Tensor

STEPS = (0.0, 0.25, 0.5, 0.75, 0.95)
"""Not up to the target itself: what is best there may be infinite."""
TRIALS = 4
LEVEL = 1e-2


def better_estimates_cost_more(comparison: Comparison) -> Iterator[Fault]:
    """Floating targets of the prediction's own shape."""
    if not is_estimate(comparison):
        return
    target = comparison.target.double()
    if _depends_on_difference(comparison, target):
        yield from _lower_elsewhere(comparison, target)
    else:
        yield from _worse_on_the_way(comparison, target)


def is_estimate(comparison: Comparison) -> bool:
    """Whether the prediction can be read as an estimate of the target's numbers."""
    prediction, target = comparison.prediction, comparison.target
    if not target.is_floating_point() or target.shape != prediction.shape:
        return False
    labels = distinct(target, 2) is not None and bool((target == target.round()).all())
    named = role_by_name(comparison.target_name) == "target" or _are_paired(comparison)
    return named and prediction.numel() > 1 and not labels


def _are_paired(comparison: Comparison) -> bool:
    """Whether the names say that one is to look like the other: an estimate, or two images."""
    names = comparison.name.lower(), comparison.target_name.lower()
    surely = any(word in names[0] for word in ("pred", "estim", "recon", "hat"))
    images = all(re.match(r"^(img|image|im)_?\w*$", name) for name in names)
    return images or (surely and role_by_name(names[1]) is None)


def _depends_on_difference(comparison: Comparison, target: Tensor) -> bool:
    """Whether moving both alike changes nothing, and moving one does."""
    generator = torch.Generator().manual_seed(1)
    start = comparison.prediction
    shift = torch.rand(target.shape, generator=generator, dtype=torch.float64) - 0.5
    here = comparison.value(start)
    both = comparison.value(start + shift, target + shift)
    one = comparison.value(start + shift)
    if here is None or both is None or one is None:
        return False
    scale = max(abs(here), abs(one), 1e-12)
    return abs(here - both) < 1e-9 * scale and abs(here - one) > 1e-6 * scale


def _lower_elsewhere(comparison: Comparison, target: Tensor) -> Iterator[Fault]:
    """A loss of the difference is smallest where there is none."""
    best = comparison.value(target)
    if best is None:  # the logarithm of no error at all
        best = comparison.value(target + 1e-4)
    if best is None:
        return
    generator = torch.Generator().manual_seed(2)
    lower = []
    for trial in range(TRIALS):
        away = torch.randn(target.shape, generator=generator, dtype=torch.float64)
        away = away.abs() * (1, -1, 1, -1)[trial] * (1.0, 1.0, 0.1, 0.1)[trial]
        value = comparison.value(target + away)
        if value is None:
            return
        lower.append(value)
    scale = max(abs(value) for value in (*lower, best))
    # A loss that is lower on one side, at both distances, has no minimum at the target.
    for far, near, side in ((0, 2, "above"), (1, 3, "below")):
        if lower[far] < best - 1e-6 * scale and lower[near] < best - 1e-9 * scale:
            yield Fault(
                f"the loss is lower where `{comparison.name}` lies {side} "
                f"`{comparison.target_name}` than where the two are equal",
                comparison.case.subject.location,
                "lower-beside-target",
                "an error counts on both sides: take its absolute value or its square",
                {"equal": best, side: lower[far]},
                (
                    f"{best:.4g} for a perfect prediction, {lower[near]:.4g} close {side} it, "
                    f"{lower[far]:.4g} farther {side}",
                ),
            )
            return


def _worse_on_the_way(comparison: Comparison, target: Tensor) -> Iterator[Fault]:
    paths = []
    if not comparison.domain.contains(target) or not comparison.starts:
        return
    for point in comparison.starts:
        toward = target - point.prediction
        halfway = comparison.at(point.prediction + 0.5 * toward)
        if halfway is None or float((halfway.gradient * toward).sum()) <= 0:
            return
        values = comparison.values([point.prediction + step * toward for step in STEPS])
        if values is None or not is_rising(values):
            return
        paths.append(values)
    if _has_a_better_reading(comparison, target) or _is_separable(comparison, target):
        return
    values = paths[0]
    yield Fault(
        f"the loss grows as `{comparison.name}` approaches `{comparison.target_name}`",
        comparison.case.subject.location,
        "maximal-at-target",
        "check the sign; a similarity becomes a loss as `1 - value` or `-value`",
        {"random_prediction": values[0], "better_prediction": values[-1]},
        (
            "value on the way from a random prediction to the target: "
            + ", ".join(f"{value:.4g}" for value in values),
            f"so it does from {len(paths)} of {len(paths)} random predictions, and the gradient "
            "points the same way",
        ),
    )


def _has_a_better_reading(comparison: Comparison, target: Tensor) -> bool:
    """Whether the loss is lower than at random where the prediction means the target otherwise."""
    readings = []
    if bool((target > 0).all()):
        readings.append(target.log())
        if bool((target < 1).all()):
            readings.append(torch.logit(target))
    readings += [target.exp(), torch.sigmoid(target)]
    if target.dim() > 0:
        axis = min(1, target.dim() - 1)
        readings += [torch.softmax(target, axis), torch.log_softmax(target, axis)]
    start = min(comparison.starts, key=lambda point: point.value)
    steepest = float(start.gradient.norm())
    for reading in readings:
        point = comparison.at(reading)
        # Lower than at random, and level there: a minimum, as at log(target) for a log-rate.
        if point is not None and point.value < start.value:
            if float(point.gradient.norm()) < LEVEL * steepest:
                return True
    return False


def _is_separable(comparison: Comparison, target: Tensor) -> bool:
    """Whether the gradient does not ask for the target: the two are not compared at all."""
    start = comparison.starts[0]
    other = comparison.at(start.prediction, target.flip(0).roll(1, -1))
    return other is None or torch.allclose(other.gradient, start.gradient, rtol=1e-6, atol=1e-12)
