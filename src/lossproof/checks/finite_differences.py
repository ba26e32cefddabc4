"""Finite differences that know how far to trust themselves.

A directional derivative by central differences (Ridders 1982, extrapolated over halved steps),
with three guards: elements whose branch flips within the step are left out of the direction, the
rounding noise of the loss is *measured* and bounds what a step may say, and a ladder of steps lets
a smaller step acquit what a larger one suspects. Everything is judged relative to the gradient's
own norm, so the verdict does not depend on how many elements a mean divides by.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from lossproof.checks.trace import ReplayMismatch

Tensor = torch.Tensor
Point = Sequence[Tensor]
Value = Callable[[Point], "tuple[float, list[Tensor]]"]
"""A scalar function: its value at a point, and the branches that the call took there."""
Branches = Callable[[], "list[Tensor]"]

LADDER: tuple[tuple[float, int], ...] = (
    (1e-2, 3), (1e-3, 3), (1e-4, 2), (1e-5, 2), (1e-6, 2), (1e-7, 2),
)  # fmt: skip
"""Step sizes, largest first, each with its number of halvings."""

EPSILON = 2.0**-52
EPSILON_32 = 2.0**-23
DIRECTIONS = 4
TOLERANCE = 1e-7
SPEAKS = 1e-2
"""A step whose noise is larger than this share of the gradient says nothing."""


@dataclass(frozen=True)
class Judgement:
    """What one direction says of a gradient."""

    verdict: Literal["agrees", "differs", "silent"]
    derivative: float = math.nan
    expected: float = math.nan
    noise: float = math.nan
    scale: float = math.nan
    step: float = math.nan
    masked: int = 0

    @property
    def difference(self) -> float:
        """By how much the derivative misses what the gradient promises."""
        return abs(self.derivative - self.expected)


def direction(point: Tensor, seed: int, *tags: int) -> Tensor:
    """A random direction that sees a wrong single coordinate as well as a wrong whole.

    Each element is a random sign times a uniform number in [0.5, 1.5). The generator is seeded by
    a hash, so that inputs which the user drew with the same small seed are not the direction.
    """
    mixed = 0x9E3779B97F4A7C15
    for tag in (seed, *tags, 20_011):
        mixed = ((mixed ^ (tag + 0x7F4A7C15)) * 0xBF58476D1CE4E5B9) % 2**63
    generator = torch.Generator().manual_seed(mixed)
    signs = torch.randint(0, 2, point.shape, generator=generator).to(point.dtype) * 2 - 1
    sizes = torch.rand(point.shape, generator=generator, dtype=point.dtype) + 0.5
    return signs * sizes


def moved(point: Point, block: int, shift: Tensor) -> list[Tensor]:
    """The point with one of its tensors shifted."""
    return [tensor + shift if i == block else tensor for i, tensor in enumerate(point)]


def measured_noise(value: Value, point: Point, block: int, along: Tensor) -> float:
    """The rounding noise of ``value`` around a point.

    Third differences of a smooth function over steps of 1e-6 are of the order 1e-18: what they
    show is noise. A loss that computes in float32 inside shows some 1e-7 of its value; where the
    steps are too small for it to show anything, its values are still all float32 numbers.
    """
    step = 1e-6 * _reach(point[block])
    samples = [value(moved(point, block, k * step * along))[0] for k in range(6)]
    third = max(
        abs(a - 3 * b + 3 * c - d)
        for a, b, c, d in zip(*(samples[k : k + 3] for k in range(4)), strict=True)
    )
    narrow = all(sample == torch.tensor(sample, dtype=torch.float32).item() for sample in samples)
    unit = 2 * EPSILON_32 if narrow else 8 * EPSILON
    floor = unit * max(abs(sample) for sample in samples)
    return max(third, floor) if math.isfinite(third) else floor


def judge(
    value: Value,
    point: Point,
    block: int,
    gradient: Tensor,
    *,
    seed: int,
    directions: int = DIRECTIONS,
    tolerance: float = TOLERANCE,
) -> list[Judgement]:
    """Compare a gradient with finite differences along random directions.

    Args:
        value: the scalar function.
        point: where the gradient was taken, float64.
        block: which of the point's tensors the gradient belongs to.
        gradient: what is claimed to be the derivative.
        seed: makes the directions reproducible.
        directions: how many directions to try; the first that differs ends the search.
        tolerance: relative to the gradient's norm.
    """
    found = []
    noise: float | None = None
    here = functools.cache(lambda: value(point)[1])
    for number in range(directions):
        along = direction(point[block], seed, block, number)
        if noise is None:
            noise = _guarded(lambda a=along: measured_noise(value, point, block, a))  # type: ignore[misc]
        found.append(
            _judge_direction(value, point, block, gradient, along, noise or 0.0, tolerance, here)
        )
        if found[-1].verdict == "differs":
            break
    return found


def derivative(
    value: Value,
    point: Point,
    block: int,
    along: Tensor,
    tolerance: float = 1e-6,
    scale: float = 0.0,
) -> float | None:
    """A directional derivative, or ``None`` where no step gives a trustworthy one.

    Args:
        value: the scalar function.
        point: where the derivative is taken, float64.
        block: which of the point's tensors moves.
        along: the direction it moves in.
        tolerance: relative to the derivative, or to ``scale`` where that is larger.
        scale: a derivative to compare with. Without it a derivative of zero can never be told
            from rounding.
    """
    noise = _guarded(lambda: measured_noise(value, point, block, along)) or 0.0
    best: tuple[float, float] | None = None
    for step, levels in LADDER:
        estimate = _estimate(value, point, block, along, step, levels, noise)
        if estimate is None:
            continue
        number, error, _ = estimate
        if error <= tolerance * max(abs(number), scale, 1e-300) or error < 1e-12:
            return number
        if best is None or error < best[1]:
            best = (number, error)
    if best is not None and best[1] <= SPEAKS * max(abs(best[0]), scale):
        return best[0]
    return None


def _guarded(compute: Callable[[], float]) -> float | None:
    try:
        return compute()
    except ReplayMismatch:
        return None
    except Exception:  # the user's code may refuse any point we try
        return None


def _judge_direction(
    value: Value,
    point: Point,
    block: int,
    gradient: Tensor,
    along: Tensor,
    noise: float,
    tolerance: float,
    here: Branches,
) -> Judgement:
    norm = float(gradient.norm())
    suspicion: Judgement | None = None
    for step, levels in LADDER:
        estimate = _estimate(value, point, block, along, step, levels, noise, here)
        if estimate is None:
            continue
        number, error, used = estimate
        expected = float((gradient * used).sum())
        scale = max(norm, abs(number) / math.sqrt(max(used.numel(), 1)))
        masked = int((used == 0).sum())
        if not math.isfinite(expected):
            return Judgement("differs", number, expected, error, scale, step, masked)
        if error > SPEAKS * scale:
            continue
        difference = abs(number - expected)
        agrees = difference <= error + tolerance * scale
        said = Judgement(
            "agrees" if agrees else "differs", number, expected, error, scale, step, masked
        )
        if not agrees:
            suspicion = (
                said if suspicion is None or difference < suspicion.difference else suspicion
            )
        elif suspicion is None or error < 0.2 * suspicion.difference:
            # A step acquits only if it could have seen what an earlier one suspected.
            return said
    return suspicion or Judgement("silent")


def _estimate(
    value: Value,
    point: Point,
    block: int,
    along: Tensor,
    step: float,
    levels: int,
    noise: float,
    here: Branches | None = None,
) -> tuple[float, float, Tensor] | None:
    """Ridders' estimate, its error bound, and the direction without the masked elements.

    Nothing is masked without ``here``, the branches that are taken at the point.
    """
    size = step * _reach(point[block])
    quotients = []
    try:
        if here is not None:
            smooth = _without_kinks(value, point, block, along, size, here)
            if smooth is None:
                return None
            along, change = smooth
            quotients = [] if change is None else [change / (2 * size)]
        for level in range(len(quotients), levels):
            half = size / 2**level
            ahead, _ = value(moved(point, block, half * along))
            behind, _ = value(moved(point, block, -half * along))
            quotients.append((ahead - behind) / (2 * half))
    except Exception:  # the step left the domain, or took another way: it says nothing
        return None
    number, error = extrapolate(quotients)
    if not (math.isfinite(number) and math.isfinite(error)):
        return None
    rounding = 4 * noise / (size / 2 ** (levels - 1))
    return number, 3 * error + rounding, along


def extrapolate(quotients: Sequence[float]) -> tuple[float, float]:
    """Neville's extrapolation of central differences at halved steps, with its error."""
    table = [list(quotients)]
    for order in range(1, len(quotients)):
        weight = 4.0**order
        last = table[-1]
        table.append(
            [(weight * last[i + 1] - last[i]) / (weight - 1) for i in range(len(last) - 1)]
        )
    if len(table) == 1:
        return quotients[0], math.inf
    best = table[-1][0]
    return best, max(abs(best - table[-2][-1]), abs(best - table[-2][0]))


def _without_kinks(
    value: Value, point: Point, block: int, along: Tensor, size: float, here: Branches
) -> tuple[Tensor, float | None] | None:
    """The direction with elements set to 0 whose branch flips within the step.

    With it comes how much the value changes from one end to the other, where that was seen.
    ``None`` where another branch than an element's own flips: then this step crosses a kink that
    cannot be avoided.
    """
    base = here()
    if not base:
        return along, None
    upper, ahead = value(moved(point, block, size * along))
    lower, behind = value(moved(point, block, -size * along))
    if not len(base) == len(ahead) == len(behind):
        return None
    keep: Tensor | None = None
    for taken, one, other in zip(base, ahead, behind, strict=True):
        if taken.shape != one.shape or taken.shape != other.shape:
            return None
        same = (taken == one) & (taken == other)
        if bool(same.all()):
            continue
        if taken.shape != along.shape:
            return None
        keep = same if keep is None else keep & same
    if keep is None:
        return along, upper - lower
    masked = along * keep
    return (masked, None) if bool(masked.any()) else None


def _reach(tensor: Tensor) -> float:
    """The natural size of a step: 1, or the root mean square of large inputs."""
    if tensor.numel() == 0:
        return 1.0
    return max(1.0, float(tensor.pow(2).mean().sqrt()))
