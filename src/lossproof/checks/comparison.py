"""What a comparison of two losses found out: plain data, no drawing and no torch.

Everything here survives ``to_dict`` / ``from_dict`` unchanged, also through JSON, which knows no
NaN and no infinity: those are written as text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from lossproof.checks.report import Location

T = TypeVar("T")


@dataclass(frozen=True)
class Side:
    """One of the two losses, at the given inputs."""

    name: str
    kind: str
    """``function``, ``module``, ``autograd.Function`` or ``callable``."""
    location: Location | None = None
    error: str | None = None
    """What calling it raised, or why what it returned is no loss."""
    error_location: Location | None = None
    backward_error: str | None = None
    """What its backward pass raised."""
    value: float | None = None
    """The value in the user's own dtype; the mean of the elements where there are several."""
    value64: float | None = None
    """The same computed in float64; ``None`` where the loss cannot be."""
    dtype: str | None = None
    shape: tuple[int, ...] = ()
    follows_upstream: bool | None = None
    """Whether three times the gradient sent backward gives three times the gradient."""
    peak_bytes: int | None = None
    """The most memory that tensors made by forward and backward held at one time."""

    @property
    def result(self) -> str:
        """The dtype and shape of the result, such as ``float32[8]``."""
        return f"{self.dtype}{list(self.shape)}"

    @property
    def elements(self) -> int:
        """How many elements the result has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Agreement:
    """How near two numbers or tensors are: ``|a - b| / max(|a|, |b|)``, in the largest norm."""

    difference: float
    tolerance: float
    same: bool


@dataclass(frozen=True)
class GradientAgreement:
    """The two gradients for one input, each taken from fresh leaves of its own, in float64."""

    name: str
    norm_a: float
    norm_b: float
    difference: float
    """``||a - b|| / max(||a||, ||b||)``."""
    cosine: float | None
    """Of the angle between the two; ``None`` where one of them is zero."""
    worst_index: tuple[int, ...]
    """The element where they are farthest from each other."""
    worst_a: float
    worst_b: float
    reaches_a: bool
    """Whether the graph of ``a`` reaches this input at all."""
    reaches_b: bool
    same: bool


@dataclass(frozen=True)
class PointAgreement:
    """Value and gradients at one ordinary point."""

    value_a: float
    value_b: float
    difference: float
    gradient_difference: float | None
    """The largest over the inputs; ``None`` where a side has no gradient."""
    same_value: bool
    same_gradient: bool


@dataclass(frozen=True)
class Reading:
    """What one side gives at one extreme point, in the user's own dtype."""

    value: float | None
    gradient: str
    """``finite``, ``inf``, ``nan`` or ``none``."""
    truth: float | None = None
    """The value in float64, where it was asked for."""
    error: str | None = None
    """What it raised."""
    culprit: str | None = None
    """What first left the finite numbers, where it was looked for: ```row.exp()` overflows``."""
    location: Location | None = None
    """Where the culprit stands."""

    @property
    def fails(self) -> bool:
        """Whether it raised, or its value or gradient is not finite."""
        if self.error is not None or self.value is None:
            return True
        return not math.isfinite(self.value) or self.gradient in ("inf", "nan")


@dataclass(frozen=True)
class Extreme:
    """Both sides at one extreme point."""

    words: str
    """Completes a sentence that begins with "when"."""
    a: Reading
    b: Reading
    verdict: str
    """``same``, ``a fails``, ``b fails``, ``both fail``, ``values differ``, ``gradients differ``,
    or ``finite`` where the two are not the same at ordinary points either."""

    @property
    def differs(self) -> bool:
        """Whether the two sides part here."""
        return self.verdict not in ("same", "finite", "both fail")


@dataclass(frozen=True)
class Reaction:
    """What one side makes of the same numbers in another arrangement."""

    same: bool
    """Whether it accepts them, and value and gradient stay what they were."""
    difference: float | None = None
    """Relative to its own value and gradient before."""
    error: str | None = None
    """What it raised; ``None`` where it accepts the arrangement."""


@dataclass(frozen=True)
class Rearrangement:
    """The same numbers in another order or shape."""

    words: str
    """What was done to the inputs."""
    a: Reaction
    b: Reaction


@dataclass(frozen=True)
class Spread:
    """The median of many measurements, with the quartiles around it."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Times:
    """Seconds of interleaved runs, and the ratio of ``a`` to ``b`` within each pair of runs."""

    forward_a: Spread
    forward_b: Spread
    forward_ratio: Spread
    total_a: Spread
    """Forward and backward together."""
    total_b: Spread
    total_ratio: Spread
    runs: int
    device: str
    threads: int


@dataclass(frozen=True)
class Comparison:
    """Two losses side by side.

    ``bool(comparison)`` and ``comparison.same`` are true when value and gradient are equal at every
    ordinary point. What happens at extreme points, with other shapes, in time and in memory is
    told beside that, and worded in ``differences`` where it is one.
    """

    a: Side
    b: Side
    inputs: tuple[str, ...]
    same: bool
    relation: str | None
    """A fixed word for how the two relate where they differ: ``constant-factor``,
    ``constant-offset``, ``gradient-only``, ``some-points``, ``shape``, ``error``, ``unrelated``."""
    differences: tuple[str, ...]
    """What differs, one short text each."""
    dtype: str
    """The user's own floating dtype."""
    precision: str
    """The dtype in which gradients and ordinary points were compared."""
    compared_as: str
    """``elements``, or ``mean`` or ``sum`` where the results differ in their number of elements."""
    value: Agreement | None = None
    """Of the values at the given inputs, in the user's own dtype."""
    value64: Agreement | None = None
    """Of the values at the given inputs, in float64."""
    gradients: tuple[GradientAgreement, ...] = ()
    points: tuple[PointAgreement, ...] = ()
    extremes: tuple[Extreme, ...] = ()
    rearrangements: tuple[Rearrangement, ...] = ()
    times: Times | None = None
    notes: tuple[str, ...] = ()
    """How it was compared, and what was not."""
    seed: int = 0
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.same

    def __str__(self) -> str:
        from lossproof.show.comparison import render

        return render(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from lossproof.show.notebook import render_comparison

        return render_comparison(self)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON-safe data; :meth:`from_dict` gives it back."""
        plain: dict[str, Any] = _written(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """Rebuild a comparison from :meth:`to_dict`."""
        return _read(cls, data)


def _written(value: Any) -> Any:
    """Lists for tuples, and text for the floats that JSON does not know."""
    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _read(cls: type[T], data: Mapping[str, Any]) -> T:
    hints = get_type_hints(cls)
    assert is_dataclass(cls)
    return cls(**{f.name: _as_type(hints[f.name], data[f.name]) for f in fields(cls)})


def _as_type(hint: Any, value: Any) -> Any:
    """Give plain data the type that a field is annotated with."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None:
            return None
        return _as_type(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        return tuple(_as_type(arguments[0], item) for item in value)
    if is_dataclass(hint) and isinstance(hint, type):
        return _read(hint, value)
    return float(value) if hint is float else value
