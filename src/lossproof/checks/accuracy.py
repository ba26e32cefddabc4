"""How far a loss and its gradient are off in float32, against its twin in float64.

Both are given the same numbers (those that the narrower type holds), so that what differs is what
the formula lost on the way. What the roundings of the inputs alone may do is measured, too, by
moving them by one rounding in float64: an ill-conditioned loss cannot be better than that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from lossproof.checks.domain import Kind, domain_of
from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.inputs import Inputs
from lossproof.checks.ladders import Ladder, ladders, squashed
from lossproof.checks.moved_inputs import SpecialPoint
from lossproof.checks.nonfinite import is_finite
from lossproof.checks.special_points import nearness

Tensor = torch.Tensor

MAGNITUDES: tuple[float, ...] = (
    1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0, 50.0, 100.0, 300.0, 1e3, 1e4,
)  # fmt: skip
"""The magnitudes at which :func:`accuracy` measures."""
SWEEPS = 4
"""So many ways to raise the magnitude are followed; the worst of them counts."""
OFFSETS = (100.0, 1000.0)
"""What is added to numbers that are free, as raw targets such as prices or years are."""
NARROW = torch.float32
SIGNIFICANT = 1e-3
"""How large a value or gradient must be, relative to that at the given inputs, to matter."""


class Accuracy(NamedTuple):
    """How accurate a loss is at one magnitude of its prediction."""

    magnitude: float
    dtype: str
    value: float
    """Relative error of the value; infinite where the narrower type is not finite."""
    gradient: float
    """Relative error of the gradient, in the 2-norm over all leaves."""


@dataclass(frozen=True)
class Deviation:
    """What one point says: the errors, and what the inputs' roundings alone explain of them."""

    value: float
    gradient: float
    truth: Evaluation
    narrow: Evaluation


def accuracy(case: Examination, narrow: torch.dtype = NARROW) -> list[Accuracy]:
    """The relative errors in a narrower type for magnitudes of the prediction from 1e-4 to 1e4.

    Errors are relative to the true value, but to no less than a thousandth of that at the given
    inputs. At each magnitude it is the worst over several ways to reach it: all values scaled,
    confident of the right class, confident of another. Magnitudes at which the float64 twin is not
    finite are left out, and so is everything if the loss cannot be called or has no input to scale.

    Args:
        case: the check in progress.
        narrow: the type to measure.

    Returns:
        One entry per magnitude, in rising order.

    Example:
        >>> import torch
        >>> from lossproof.checks.examination import Examination
        >>> from lossproof.checks.inputs import inputs_for
        >>> from lossproof.checks.subject import subject_of
        >>> subject = subject_of(lambda x: torch.log1p(x.exp()).sum())
        >>> x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
        >>> entries = accuracy(Examination(subject, inputs_for(subject, (x,), 0)))
        >>> [entry.value < 1e-6 for entry in entries if entry.magnitude in (1.0, 300.0)]
        [True, False]
    """
    if case.base.failed or case.base.value is None:
        return []
    sweeps = _followed(ladders(case.small)) or squashed(case.small)[:SWEEPS]
    if not sweeps:
        return []
    magnitudes = MAGNITUDES
    if not case.affordable(2 * len(sweeps) * len(magnitudes)):
        sweeps, magnitudes = sweeps[:1], MAGNITUDES[::2]
    given = case.evaluate(case.small.values, dtype=torch.float64)
    found = []
    for magnitude in magnitudes:
        errors = [deviation(case, ladder.at(magnitude), narrow) for ladder in sweeps]
        known = [_significant(error, given) for error in errors if error is not None]
        if known:
            value, gradient = (max(parts) for parts in zip(*known, strict=True))
            name = str(narrow).removeprefix("torch.")
            found.append(Accuracy(magnitude, name, value, gradient))
    return found


def _significant(error: Deviation, given: Evaluation) -> tuple[float, float]:
    """The errors, relative to no less than what is small beside the loss at the given inputs.

    A perfect fit that float32 rounds to 0 has lost all its digits, and nobody misses them.
    """
    value = _scaled(error.value, size([error.truth.value]), size([given.value]))
    gradient = _scaled(error.gradient, size(error.truth.gradients), size(given.gradients))
    return value, gradient


def _scaled(error: float, true_size: float, usual: float) -> float:
    floor = SIGNIFICANT * usual
    return error if true_size >= floor or math.isinf(error) else error * true_size / floor


def size(parts: Iterable[Tensor | None]) -> float:
    """The 2-norm of several tensors together."""
    return math.hypot(*(float(p.detach().double().norm()) for p in parts if p is not None))


def _followed(known: Sequence[Ladder]) -> list[Ladder]:
    """Ladders from a magnitude near 0 on: those that add an offset start elsewhere."""
    return [ladder for ladder in known if ladder.scales][:SWEEPS]


def deviation(
    case: Examination, values: Sequence[Any], narrow_type: torch.dtype = NARROW
) -> Deviation | None:
    """The relative errors in a narrower type at one point; ``None`` where float64 says nothing."""
    values = [_held(value, narrow_type) for value in values]
    truth = case.evaluate(values, dtype=torch.float64)
    if truth.failed or truth.value is None or not is_finite(truth):
        return None
    narrow = case.evaluate(values, dtype=narrow_type)
    if narrow.failed or narrow.value is None or not is_finite(narrow):
        return Deviation(math.inf, math.inf, truth, narrow)
    return Deviation(value_error(narrow, truth), gradient_error(narrow, truth), truth, narrow)


def _held(value: Any, narrow: torch.dtype) -> Any:
    """The numbers that the narrower type holds, so that both sides are given the same."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(narrow)
    return value


def value_error(found: Evaluation, truth: Evaluation) -> float:
    """The relative error of a value: the largest deviation over the largest true element."""
    assert found.value is not None
    assert truth.value is not None
    if found.value.shape != truth.value.shape:
        return math.nan
    return _relative([found.value], [truth.value], math.inf)


def gradient_error(found: Evaluation, truth: Evaluation) -> float:
    """The relative error of all gradients together."""
    leaves = range(min(len(found.leaves), len(truth.leaves)))
    return _relative([found.gradient(i) for i in leaves], [truth.gradient(i) for i in leaves], 2)


def _relative(found: Sequence[Tensor], truth: Sequence[Tensor], order: float) -> float:
    if not truth:
        return 0.0
    one = torch.cat([part.detach().double().reshape(-1) for part in found])
    other = torch.cat([part.detach().double().reshape(-1) for part in truth])
    gap = float(torch.linalg.vector_norm(one - other, order)) if one.numel() else 0.0
    whole = float(torch.linalg.vector_norm(other, order)) if other.numel() else 0.0
    if gap == 0.0:
        return 0.0
    return gap / whole if whole > 0 else math.inf


def inherent(
    case: Examination,
    values: Sequence[Any],
    truth: Evaluation,
    rounding: float = torch.finfo(NARROW).eps,
) -> tuple[float, float]:
    """What one rounding of every input does to the true value and gradient, relatively.

    Args:
        case: the check in progress.
        values: the arguments.
        truth: the float64 evaluation there.
        rounding: the relative size of one rounding.
    """
    worst = (0.0, 0.0)
    for seed in (1, 2):
        found = case.evaluate(_jittered(case, values, rounding, seed), dtype=torch.float64)
        if found.failed or found.value is None or not is_finite(found):
            return math.inf, math.inf
        value, gradient = value_error(found, truth), gradient_error(found, truth)
        worst = (max(worst[0], value), max(worst[1], gradient))
    return worst


def _jittered(case: Examination, values: Sequence[Any], part: float, seed: int) -> tuple[Any, ...]:
    """The arguments with every number of floating tensors changed by this part of it.

    Whole numbers that are no prediction stay: they are labels.
    """
    generator = torch.Generator().manual_seed(seed)
    moved = list(values)
    for position, argument in enumerate(case.inputs.arguments):
        value = values[position]
        if isinstance(value, Tensor) and value.is_floating_point():
            exact = value.detach().double()
            if argument.differentiable or not bool((exact == exact.round()).all()):
                signs = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
                moved[position] = exact * (1 + part * signs)
    return tuple(moved)


def beside(case: Examination, point: SpecialPoint) -> tuple[Any, ...]:
    """A point close by at which no prediction is tied that was tied by chance."""
    generator = torch.Generator().manual_seed(27)
    moved = list(point.values)
    for position in case.inputs.differentiable:
        value = moved[position].detach()
        noise = torch.rand(value.shape, generator=generator).to(value) - 0.5
        step = (value - case.small.values[position].detach()).abs().clamp(max=1.0)
        moved[position] = value + point.spread * noise * torch.where(step > 0, step, value.abs())
    return tuple(moved)


def probing_points(case: Examination) -> list[SpecialPoint]:
    """The points at which accuracy matters: confident, offset or nearly right predictions."""
    found = list(nearness(case.small))
    for ladder in ladders(case.small):
        if ladder.scales:
            found.append(ladder.point(20.0))
        else:
            points = (ladder.point(size) for size in OFFSETS)
            found += [point for point in points if not _company(case.small, point)]
            found += _offset_together(case.small, ladder.point(OFFSETS[0]))
    return found


def _offset_together(inputs: Inputs, point: SpecialPoint) -> list[SpecialPoint]:
    """The point with the same offset in whatever is compared with what it moves.

    Predictions around 100 have targets around 100. Far from each other the two are at a point that
    training leaves behind, where a right loss may be badly conditioned.
    """
    company = _company(inputs, point)
    if not company:
        return []
    moved = _moved_in(inputs, point)
    offset = (point.values[moved] - inputs.values[moved]).reshape(-1)[:1]
    values = list(point.values)
    for position in company:
        values[position] = values[position].detach() + offset.to(values[position].dtype)
    names = [f"`{inputs.arguments[position].name}`" for position in company]
    words = " and to ".join([point.words, *names])
    return [replace(point, values=tuple(values), words=words)]


def _company(inputs: Inputs, point: SpecialPoint) -> list[int]:
    """The arguments that are compared with what the point moves."""
    moved = _moved_in(inputs, point)
    return [
        position
        for position, value in enumerate(inputs.values)
        if position != moved and _is_compared(value, inputs.values[moved])
    ]


def _moved_in(inputs: Inputs, point: SpecialPoint) -> int:
    return next(i for i, value in enumerate(point.values) if value is not inputs.values[i])


def _is_compared(value: Any, moved: Tensor) -> bool:
    """Whether a tensor holds free numbers of the same kind: the same features at least."""
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.dim() == moved.dim()
        and value.shape[1:] == moved.shape[1:]
        and domain_of(value).kind is Kind.REAL
    )
