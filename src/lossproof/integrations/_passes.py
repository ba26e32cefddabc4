"""The backward passes of a balancer that belong to one step of the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.step import BalanceStep

Tensor = torch.Tensor


class Passes:
    """Computes the weights in the first pass of an optimizer step, and holds them in the others.

    What is summed up belongs to one set of weights so.

    Attributes:
        step: the figures of the last step: weights and gradients of its first pass, and the values
            of the terms as the mean over its micro-batches.
    """

    def __init__(self) -> None:
        self.step: BalanceStep | None = None
        self._micro_batches = 0
        self._after: tuple[Any, int] | None = None

    def first(self, balancer: Balancer, place: Any) -> bool:
        """Whether the next pass is the first of its step.

        Args:
            balancer: it counts its own steps, which a checkpoint brings back.
            place: what is the same for the passes of one step.
        """
        return self._after != (place, balancer.steps)

    def backward(
        self,
        balancer: Balancer,
        terms: Mapping[str, Any],
        place: Any,
        options: Mapping[str, Any],
        *,
        again: bool = False,
    ) -> BalanceStep:
        """One pass.

        Args:
            balancer: which fills the gradients.
            terms: the terms of the micro-batch.
            place: see :meth:`first`.
            options: as for :meth:`lossproof.terms.Balancer.backward`, but ``refresh``.
            again: whether the micro-batch was seen in this step before, as in a line search.
        """
        first = self.first(balancer, place)
        step = balancer.backward(terms, **options, refresh=None if first else False)
        self._after = place, balancer.steps
        if first or self.step is None:
            self.step, self._micro_batches = step, 1
        elif not again and step.names == self.step.names:  # a term may be absent here
            self._micro_batches += 1
            self.step = replace(
                self.step,
                values=self._mean(self.step.values, step.values),
                total=self._mean(self.step.total, step.total),
            )
        return step

    def _mean(self, mean: Tensor, new: Tensor) -> Tensor:
        return mean + (new - mean) / self._micro_batches
