"""What one step of a balancer did: the weights, and the figures to log."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lossproof.terms.gradients import TermGradients
from lossproof.terms.report import StepReport, report_of

Tensor = torch.Tensor


@dataclass(frozen=True)
class BalanceStep:
    """The outcome of ``balancer.backward``.

    Attributes:
        names: the names of the terms.
        values: their values, K numbers without a graph.
        weights: their weights, K numbers.
        total: the number that was minimised in this step, for most the weighted sum of the terms.
        gradients: the figures of the gradients, where this step computed them.
        refreshed: whether the weights were computed anew in this step.
        dropped: the terms that were left out because they were not finite; their weight is 0.
        norm: the norm of what was added to ``.grad``, before it was clipped, where it was to be.
    """

    names: tuple[str, ...]
    values: Tensor
    weights: Tensor
    total: Tensor
    gradients: TermGradients | None = None
    refreshed: bool = True
    dropped: tuple[str, ...] = field(default=())
    norm: Tensor | None = None

    @property
    def weight(self) -> dict[str, Tensor]:
        """The weight of each term by its name."""
        return dict(zip(self.names, self.weights, strict=True))

    @property
    def value(self) -> dict[str, Tensor]:
        """The value of each term by its name."""
        return dict(zip(self.names, self.values, strict=True))

    def report(self) -> StepReport:
        """All figures as plain Python numbers, and what is wrong; it waits for the device, once."""
        return report_of(self)

    def as_dict(self, prefix: str = "terms/") -> dict[str, float]:
        """The figures as a flat dictionary for any tracker, see :meth:`StepReport.as_dict`."""
        return self.report().as_dict(prefix)

    def __str__(self) -> str:
        return str(self.report())
