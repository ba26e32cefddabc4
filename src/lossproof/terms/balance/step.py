"""What one step of a balancer did: the weights, and the figures to log."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lossproof.terms.gradients import TermGradients

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
        dropped: the terms that were left out because they were not finite.
    """

    names: tuple[str, ...]
    values: Tensor
    weights: Tensor
    total: Tensor
    gradients: TermGradients | None = None
    refreshed: bool = True
    dropped: tuple[str, ...] = field(default=())

    @property
    def weight(self) -> dict[str, Tensor]:
        """The weight of each term by its name."""
        return dict(zip(self.names, self.weights, strict=True))

    @property
    def value(self) -> dict[str, Tensor]:
        """The value of each term by its name."""
        return dict(zip(self.names, self.values, strict=True))
