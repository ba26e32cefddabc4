"""Whether a loss falls as its prediction gets better.

One module per way to read a prediction: as scores for labels, as an estimate of numbers, as the
mean and scale of a latent, as a risk, as embeddings. Each looks at several random predictions, in
value and in gradient, and yields a :class:`~lossproof.checks.conventions.Fault` where all of them
say that better predictions cost more. Rule LP107 turns these into findings.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from lossproof.checks.conventions import Call
from lossproof.checks.domain import Domain, domain_of

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination

Tensor = torch.Tensor

STARTS = 3
"""Predictions that are looked at: by chance, none of them convicts."""

# Losses whose aim is not that the prediction meets the target, or that say so in no word.
OTHER_AIMS = re.compile(
    r"(^|_)(gans?|wgan\w*|disc|discriminator\w*|critics?|adv|advers\w*|attack\w*|generator\w*|gen|"
    r"real|fake|policy|ppo|reinforce|rewards?|returns?|advantages?|actions?|q|diversity|divers\w*|"
    r"orth\w*|decorr\w*|independ\w*|hsic|repuls\w*|repel\w*|unlearn\w*|forget\w*|ascent|ascend|"
    r"reverse|reversal|complement\w*|dpo|"
    r"energy|energies|dist|dists|distance|distances|dissim\w*|domain|domains|sensitive|group|"
    r"groups|confus\w*|uniform\w*|entropy_?max\w*)(?=_|$|\d)",
    re.I,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def has_another_aim(case: Examination) -> bool:
    """Whether a name says that prediction and target are not to meet."""
    words = [case.subject.name.rpartition(".")[2], *(a.name for a in case.inputs.arguments)]
    return any(OTHER_AIMS.search(_CAMEL.sub("_", word)) for word in words)


@dataclass(frozen=True)
class Point:
    """One prediction, and what the loss makes of it."""

    prediction: Tensor
    value: float
    gradient: Tensor


class Comparison:
    """A loss of one prediction and one target, with everything else as it was given.

    Args:
        call: the recorded call.
        position: which argument is the prediction.
        other: which argument is the target.
    """

    def __init__(self, call: Call, position: int, other: int) -> None:
        self.call, self.case = call, call.case
        self.position, self.other = position, other
        self.prediction: Tensor = call.case.inputs.values[position].detach().double()
        self.target: Tensor = call.case.inputs.values[other].detach()
        self.name = call.case.inputs.arguments[position].name
        self.target_name = call.case.inputs.arguments[other].name
        self._leaf = call.case.inputs.differentiable.index(position)

    @cached_property
    def domain(self) -> Domain:
        """What the prediction may hold."""
        return domain_of(self.prediction, self.name, smooth=True)

    @cached_property
    def starts(self) -> list[Point]:
        """Predictions that know nothing of the target: the given one, and it in another order."""
        found = []
        for shift in range(STARTS):
            point = self.at(_reordered(self.prediction, shift, self.domain))
            if point is not None:
                found.append(point)
        return found

    def at(self, prediction: Tensor, target: Tensor | None = None) -> Point | None:
        """The loss at a prediction; ``None`` where it fails or is not finite."""
        found = self._evaluated(prediction, target, backward=True)
        if found.failed or found.value is None or not found.leaves:
            return None
        gradient = found.gradient(self._leaf).detach().double()
        value = found.scalar
        if not math.isfinite(value) or not bool(torch.isfinite(gradient).all()):
            return None
        return Point(prediction, value, gradient)

    def value(self, prediction: Tensor, target: Tensor | None = None) -> float | None:
        """The loss's value alone."""
        found = self._evaluated(prediction, target, backward=False)
        if found.error is not None or found.value is None:
            return None
        value = found.scalar
        return value if math.isfinite(value) else None

    def values(self, predictions: Sequence[Tensor]) -> list[float] | None:
        """The values at several predictions; ``None`` where one of them is none."""
        found = []
        for prediction in predictions:
            value = self.value(prediction)
            if value is None:
                return None
            found.append(value)
        return found

    def _evaluated(self, prediction: Tensor, target: Tensor | None, backward: bool) -> Evaluation:
        values = list(self.case.inputs.values)
        values[self.position] = prediction
        if target is not None:
            values[self.other] = target
        return self.case.evaluate(values, dtype=torch.float64, backward=backward)


def comparison_of(call: Call) -> Comparison | None:
    """The one prediction and the one target of a call; ``None`` where there are more, or fewer."""
    if len(call.predictions) != 1 or len(call.targets) != 1:
        return None
    (position,), (other,) = call.predictions, call.targets
    case = call.case
    prediction, target = case.inputs.values[position], case.inputs.values[other]
    usable = isinstance(prediction, Tensor) and prediction.is_floating_point()
    if not usable or not isinstance(target, Tensor) or target.is_complex():
        return None
    if not prediction.numel() or position not in case.inputs.differentiable:
        return None
    return Comparison(call, position, other)


def is_rising(values: Sequence[float], least: float = 1e-6) -> bool:
    """Whether each value is larger than the one before, by more than rounding."""
    scale = max(abs(value) for value in values) or 1.0
    return all(after - before > least * scale for before, after in itertools.pairwise(values))


def _reordered(prediction: Tensor, shift: int, domain: Domain) -> Tensor:
    """The same numbers at other places, so that they stay in their domain."""
    if shift == 0:
        return prediction
    generator = torch.Generator().manual_seed(shift)
    if domain.is_free:
        order = torch.randperm(prediction.numel(), generator=generator)
        return prediction.reshape(-1)[order].reshape(prediction.shape)
    return prediction.roll(shift, 0)
