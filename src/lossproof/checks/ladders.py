"""Ways to raise the magnitude of the inputs: confident logits, outliers, scales and offsets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from lossproof.checks.domain import Kind, domain_of, largest
from lossproof.checks.inputs import Inputs
from lossproof.checks.moved_inputs import (
    Moved,
    SpecialPoint,
    Values,
    all_at,
    class_axis,
    classes_of,
    moved_inputs,
    one_hot,
    with_value,
)

Tensor = torch.Tensor

SIZES: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0, 80.0, 100.0, 160.0, 320.0)
"""The rungs of a ladder of magnitudes. A float32 exponential overflows from 89 on."""
SHIFTS: tuple[float, ...] = (10.0, 100.0, 1e3, 1e4)
FARTHEST = 1e3
"""So far at most is a prediction moved away from what it is compared with."""
LOGARITHM = re.compile(
    r"(^|_)(log|ln)_?(vars?|variances?|stds?|sd|sigmas?|scales?|precision|alphas?|betas?|nu|mus?|"
    r"means?|rates?|lambdas?|theta|disp\w*|snrs?|temp\w*|p|ps|pi|probs?|det|likelihoods?|ratios?)"
    r"(_|$)",
    re.I,
)
"""What people call the logarithm of a scale, of a rate or of a probability."""
WIDEST_LOGARITHM = 40.0
"""No scale, rate or likelihood is ``exp(40)`` times another: that is no magnitude to ask about."""


@dataclass(frozen=True)
class Ladder:
    """A point whose magnitude can be raised."""

    at: Callable[[float], Values]
    words: Callable[[float], str]
    sizes: tuple[float, ...] = SIZES
    remote: float = 200.0
    """From here on the magnitudes are ones that training rarely reaches."""
    scales: bool = True
    """Whether the size is that of the values, not of an offset that is added to them."""
    natural: float = math.inf
    """From here on it is enough that the value is right: no gradient is wanted there."""

    def point(self, size: float) -> SpecialPoint:
        """The point of this magnitude."""
        return SpecialPoint(self.at(size), self.words(size))


def ladders(inputs: Inputs) -> list[Ladder]:
    """Every way to raise the magnitude of the inputs, the most natural ones first."""
    all_moved = moved_inputs(inputs)
    found: list[Ladder] = []
    growing = [moved for moved in all_moved if moved.domain.kind in _GROWING]
    if len(growing) > 1:
        together = _scaled_together(inputs, growing)
        widest = next(filter(_is_logarithm, growing), growing[0])
        found += _kept_in_range(widest, [together])
    for moved in growing:
        found += _kept_in_range(moved, [*_patterns(moved), _scaled(moved)])
    for moved in all_moved:
        if moved.domain.kind is Kind.LOG_PROBABILITY:
            found += _confident(moved)
    for moved in growing:
        if moved.domain.kind is Kind.REAL:
            found += _kept_in_range(moved, list(_uniform_and_shifted(moved)))
    return found


def _is_logarithm(moved: Moved) -> bool:
    return bool(LOGARITHM.search(moved.inputs.arguments[moved.position].name))


def _kept_in_range(moved: Moved, found: list[Ladder]) -> list[Ladder]:
    """The ladders, which end earlier for the logarithm of a scale or of a probability."""
    if not _is_logarithm(moved):
        return found
    return [replace(ladder, natural=WIDEST_LOGARITHM) for ladder in found]


_GROWING = (Kind.REAL, Kind.POSITIVE, Kind.NONNEGATIVE, Kind.NEGATIVE)


def _scaled(moved: Moved) -> Ladder:
    unit = moved.tensor / largest(moved.tensor)
    return Ladder(
        lambda size: moved.to(unit * size),
        lambda size: f"{moved.name} is scaled up to {size:g}",
    )


def _scaled_together(inputs: Inputs, growing: Sequence[Moved]) -> Ladder:
    units = {moved.position: moved.tensor / largest(moved.tensor) for moved in growing}
    names = ", ".join(moved.name for moved in growing)
    return Ladder(
        lambda size: all_at(inputs, growing, lambda moved: units[moved.position] * size),
        lambda size: f"{names} are scaled up to {size:g}",
    )


def _patterns(moved: Moved) -> Iterator[Ladder]:
    """Confident logits: right and wrong, by class or by sign."""
    if moved.domain.kind is not Kind.REAL:
        return
    for words, sign in _signs(moved):
        yield _pattern(moved, sign, words)
    for axis in class_axis(moved):
        for words, index in classes_of(moved, axis):
            yield _pattern(moved, one_hot(moved, axis, index), f"for {words}")


def _pattern(moved: Moved, pattern: Tensor, words: str) -> Ladder:
    return Ladder(
        lambda size: moved.to(pattern * size),
        lambda size: f"{moved.name} is {size:g} {words}",
    )


def _signs(moved: Moved) -> Iterator[tuple[str, Tensor]]:
    for argument in moved.inputs.arguments:
        other = argument.value
        if not isinstance(other, torch.Tensor) or other.numel() != moved.tensor.numel():
            continue
        if argument.differentiable or other.is_complex():
            continue
        kind = domain_of(other).kind
        if kind in (Kind.BINARY, Kind.SIGN):
            labels = other.detach().reshape(moved.tensor.shape).to(moved.tensor.dtype)
            right = labels * 2 - 1 if kind is Kind.BINARY else labels
            yield f"on the side of `{argument.name}`", right
            yield f"on the wrong side of `{argument.name}`", -right


def _confident(moved: Moved) -> Iterator[Ladder]:
    """Log-probabilities near certainty."""
    axis = moved.domain.axis
    assert axis is not None
    for words, index in classes_of(moved, axis):
        yield _certain(moved, axis, one_hot(moved, axis, index), words)


def _certain(moved: Moved, axis: int, pattern: Tensor, words: str) -> Ladder:
    return Ladder(
        lambda size: moved.to(torch.log_softmax(pattern * size, axis)),
        lambda size: f"{moved.name} comes from a logit of {size:g} for {words}",
    )


def _uniform_and_shifted(moved: Moved) -> Iterator[Ladder]:
    yield from (_uniform(moved, 1.0), _uniform(moved, -1.0))
    yield from (_outlier(moved, 1.0), _outlier(moved, -1.0))
    yield from (_shifted(moved, 1.0), _shifted(moved, -1.0))


def _uniform(moved: Moved, sign: float) -> Ladder:
    return Ladder(
        lambda size: moved.to(moved.filled(sign * size)),
        lambda size: f"{moved.name} is {sign * size:g} everywhere",
    )


def _outlier(moved: Moved, sign: float) -> Ladder:
    x = moved.tensor
    return Ladder(
        lambda size: moved.to(with_value(x.reshape(-1), 0, sign * size).reshape(x.shape)),
        lambda size: f"one element of {moved.name} is {sign * size:g}",
    )


def _shifted(moved: Moved, sign: float) -> Ladder:
    """A common offset, in which differences cancel."""
    return Ladder(
        lambda size: moved.to(moved.tensor + sign * size),
        lambda size: f"{sign * size:g} is added to {moved.name}",
        tuple(size for size in SHIFTS if size <= FARTHEST or not _has_company(moved)),
        remote=500.0,
        scales=False,
    )


def _has_company(moved: Moved) -> bool:
    """Whether another argument holds free numbers with the same features, to be compared with."""
    others = (argument.value for argument in moved.inputs.arguments)
    return any(
        isinstance(other, Tensor)
        and other.is_floating_point()
        and other.dim() == moved.tensor.dim()
        and other.shape[1:] == moved.tensor.shape[1:]
        and domain_of(other).kind is Kind.REAL
        for position, other in enumerate(others)
        if position != moved.position
    )


def squashed(inputs: Inputs) -> list[Ladder]:
    """Probabilities that come from ever larger logits, for what cannot grow itself."""
    return [_squashed(moved) for moved in moved_inputs(inputs) if moved.domain.kind is Kind.UNIT]


def _squashed(moved: Moved) -> Ladder:
    logits = torch.logit(moved.tensor.double(), 1e-6)
    unit = logits / largest(logits)
    return Ladder(
        lambda size: moved.to(torch.sigmoid(unit * size)),
        lambda size: f"{moved.name} comes from logits of up to {size:g}",
    )
