"""Whether two losses are the same function: their values and gradients at several points.

Used by ``compare`` and by the rule LP103, which compares a loss with a reference.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lossproof.checks.comparison import Agreement, GradientAgreement, PointAgreement
from lossproof.checks.examination import Evaluation, Examination, weights_like
from lossproof.checks.finite_differences import direction

Tensor = torch.Tensor
Reduction = Literal["elements", "mean", "sum"]

VALUE_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
"""Another stabiliser, such as ``eps=1e-8``, makes no other loss."""
ZERO_VALUE = 1e-9
ZERO_GRADIENT = 1e-12
"""What is this small is zero, however different two of them are relative to each other."""


def variations(case: Examination) -> Iterator[tuple[Any, ...]]:
    """The given inputs, then other draws of what a gradient is wanted for, of several sizes."""
    yield case.inputs.values
    for number, size in enumerate((0.1, 1.0, 3.0)):
        values = list(case.inputs.values)
        for position in case.inputs.differentiable:
            value = values[position].detach()
            if value.numel() == 0:
                continue
            shift = direction(value.double().cpu(), case.seed, position, 100 + number)
            spread = value.double().std(unbiased=False)
            moved = value.double() + size * shift.to(value.device) * spread
            low, high = value.min(), value.max()
            # A prediction in [0, 1] or one that is never negative stays so.
            if low >= 0:
                moved = moved.clamp(0.01 * float(high), 0.99 if high <= 1 else math.inf)
            values[position] = moved.to(value.dtype)
        yield tuple(values)


def tolerances(dtype: torch.dtype) -> tuple[float, float]:
    """By how much values and gradients of the same loss may differ when computed in ``dtype``."""
    rounding = 8 * torch.finfo(dtype).eps
    return max(VALUE_TOLERANCE, rounding), max(GRADIENT_TOLERANCE, rounding)


def agreement(one: Tensor, other: Tensor, tolerance: float, zero: float = ZERO_VALUE) -> Agreement:
    """Compare two tensors with equally many elements, in the largest norm.

    Args:
        one: the first.
        other: the second.
        tolerance: the largest difference, relative to the larger of the two, that counts as same.
        zero: the largest absolute difference that counts as none at all.
    """
    one = one.detach().double().reshape(-1)
    other = other.detach().double().reshape(-1).to(one.device)
    # Two infinities of one sign are the same number, although their difference is none.
    gaps = torch.where(one == other, torch.zeros_like(one), one - other).abs()
    if gaps.numel() == 0:
        return Agreement(0.0, tolerance, True)
    if not bool(torch.isfinite(gaps).all()):
        return Agreement(math.inf, tolerance, False)
    gap = float(gaps.max())
    size = float(torch.maximum(one.abs().max(), other.abs().max()))
    difference = 0.0 if gap == 0 else gap / size
    return Agreement(difference, tolerance, gap <= tolerance * size + zero)


def tensors_agree(one: Tensor, other: Tensor, tolerance: float = GRADIENT_TOLERANCE) -> bool:
    """Whether two gradients are the same, in the Euclidean norm."""
    scale = max(float(one.norm()), float(other.norm()))
    return float((one - other).norm()) <= tolerance * scale + ZERO_GRADIENT


def gradient_agreement(
    name: str, own: Evaluation, other: Evaluation, leaves: tuple[int, int], tolerance: float
) -> GradientAgreement:
    """Compare the gradients of two evaluations for one input."""
    one = own.gradient(leaves[0]).detach().double()
    two = other.gradient(leaves[1]).detach().double().to(one.device)
    norms = float(one.norm()), float(two.norm())
    gap = (one - two).abs()
    worst = int(gap.reshape(-1).argmax()) if gap.numel() else 0
    index = _unravelled(worst, tuple(gap.shape))
    distance = float((one - two).norm())
    both = norms[0] * norms[1]
    return GradientAgreement(
        name=name,
        norm_a=norms[0],
        norm_b=norms[1],
        difference=distance / max(norms) if distance > 0 else distance,  # 0, or NaN
        cosine=float((one * two).sum()) / both if both > 0 else None,
        worst_index=index,
        worst_a=float(one[index]) if gap.numel() else 0.0,
        worst_b=float(two[index]) if gap.numel() else 0.0,
        reaches_a=own.gradients[leaves[0]] is not None,
        reaches_b=other.gradients[leaves[1]] is not None,
        same=tensors_agree(one, two, tolerance),
    )


def _unravelled(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        index.append(position % max(size, 1))
        position //= max(size, 1)
    return tuple(reversed(index))


# ---------------------------------------------------------------------------- two results as one
@dataclass(frozen=True)
class Viewpoint:
    """What of two results is compared: their elements, or a mean or sum where the sizes differ."""

    reduction: Reduction

    def value(self, found: Evaluation) -> Tensor:
        """What is compared of a result."""
        assert found.value is not None
        value = found.value.detach()
        if self.reduction == "elements":
            return value
        return value.mean() if self.reduction == "mean" else value.sum()

    def upstream(self, value: Tensor) -> Tensor:
        """The gradient to send backward so that both sides differentiate the same number."""
        if self.reduction == "elements":
            return weights_like(value.reshape(-1)).reshape(value.shape).to(value.device)
        share = 1 / max(value.numel(), 1) if self.reduction == "mean" else 1.0
        return torch.full_like(value, share)


def viewpoint(one: Tensor, other: Tensor) -> Viewpoint:
    """Elements where there are equally many; else the reduction that makes the two equal, if any.

    Example:
        >>> losses = torch.tensor([1.0, 3.0])
        >>> viewpoint(losses, losses.sum()).reduction
        'sum'
    """
    if one.numel() == other.numel():
        return Viewpoint("elements")
    for reduction in (Viewpoint("mean"), Viewpoint("sum")):
        first, second = (reduction.value(Evaluation(value=v.double())) for v in (one, other))
        if agreement(first, second, VALUE_TOLERANCE).same:
            return reduction
    return Viewpoint("mean")


# ---------------------------------------------------------------------------- a pair of losses
Evaluations = tuple[Evaluation, Evaluation]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two losses on the same inputs, both of which give a value there.

    Every call of either works on leaves of its own. Two names for one tensor would share one
    ``.grad``, and to compare that with itself says nothing.
    """

    a: Examination
    b: Examination
    view: Viewpoint
    precision: torch.dtype | None
    """float64, or ``None`` for the user's own dtype where a side cannot be computed in float64."""
    leaves: tuple[tuple[str, int, int], ...]
    """What a gradient is wanted for: its name, and which leaf of each side it is."""

    def evaluate(self, values: Sequence[Any] | None = None, **options: Any) -> Evaluations:
        """Call both, by default in the pair's precision and differentiating the same number."""
        options = {"dtype": self.precision, "upstream": self.view.upstream, **options}
        return self.a.evaluate(values, **options), self.b.evaluate(values, **options)

    @functools.cached_property
    def base(self) -> Evaluations:
        """Both at the given inputs."""
        return self.evaluate()

    @property
    def allowed(self) -> tuple[float, float]:
        """The tolerances for values and gradients in the pair's precision."""
        return tolerances(self.precision or self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The user's own floating dtype."""
        return floating_dtype(self.a)

    def gradients(self, found: Evaluations) -> tuple[GradientAgreement, ...]:
        """Compare the gradients of an evaluation; nothing where a backward pass failed."""
        if any(side.failed for side in found):
            return ()
        return tuple(
            gradient_agreement(name, *found, (one, two), self.allowed[1])
            for name, one, two in self.leaves
        )

    def point(self, found: Evaluations) -> PointAgreement:
        """Compare value and gradients of an evaluation."""
        one, two = (self.view.value(side) for side in found)
        value = agreement(one, two, self.allowed[0])
        gradients = self.gradients(found)
        differentiated = not any(side.failed for side in found)
        return PointAgreement(
            value_a=float(one.double().mean()),
            value_b=float(two.double().mean()),
            difference=value.difference,
            gradient_difference=max((g.difference for g in gradients), default=0.0)
            if differentiated
            else None,
            same_value=value.same,
            same_gradient=differentiated and all(g.same for g in gradients),
        )


def floating_dtype(case: Examination) -> torch.dtype:
    """The dtype of what a gradient is wanted for, else of another input, else float32."""
    positions = [*case.inputs.differentiable, *range(len(case.inputs.values))]
    for position in positions:
        value = case.inputs.values[position]
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.dtype
    return torch.float32


def gives_finite_value(found: Evaluation) -> bool:
    """Whether a call gave a value without infinities and NaN."""
    value = found.value
    return found.error is None and value is not None and bool(torch.isfinite(value.detach()).all())


# ---------------------------------------------------------------------------- relations
def constant_ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The factor between two lists of numbers, if it is one and the same and not 1.

    Example:
        >>> constant_ratio([(2.0, 1.0), (6.0, 3.0)])
        2.0
    """
    ratios = [one / other for one, other in pairs if other]
    return ratios[0] if len(ratios) > 1 and _equal(ratios) and ratios[0] not in (0, 1) else None


def constant_offset(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The difference of two lists of numbers, if it is one and the same and not 0."""
    gaps = [one - other for one, other in pairs]
    return gaps[0] if len(gaps) > 1 and _equal(gaps) and gaps[0] else None


def _equal(numbers: Sequence[float]) -> bool:
    size = max(abs(number) for number in numbers)
    return max(numbers) - min(numbers) <= 1e-6 * size


def gradient_ratio(points: Sequence[GradientAgreement]) -> float | None:
    """The factor between the gradients for one input at several points, if it is one."""
    if any(g.cosine is None or abs(g.cosine) < 1 - 1e-9 for g in points):
        return None
    return constant_ratio(
        [(g.norm_a * (1 if (g.cosine or 0) > 0 else -1), g.norm_b) for g in points]
    )
