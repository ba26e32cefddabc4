"""Tiny constants that keep a logarithm or a divisor finite, and the gradients that die of them.

``log(p + 1e-8)`` is finite for every ``p`` and flat below 1e-8: a network that is surely wrong
learns nothing from it. What the loss would be without the constant is computed in float64, where a
probability of 1e-13 is a number like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from lossproof.checks.accuracy import gradient_error, size, value_error
from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.ladders import ladders
from lossproof.checks.moved_inputs import SpecialPoint
from lossproof.checks.nonfinite import is_finite
from lossproof.checks.sources import Site, Sources

TINY = 1.1e-6
"""Constants up to this size only guard against rounding; larger ones are meant to be felt."""
CONFIDENT = 30.0
"""The logit at which a gradient must still be alive."""
DEAD = 0.01
"""The share of the gradient without the constant below which the one with it is dead."""
MATTERS = 0.1
"""How large the gradient without the constant must be, relative to that at the given inputs."""
HIGHER = 1.1
"""How many times higher the loss must be without the constant: it was cut off."""
FELT = 0.01
"""The relative change of value or gradient from which on a constant decides."""
ONE_BY_ONE = 6
"""So many constants are tried one by one."""

_SUMS = frozenset({"add", "__add__", "__radd__", "sub", "__sub__"})
_CLAMPS = frozenset({"clamp", "clip", "clamp_min", "clamp_max"})


class WithoutStabilisers(TorchFunctionMode):
    """Leaves out additions of tiny constants and clamps a tiny constant away from 0 and 1.

    Args:
        sources: tells the user's files from the rest.
        only: leave out the one of this number alone, in the order of the calls.
    """

    def __init__(self, sources: Sources, only: int | None = None) -> None:
        super().__init__()
        self.sources = sources
        self.only = only
        self.sites: list[Site] = []
        """Where each of them is."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _stabilises(getattr(func, "__name__", ""), args, kwargs):
            number = len(self.sites)
            self.sites.append(self.sources.site())
            if self.only is None or self.only == number:
                return args[0].clone()
        return func(*args, **kwargs)


def _stabilises(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not args or not isinstance(args[0], torch.Tensor) or not args[0].is_floating_point():
        return False
    if name in _SUMS:
        return len(args) == 2 and not kwargs and _is_tiny(args[1])
    if name not in _CLAMPS:
        return False
    limits = [limit for limit in (*args[1:], *kwargs.values()) if limit is not None]
    return bool(limits) and all(
        isinstance(limit, float) and (_is_tiny(limit) or _is_tiny(1 - limit)) for limit in limits
    )


def _is_tiny(value: Any) -> bool:
    return isinstance(value, float) and 0 < abs(value) <= TINY


@dataclass(frozen=True)
class DeadGradient:
    """A confident prediction from which nothing is learnt."""

    point: SpecialPoint
    site: Site
    gradient: float
    alive: float
    """The size of the gradient without the constant."""
    value: float
    truth: float
    """The loss without the constant."""


def dead_gradient(case: Examination, given: Evaluation) -> DeadGradient | None:
    """The first confident prediction at which a tiny constant takes the gradient away.

    Args:
        case: the check in progress.
        given: the float64 evaluation at the small inputs.
    """
    probe = WithoutStabilisers(case.subject.sources)
    with probe:
        case.evaluate(case.small.values, dtype=torch.float64, backward=False)
    if not probe.sites:
        return None
    for ladder in ladders(case.small):
        if ladder.scales:
            found = _dead_at(case, ladder.point(CONFIDENT), given)
            if found is not None:
                return found
    return None


def is_guarded(
    case: Examination, values: Sequence[Any], dtypes: Sequence[torch.dtype] = (torch.float64,)
) -> bool:
    """Whether a tiny constant decides what the loss or its gradient is at a point.

    Args:
        case: the check in progress.
        values: the arguments of the call.
        dtypes: in one of these types.
    """
    return any(_decides(case, values, dtype) for dtype in dtypes)


def _decides(case: Examination, values: Sequence[Any], dtype: torch.dtype) -> bool:
    one = case.evaluate(values, dtype=dtype)
    other, sites = _without(case, values, None, dtype)
    if not sites or not _is_usable(one):
        return False
    if not _is_usable(other):
        return True
    return max(value_error(one, other), gradient_error(one, other)) > FELT


def _dead_at(case: Examination, point: SpecialPoint, given: Evaluation) -> DeadGradient | None:
    one = case.evaluate(point.values, dtype=torch.float64)
    if not _is_usable(one) or size(one.gradients) > size(given.gradients):
        return None
    other, sites = _without(case, point.values, None)
    if not _revives(one, other, given):
        return None
    site = sites[0]
    for number in range(min(len(sites), ONE_BY_ONE)):
        alone, _ = _without(case, point.values, number)
        if _revives(one, alone, given):
            other, site = alone, sites[number]
            break
    return DeadGradient(
        point, site, size(one.gradients), size(other.gradients), one.scalar, other.scalar
    )


def _without(
    case: Examination,
    values: Sequence[Any],
    only: int | None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Evaluation, list[Site]]:
    mode = WithoutStabilisers(case.subject.sources, only)
    with mode:
        found = case.evaluate(values, dtype=dtype)
    return found, mode.sites


def _is_usable(found: Evaluation) -> bool:
    return not found.failed and found.value is not None and is_finite(found)


def _revives(one: Evaluation, other: Evaluation, given: Evaluation) -> bool:
    """Whether the loss goes on rising, with a gradient that matters, where it was flat."""
    if not _is_usable(other):
        return False
    alive, usual = size(other.gradients), size(given.gradients)
    return (
        alive > MATTERS * usual
        and size(one.gradients) < DEAD * alive
        and one.scalar > 0
        and other.scalar > HIGHER * one.scalar
    )
