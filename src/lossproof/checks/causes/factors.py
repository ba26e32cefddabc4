"""The right gradient times a constant, and the mean in the place of the elements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
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


def constant_factor(study: Study, k: int) -> Cause | None:
    """``claim = c * truth`` with the same ``c``, or the same size of the inputs, everywhere."""
    factor = constant_between(study.claim[0][k], study.truth[0][k])
    if factor is None or abs(factor) < 1e-12:
        return None
    if not study.explains(k, (factor * truth[k] for truth in study.truth)):
        return None
    kind, words, mend = name_factor(factor, study, k)
    return Cause(
        kind,
        f"the gradient of `{study.name(k)}` {words}",
        help=mend,
        evidence={"factor": factor},
    )


def name_factor(factor: float, study: Study, k: int) -> tuple[Kind, str, str]:
    """A word, a clause and a mend for a factor."""
    sign = factor < 0
    size = abs(factor)
    also = " and has the wrong sign" if sign else ""
    minus = "the negative of " if sign else ""
    if abs(size - 1) < 1e-9:
        return Kind.SIGN, "has the wrong sign", "return the negative of it"
    by_size = _size_factor(size, list(sizes(study, k)), also, minus)
    if by_size is not None:
        return by_size
    for base, name in ((math.log(2), "log 2"), (math.log(10), "log 10")):
        for value, word in ((base, name), (1 / base, f"1/{name}")):
            if abs(size / value - 1) < 1e-9:
                return (
                    Kind.LOG_BASE,
                    f"has a factor {word}: the base of the logarithm is another one{also}",
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
    words = f"{fraction}" if abs(size / fraction - 1) < 1e-9 and fraction else f"{size:.6g}"
    verb = "the factor 2 of a square is missing" if fraction == Fraction(1, 2) else (
        "a factor 1/2 is missing" if fraction == 2 else "a constant factor is wrong"
    )  # fmt: skip
    return (
        Kind.CONSTANT_FACTOR,
        f"is {words} times what it should be: {verb}{also}",
        f"return {minus}it divided by {words}",
    )


def _size_factor(
    size: float, known: Sequence[tuple[str, int]], also: str, minus: str
) -> tuple[Kind, str, str] | None:
    """A factor that is a size of the inputs, a ratio of two, a square, or twice or half of one."""
    for name, count in known:
        if _equal(size, count):
            return (
                Kind.MISSING_MEAN,
                f"is {count} times too large: the 1/N of the mean is missing, N = {name}{also}",
                f"return {minus}it divided by {name}",
            )
        if _equal(size, 1 / count):
            return (
                Kind.EXTRA_MEAN,
                f"is {count} times too small: it is divided once too often by {name}{also}",
                f"return {minus}it without the division by {name}",
            )
        if _equal(size, count**2):
            return (
                Kind.MISSING_MEAN,
                f"is {count**2} times too large: it is multiplied by N where it must be divided, "
                f"N = {name}{also}",
                f"return {minus}it divided by {name}, not multiplied",
            )
    if _equal(size, 2) or _equal(size, 0.5):
        return None  # the 2 of a square is likelier than a ratio of sizes
    for (name, count), (other, divisor) in itertools.permutations(known, 2):
        if _equal(size, count / divisor):
            kind = Kind.MISSING_MEAN if size > 1 else Kind.EXTRA_MEAN
            return (
                kind,
                f"is {Fraction(count, divisor)} times what it should be: it is divided by {other} "
                f"where {name} is meant{also}",
                f"divide {minus}it by {name} instead of {other}",
            )
    for name, count in known:
        for share in (2.0, 0.5):
            if _equal(size, count * share):
                return (
                    Kind.MISSING_MEAN,
                    f"is {size:g} times too large: the 1/N of the mean is missing (N = {name}, "
                    f"{count}), and so is a factor {1 / share:g}{also}",
                    f"return {minus}it divided by {size:g}",
                )
    return None


def _equal(one: float, other: float) -> bool:
    return abs(one / other - 1) < 1e-9


def sizes(study: Study, k: int) -> Iterator[tuple[str, int]]:
    """Sizes that a mean may divide by, the likeliest first, each with its name."""
    seen: set[int] = set()
    own = study.scenes[0].point[k]
    tensors = [(study.name(k), own)] + [
        (study.function.name_of(i), value)
        for i, value in enumerate(study.scenes[0].args)
        if isinstance(value, torch.Tensor) and value is not own
    ]
    for name, tensor in tensors:
        named = [(f"`{name}.numel()`", tensor.numel())]
        named += [(f"`{name}.shape[{axis}]`", size) for axis, size in enumerate(tensor.shape)]
        for word, count in named:
            if count > 1 and count not in seen:
                seen.add(count)
                yield word, count


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
    shape = study.truth[0][k].shape
    for axes in _axes(len(shape)):
        count = math.prod(shape[axis] for axis in axes)
        if count < 2:
            continue
        if any(
            study.same(claim[k].mean(axes, keepdim=True).expand(shape), s, k) is False
            for s, claim in enumerate(study.claim)
        ):
            continue
        means = [truth[k].mean(axes, keepdim=True).expand(shape) for truth in study.truth]
        factor = constant_between(study.claim[0][k], means[0])
        if factor is None or not study.explains(k, (factor * mean for mean in means)):
            continue
        return _mean_cause(study, k, axes, count, factor)
    return None


def _axes(dimensions: int) -> Iterator[tuple[int, ...]]:
    if dimensions:
        yield tuple(range(dimensions))
    if dimensions > 1:
        for axis in range(dimensions):
            yield (axis,)


def _mean_cause(study: Study, k: int, axes: tuple[int, ...], count: int, factor: float) -> Cause:
    name = study.name(k)
    where = "" if len(axes) == study.truth[0][k].dim() else f" along axis {axes[0]}"
    message = f"the gradient of `{name}` is one mean repeated{where}, not each element's own value"
    missing = abs(abs(factor) / count - 1) < 1e-9
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
