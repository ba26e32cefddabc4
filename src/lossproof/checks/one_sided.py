"""Derivatives from the left and from the right, and whether a gradient lies between them.

At a kink every number between the two one-sided derivatives is a subgradient (Clarke 1983), and a
loss may use any of them: `abs` at 0 may have the gradient 0. At the border of the domain one side
is missing, and what would be constrained from there is free. Where the one-sided derivatives do
not converge, nothing is said.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

Along = Callable[[float], float]
"""The loss as a function of one coordinate's shift."""

QUICK_STEP = 1e-6
QUICK_TOLERANCE = 1e-4
STEPS: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
LEVELS = 4
CONVERGED = 1e-3
"""Two step sizes must agree to this share of the slope."""
CLEARLY = 1e-2
"""A gradient convicts only when it is off by more than this share of the slope."""
NOISE_STEP = 1e-7
NEGLIGIBLE = 1e-9
"""Slopes that differ by less are the same."""
EPSILON = 2.0**-52


@dataclass(frozen=True)
class Slopes:
    """The one-sided derivatives at a point, each with its error; infinite where a side is missing.

    A side is missing where the loss is not finite or raises.
    """

    left: float
    right: float
    error: float

    @property
    def low(self) -> float:
        """The least number that counts as a subgradient."""
        return min(self.left, self.right)

    @property
    def high(self) -> float:
        """The greatest number that counts as a subgradient."""
        return max(self.left, self.right)

    @property
    def is_kink(self) -> bool:
        """Whether the slope jumps here."""
        size = max(abs(self.left), abs(self.right))
        if math.isinf(size):
            return False
        return self.high - self.low > CLEARLY * size + 2 * self.error + NEGLIGIBLE

    def excess(self, gradient: float) -> float:
        """By how much a gradient lies outside; 0 for a subgradient."""
        return max(self.low - gradient, gradient - self.high, 0.0)


def agrees_quickly(along: Along, here: float, gradient: float, reach: float) -> Slopes | None:
    """Two calls that acquit most gradients; ``None`` where they do not."""
    step = QUICK_STEP * reach
    right, left = (along(step) - here) / step, (here - along(-step)) / step
    if not (math.isfinite(left) and math.isfinite(right)):
        return None
    noise = 8 * EPSILON * abs(here) / step
    slopes = Slopes(left, right, noise)
    scale = max(abs(left), abs(right), abs(gradient))
    if slopes.excess(gradient) <= QUICK_TOLERANCE * scale + noise:
        return slopes
    return None


def one_sided(along: Along, here: float, reach: float) -> Slopes | None:
    """Both one-sided derivatives by Richardson's extrapolation, where they converge."""
    noise = max(_measured_noise(along, sign * NOISE_STEP * reach) for sign in (-1.0, 1.0))
    noise = max(noise, 4 * EPSILON * abs(here))
    right = _converged(lambda step: (along(step) - here) / step, noise, reach, math.inf)
    left = _converged(lambda step: (here - along(-step)) / step, noise, reach, -math.inf)
    if right is None or left is None or (math.isinf(right[0]) and math.isinf(left[0])):
        return None
    return Slopes(left[0], right[0], max(left[1], right[1]))


def _measured_noise(along: Along, step: float) -> float:
    """The rounding noise of the loss on one side of the point.

    Third differences over so small steps are far below rounding where the loss is smooth. A loss
    that takes the difference of two large numbers is noisier than its own size tells.
    """
    samples = [along(k * step) for k in range(1, 5)]
    third = abs(samples[0] - 3 * samples[1] + 3 * samples[2] - samples[3])
    return third if math.isfinite(third) else 0.0


def _converged(
    quotient: Callable[[float], float], noise: float, reach: float, missing: float
) -> tuple[float, float] | None:
    """The limit of a difference quotient and its error; ``missing`` where there is no side."""
    estimates = [_extrapolated(quotient, noise, step * reach) for step in STEPS]
    known = [estimate for estimate in estimates if estimate is not None]
    if not known:
        return missing, 0.0
    # Every step must tell the same story: where rounding makes a staircase of the loss, small
    # steps agree on the slope of one stair.
    for one, other in itertools.pairwise(known):
        scale = max(abs(one[0]), abs(other[0]))
        if abs(one[0] - other[0]) > CONVERGED * scale + one[1] + other[1] + NEGLIGIBLE:
            return None
    value, error = min(known, key=lambda estimate: estimate[1])
    if len(known) < 2 or error > max(CLEARLY * abs(value), NEGLIGIBLE):
        return None
    return value, error


def _extrapolated(
    quotient: Callable[[float], float], noise: float, step: float
) -> tuple[float, float] | None:
    """Richardson's table over halved steps, for errors of the orders 1, 2 and 3."""
    table = [[quotient(step / 2**level) for level in range(LEVELS)]]
    if not all(math.isfinite(value) for value in table[0]):
        return None
    for order in range(1, LEVELS):
        last, weight = table[-1], 2.0**order
        table.append(
            [(weight * last[i + 1] - last[i]) / (weight - 1) for i in range(len(last) - 1)]
        )
    value = table[-1][0]
    # Extrapolation multiplies the rounding of the quotients by less than 4.
    rounding = 8 * noise / (step / 2 ** (LEVELS - 1))
    return value, abs(value - table[-2][-1]) + rounding
