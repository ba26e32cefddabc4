"""What differs between two losses, in words, and the name of how they relate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossproof.checks.comparison import (
    Agreement,
    Extreme,
    GradientAgreement,
    PointAgreement,
    Reading,
    Rearrangement,
    Side,
)


@dataclass(frozen=True)
class Measured:
    """What the words are made from."""

    a: Side
    b: Side
    compared_as: str
    dtype: str
    value: Agreement
    points: tuple[PointAgreement, ...]
    gradients: tuple[tuple[GradientAgreement, ...], ...]
    """For each point at which both have one."""
    counts: tuple[tuple[int, str], ...] = ()
    """Sizes of the inputs, which a constant factor may turn out to be, with their names."""

    @property
    def same_size(self) -> bool:
        """Whether the results have equally many elements."""
        return self.a.elements == self.b.elements

    @property
    def agrees(self) -> bool:
        """Whether what was compared of them is the same at every ordinary point."""
        return bool(self.points) and all(
            point.same_value and point.same_gradient for point in self.points
        )

    @property
    def same(self) -> bool:
        """Whether they are one loss, as far as ordinary points can tell."""
        follow = self.a.follows_upstream == self.b.follows_upstream
        return self.agrees and self.same_size and follow


def relation(measured: Measured) -> tuple[str | None, tuple[str, ...]]:
    """How the two relate at ordinary points: a fixed word, and texts. Nothing where they agree."""
    word: str | None = None
    texts = [*_results(measured)]
    wrong = [point for point in measured.points if not point.same_value]
    if not measured.points:
        word = "unrelated"
        texts.append("at no ordinary point do both give a finite value")
    elif wrong:
        word, text = _values(measured, wrong)
        texts.append(text)
    elif not all(point.same_gradient for point in measured.points):
        word = "gradient-only"
        texts += _gradients(measured)
    texts += _rounding(measured, wrong)
    upstream = list(_upstream(measured))
    if upstream and word is None:
        word = "gradient-only"
    if not measured.same_size:
        word = "shape"
    return word, (*texts, *upstream)


# ---------------------------------------------------------------------------- results
def _results(measured: Measured) -> Iterator[str]:
    a, b = measured.a, measured.b
    if not measured.same_size and measured.points:
        equal = all(point.same_value for point in measured.points)
        vector, scalar = (a, b) if a.elements > b.elements else (b, a)
        text = f"`{a.name}` returns {a.result}, `{b.name}` {b.result}"
        if equal and scalar.elements == 1:
            text += f": the {measured.compared_as} of `{vector.name}` is `{scalar.name}`"
        yield text
    elif a.shape != b.shape or a.dtype != b.dtype:
        yield f"`{a.name}` returns {a.result}, `{b.name}` {b.result}"


# ---------------------------------------------------------------------------- values
def _values(measured: Measured, wrong: Sequence[PointAgreement]) -> tuple[str, str]:
    from lossproof.checks.agreement import constant_offset, constant_ratio

    a, b = measured.a.name, measured.b.name
    values = [(point.value_a, point.value_b) for point in measured.points]
    ratio = constant_ratio(values)
    if ratio is not None:
        return "constant-factor", f"`{a}` is always {_factor(ratio, measured)} `{b}`"
    offset = constant_offset(values)
    if offset is not None:
        more = "more" if offset > 0 else "less"
        return "constant-offset", f"`{a}` is always {abs(offset):.6g} {more} than `{b}`"
    first = wrong[0]
    gap = f"`{a}` gives {first.value_a:.6g} where `{b}` gives {first.value_b:.6g}"
    if len(wrong) < len(measured.points):
        return (
            "some-points",
            f"the values differ at {len(wrong)} of {len(measured.points)} ordinary points: {gap}",
        )
    return "unrelated", f"{gap}, and no constant factor or offset lies between them"


def _factor(ratio: float, measured: Measured) -> str:
    """A factor, with its meaning where it has one: ``8 times (the number of samples)``."""
    text = f"{ratio:.6g} times"
    for size, name in measured.counts:
        if size > 1 and math.isclose(ratio, size, rel_tol=1e-6):
            return f"{text} ({name})"
        if size > 1 and math.isclose(ratio, 1 / size, rel_tol=1e-6):
            return f"{text} (1 / {name})"
    if any(math.isclose(ratio, r, rel_tol=1e-6) for r in (math.log(2), 1 / math.log(2))):
        return f"{text} (natural against binary logarithm)"
    return text


def _rounding(measured: Measured, wrong: Sequence[PointAgreement]) -> Iterator[str]:
    if measured.points and not wrong and not measured.value.same:
        yield (
            f"in {measured.dtype} the values differ by {measured.value.difference:.2g} of "
            "their size, in float64 they do not: one of the two loses digits"
        )


# ---------------------------------------------------------------------------- gradients
def _gradients(measured: Measured) -> Iterator[str]:
    for side, other in ((measured.a, measured.b), (measured.b, measured.a)):
        if side.backward_error is not None and other.backward_error is None:
            yield f"the backward pass of `{side.name}` raises {side.backward_error}"
    if measured.a.backward_error is not None and measured.b.backward_error is not None:
        yield "neither backward pass can be run"
    for leaf in range(len(measured.gradients[0]) if measured.gradients else 0):
        at_points = [point[leaf] for point in measured.gradients]
        if not all(gradient.same for gradient in at_points):
            yield _gradient(measured, at_points)


def _gradient(measured: Measured, at_points: Sequence[GradientAgreement]) -> str:
    from lossproof.checks.agreement import gradient_ratio

    a, b = measured.a.name, measured.b.name
    worst = max(at_points, key=lambda gradient: gradient.difference)
    if worst.reaches_a != worst.reaches_b:
        cut = b if worst.reaches_a else a
        return f"no gradient of `{cut}` reaches `{worst.name}`"
    ratio = gradient_ratio(at_points)
    if ratio is not None:
        factor = _factor(ratio, measured)
        return f"the gradient of `{a}` for `{worst.name}` is always {factor} that of `{b}`"
    where = f"{worst.name}{list(worst.worst_index)}" if worst.worst_index else worst.name
    return (
        f"the gradients for `{worst.name}` differ by {worst.difference:.2g} of their norm; "
        f"farthest at `{where}`: {worst.worst_a:.6g} against {worst.worst_b:.6g}"
    )


def _upstream(measured: Measured) -> Iterator[str]:
    if measured.a.follows_upstream == measured.b.follows_upstream:
        return
    for side in (measured.a, measured.b):
        if side.follows_upstream is False:
            yield (
                f"the gradient of `{side.name}` does not follow the one sent backward: three times "
                "as much going in does not give three times as much"
            )


# ---------------------------------------------------------------------------- beyond
def beyond(
    a: Side, b: Side, extremes: Sequence[Extreme], rearrangements: Sequence[Rearrangement]
) -> tuple[str, ...]:
    """What differs at extreme points and in other arrangements of the inputs."""
    return (*_extremes(a, b, extremes), *_rearranged(a, b, rearrangements))


def _extremes(a: Side, b: Side, extremes: Sequence[Extreme]) -> Iterator[str]:
    for verdict, side, other in (("a fails", a, b), ("b fails", b, a)):
        found = [extreme for extreme in extremes if extreme.verdict == verdict]
        if found:
            first = found[0]
            bad, good = (first.a, first.b) if side is a else (first.b, first.a)
            yield (
                f"`{side.name}` {failure(bad)} when {first.words}, where `{other.name}` gives "
                f"{good.value:.6g}{_culprit(bad)}{_more(len(found))}"
            )
    for verdict, noun in (("values differ", "value"), ("gradients differ", "gradient")):
        found = [extreme for extreme in extremes if extreme.verdict == verdict]
        if found:
            first = found[0]
            gap = f": {first.a.value:.6g} against {first.b.value:.6g}" if noun == "value" else ""
            yield f"the {noun}s differ when {first.words}{gap}{_more(len(found))}"


def failure(reading: Reading) -> str:
    """What went wrong at a point, as a verb: ``gives nan``."""
    if reading.error is not None:
        return f"raises {reading.error}"
    if reading.value is not None and not math.isfinite(reading.value):
        return f"gives {reading.value:g}"
    return f"has a gradient of {reading.gradient}"


def _culprit(reading: Reading) -> str:
    if reading.culprit is None:
        return ""
    place = reading.location
    where = "" if place is None else f" ({Path(place.file).name}:{place.line})"
    return f": {reading.culprit}{where}"


def _more(count: int) -> str:
    if count == 1:
        return ""
    return f"; likewise at {count - 1} other extreme point{'s' if count > 2 else ''}"


def _rearranged(a: Side, b: Side, rearrangements: Sequence[Rearrangement]) -> Iterator[str]:
    """A side that accepts an arrangement and gives something else, while the other does not."""
    for arrangement in rearrangements:
        for side, own, other in (
            (a, arrangement.a, arrangement.b),
            (b, arrangement.b, arrangement.a),
        ):
            if other.same and own.error is None and not own.same:
                yield (
                    f"`{side.name}` gives something else for {arrangement.words}: "
                    f"off by {own.difference:.2g}"
                )
