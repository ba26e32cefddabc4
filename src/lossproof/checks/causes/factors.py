"""The right gradient times a constant, and the mean in the place of the elements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from lossproof.checks.causes.cause import Cause, Kind
from lossproof.checks.causes.study import Study

Tensor = torch.Tensor


def constant_between(claim: Tensor, truth: Tensor) -> float | None:
    """The constant ``c`` that brings ``c * truth`` nearest to ``claim``."""
    square = float((truth * truth).sum())
    return float((claim * truth).sum()) / square if square > 0 else None


@dataclass(frozen=True)
class Size:
    """A number of elements that a mean may divide by, with its value at every point."""

    name: str
    values: tuple[int, ...]


def constant_factor(study: Study, k: int) -> Cause | None:
    """``claim = c * truth``, where ``c`` is a constant or a size of the inputs."""
    factors = []
    for claim, truth in zip(study.claim, study.truth, strict=True):
        factor = constant_between(claim[k], truth[k])
        if factor is None or abs(factor) < 1e-12:
            return None
        factors.append(factor)
    if not study.explains(k, (f * t[k] for f, t in zip(factors, study.truth, strict=True))):
        return None
    named = name_factor(factors, study, list(sizes(study, k)))
    if named is None:
        return None  # it depends on the inputs: no constant
    kind, words, mend = named
    return Cause(
        kind,
        f"the gradient of `{study.name(k)}` {words}",
        help=mend,
        evidence={"factor": factors[0]},
    )


def name_factor(
    factors: Sequence[float], study: Study, known: Sequence[Size]
) -> tuple[Kind, str, str] | None:
    """A word, a clause and a mend for a factor; ``known`` are the sizes it may be made of."""
    sign = factors[0] < 0
    if any((factor < 0) != sign for factor in factors):
        return None
    also = " and has the wrong sign" if sign else ""
    minus = "the negative of " if sign else ""
    found = [abs(factor) for factor in factors]
    if _equal(found, [1.0] * len(found)):
        return Kind.SIGN, "has the wrong sign", "return the negative of it"
    by_size = _size_factor(found, known, also, minus)
    if by_size is not None:
        return by_size
    return (
        _plain_factor(found[0], study, also, minus)
        if _equal(found, [found[0]] * len(found))
        else None
    )


def _plain_factor(size: float, study: Study, also: str, minus: str) -> tuple[Kind, str, str]:
    """A factor that is a number, whatever the sizes are."""
    for base, name in ((math.log(2), "log 2"), (math.log(10), "log 10")):
        for value, word in ((base, name), (1 / base, f"1/{name}")):
            if _equal([size], [value]):
                return (
                    Kind.LOG_BASE,
                    f"has a factor {word}{also}: the base of the logarithm is another one",
                    f"return {minus}it divided by `{word}`",
                )
    option = _option(size, study)
    if option is not None:
        return (
            Kind.CONSTANT_FACTOR,
            f"is {size:g} times what it should be, which is {option}{also}",
            f"return {minus}it divided by {size:g}",
        )
    fraction = Fraction(size).limit_denominator(64)
    words = f"{fraction}" if fraction and _equal([size], [float(fraction)]) else f"{size:.6g}"
    reason = {"1/2": ": the factor 2 of a square is missing", "2": ": a factor 1/2 is missing"}
    return (
        Kind.CONSTANT_FACTOR,
        f"is {words} times what it should be{also}{reason.get(words, '')}",
        f"return {minus}it divided by {words}",
    )


def _size_factor(
    found: Sequence[float], known: Sequence[Size], also: str, minus: str
) -> tuple[Kind, str, str] | None:
    """A factor that is a size of the inputs, a ratio of two, a square, or twice or half of one."""
    for size in known:
        name, count = size.name, size.values[0]
        if _equal(found, size.values):
            return (
                Kind.MISSING_MEAN,
                f"is {count} times too large{also}: the 1/N of the mean is missing, N = {name}",
                f"return {minus}it divided by {name}",
            )
        if _equal(found, [1 / value for value in size.values]):
            return (
                Kind.EXTRA_MEAN,
                f"is {count} times too small{also}: it is divided once too often by {name}",
                f"return {minus}it without the division by {name}",
            )
        if _equal(found, [value**2 for value in size.values]):
            return (
                Kind.MISSING_MEAN,
                f"is {count**2} times too large{also}: it is multiplied by N where it must be "
                f"divided, N = {name}",
                f"return {minus}it divided by {name}, not multiplied",
            )
    if _equal(found, [found[0]] * len(found)) and len(found) > 1:
        return None  # the same where the sizes are others: a plain number
    return _size_ratio(found, known, also, minus)


def _size_ratio(
    found: Sequence[float], known: Sequence[Size], also: str, minus: str
) -> tuple[Kind, str, str] | None:
    for one, other in itertools.permutations(known, 2):
        if _equal(found, [a / b for a, b in zip(one.values, other.values, strict=True)]):
            ratio = Fraction(one.values[0], other.values[0])
            return (
                Kind.MISSING_MEAN if ratio > 1 else Kind.EXTRA_MEAN,
                f"is {ratio} times what it should be{also}: it is divided by {other.name} where "
                f"{one.name} is meant",
                f"divide {minus}it by {one.name} instead of {other.name}",
            )
    for size in known:
        for share in (2.0, 0.5):
            if _equal(found, [value * share for value in size.values]):
                return (
                    Kind.MISSING_MEAN,
                    f"is {found[0]:g} times too large{also}: the 1/N of the mean is missing "
                    f"(N = {size.name}, {size.values[0]}), and so is a factor {1 / share:g}",
                    f"return {minus}it divided by {found[0]:g}",
                )
    return None


def _equal(found: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether the numbers are the same at every point."""
    return all(abs(f / e - 1) < 1e-9 for f, e in zip(found, expected, strict=False))


def sizes(study: Study, k: int) -> Iterator[Size]:
    """Sizes that a mean may divide by, the likeliest first, each with its name."""
    seen: set[tuple[int, ...]] = set()
    positions = [study.position(k)] + [
        i
        for i, value in enumerate(study.function.args)
        if isinstance(value, torch.Tensor) and i != study.position(k)
    ]
    for position in positions:
        tensors = [scene.args[position] for scene in study.scenes]
        name = study.function.name_of(position)
        named = [(f"`{name}.numel()`", tuple(t.numel() for t in tensors))]
        named += [
            (f"`{name}.shape[{axis}]`", tuple(t.shape[axis] for t in tensors))
            for axis in range(tensors[0].dim())
        ]
        for word, values in named:
            # A 2 that is the same everywhere is likelier the 2 of a square.
            if values[0] > 1 and values not in seen and set(values) != {2}:
                seen.add(values)
                yield Size(word, values)


def _option(size: float, study: Study) -> str | None:
    """An option of ``forward`` (or its inverse, square, ...) that the factor is equal to."""
    for i, value in enumerate(study.function.args):
        number = _number(value)
        if number is None or abs(number) in (0.0, 1.0):
            continue
        name = study.function.name_of(i)
        for form, result in (
            (f"`{name}`", number), (f"`1 / {name}`", 1 / number), (f"`{name}**2`", number**2),
            (f"`1 / {name}**2`", number**-2), (f"`1 - {name}`", 1 - number),
        ):  # fmt: skip
            if result and abs(size / abs(result) - 1) < 1e-9:
                return form
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


def mean_repeated(study: Study, k: int) -> Cause | None:
    """One number, or one per row, stands in the place of each element's own."""
    for axes in _axes(study.truth[0][k].dim()):
        counts, factors, predicted = [], [], []
        for claim, truth in zip(study.claim, study.truth, strict=True):
            shape = truth[k].shape
            mean = truth[k].mean(axes, keepdim=True).expand(shape)
            factor = constant_between(claim[k].mean(axes, keepdim=True).expand(shape), mean)
            counts.append(math.prod(shape[axis] for axis in axes))
            factors.append(factor or 0.0)
            predicted.append(factors[-1] * mean)
        missing = _equal([abs(f) for f in factors], counts)
        constant = _equal(factors, [factors[0]] * len(factors)) if factors[0] else False
        if counts[0] > 1 and (missing or constant) and study.explains(k, predicted):
            return _mean_cause(study, k, axes, counts[0], factors[0], missing)
    return None


def _axes(dimensions: int) -> Iterator[tuple[int, ...]]:
    if dimensions:
        yield tuple(range(dimensions))
    if dimensions > 1:
        for axis in range(dimensions):
            yield (axis,)


def _mean_cause(
    study: Study, k: int, axes: tuple[int, ...], count: int, factor: float, missing: bool
) -> Cause:
    name = study.name(k)
    where = "" if len(axes) == study.truth[0][k].dim() else f" along axis {axes[0]}"
    message = f"the gradient of `{name}` is one mean repeated{where}, not each element's own value"
    if missing:
        message += f", and the 1/N is missing (N = {count})"
    elif abs(abs(factor) - 1) > 1e-9:
        message += f", times {factor:.6g}"
    if factor < 0:
        message += ", with the wrong sign"
    return Cause(
        Kind.MEAN_REPEATED,
        message,
        help="return each element's own derivative"
        + (f" divided by {count}" if missing else "")
        + ": leave out the mean and the repetition",
        evidence={"factor": factor, "elements": count},
    )
