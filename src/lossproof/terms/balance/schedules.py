"""Weights that follow a schedule over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import integer, number

Tensor = torch.Tensor
Schedule = Callable[[int], float]


@dataclass(frozen=True)
class LinearRamp:
    """From ``start`` to ``end`` in a straight line over so many steps, and constant after.

    With ``after`` the ramp begins later: before, the weight is ``start``.

    Example:
        >>> from lossproof.terms.balance.schedules import LinearRamp
        >>> [LinearRamp(0.0, 1.0, steps=4)(step) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """

    start: float
    end: float
    steps: int
    after: int = 0

    def __post_init__(self) -> None:
        _check_ramp(self.start, self.end, self.steps, self.after)

    def __call__(self, step: int) -> float:
        part = _part(step, self.steps, self.after)
        return (1.0 - part) * self.start + part * self.end


@dataclass(frozen=True)
class CosineRamp:
    """From ``start`` to ``end`` along half a cosine over so many steps, and constant after.

    Example:
        >>> from lossproof.terms.balance.schedules import CosineRamp
        >>> [round(CosineRamp(0.0, 1.0, steps=4)(step), 4) for step in (0, 1, 2, 4)]
        [0.0, 0.1464, 0.5, 1.0]
    """

    start: float
    end: float
    steps: int
    after: int = 0

    def __post_init__(self) -> None:
        _check_ramp(self.start, self.end, self.steps, self.after)

    def __call__(self, step: int) -> float:
        part = (1.0 - math.cos(math.pi * _part(step, self.steps, self.after))) / 2.0
        return (1.0 - part) * self.start + part * self.end


@dataclass(frozen=True)
class ExponentialDecay:
    """``end + (start - end) * 0.5 ** (step / half_life)``.

    Example:
        >>> from lossproof.terms.balance.schedules import ExponentialDecay
        >>> [ExponentialDecay(8.0, half_life=10)(step) for step in (0, 10, 20)]
        [8.0, 4.0, 2.0]
    """

    start: float
    half_life: float
    end: float = 0.0

    def __post_init__(self) -> None:
        number("start", self.start)
        number("half_life", self.half_life, above=0)
        number("end", self.end)

    def __call__(self, step: int) -> float:
        return self.end + (self.start - self.end) * math.pow(0.5, step / self.half_life)


@dataclass(frozen=True)
class Piecewise:
    """Constant between milestones: a mapping from the step where a weight begins to the weight.

    Example:
        >>> from lossproof.terms.balance.schedules import Piecewise
        >>> [Piecewise({0: 1.0, 100: 0.1})(step) for step in (0, 99, 100)]
        [1.0, 1.0, 0.1]
    """

    milestones: Mapping[int, float]

    def __post_init__(self) -> None:
        if not isinstance(self.milestones, Mapping):
            raise TypeError(
                "`milestones` must be a mapping from steps to weights, "
                f"got {type(self.milestones).__name__}"
            )
        for step, weight in self.milestones.items():
            integer("a milestone", step, minimum=0)
            number(f"milestones[{step}]", weight)
        if 0 not in self.milestones:
            raise ValueError(
                f"`milestones` must say the weight from step 0 on, got {list(self.milestones)}"
            )

    def __call__(self, step: int) -> float:
        return self.milestones[max(one for one in self.milestones if one <= step)]


class ScheduledWeights(Balancer):
    r"""Weights that follow a schedule over the steps: warm-ups, ramps, decays.

    .. math:: L = \sum_k w_k(t) L_k

    Where the training is, is part of the checkpoint: a resumed run goes on where it stopped.

    Args:
        schedules: a mapping from the name of each term to a number, to one of
            :class:`LinearRamp`, :class:`CosineRamp`, :class:`ExponentialDecay` and
            :class:`Piecewise`, or to any function that takes the step, an integer from 0, and
            returns the weight.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: a schedule is neither a number nor callable, or returns no number.
        ValueError: a weight is not finite.

    Example:
        >>> import torch
        >>> from lossproof.terms.balance.schedules import LinearRamp, ScheduledWeights
        >>> balancer = ScheduledWeights({"nll": 1.0, "kl": LinearRamp(0.0, 1.0, steps=4)})
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> for _ in range(3):
        ...     step = balancer.backward({"nll": x, "kl": x * 2}, [x])
        >>> step.weights
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """

    needs: ClassVar[tuple[Want, ...]] = ()

    def __init__(self, schedules: Mapping[str, float | Schedule], *, every: int = 1) -> None:
        self.schedules = _checked_schedules(schedules)
        super().__init__(tuple(self.schedules), every=every)

    def weights_of(self, figures: TermGradients) -> Tensor:
        now = self.steps - 1  # the base has counted this step
        numbers = [
            number(f"the weight of {name!r} at step {now}", self.schedules[name](now))
            for name in figures.names
        ]
        return torch.tensor(numbers, dtype=figures.values.dtype, device=figures.values.device)


@dataclass(frozen=True)
class _Constant:
    value: float

    def __call__(self, step: int) -> float:
        return self.value


def _checked_schedules(given: Any) -> dict[str, Schedule]:
    if not isinstance(given, Mapping) or not given:
        raise TypeError(
            "`schedules` must be a mapping from the name of each term to a number or a function "
            f"of the step, got {given!r}"
        )
    return {
        name: schedule
        if callable(schedule)
        else _Constant(float(number(f"schedules[{name!r}]", schedule)))
        for name, schedule in given.items()
    }


def _part(step: int, steps: int, after: int) -> float:
    return min(max(step - after, 0) / steps, 1.0)


def _check_ramp(start: float, end: float, steps: int, after: int) -> None:
    number("start", start)
    number("end", end)
    integer("steps", steps, minimum=1)
    integer("after", after, minimum=0)
