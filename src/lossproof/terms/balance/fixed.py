"""Weights that do not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.named_numbers import NamedNumbers
from lossproof.terms.gradients import TermGradients, Want

Tensor = torch.Tensor


class FixedWeights(Balancer):
    r"""Weights that the user chose: where one starts, and what every other method must beat.

    .. math:: L = \sum_k w_k L_k

    The weights are used as they are: they need not sum to anything, and one may be 0 (its term is
    then computed and reported, but not trained) or negative (its term is then maximised). Well
    tuned fixed weights are hard to beat, and finding them costs one training run for each try.

    Args:
        weights: a mapping from the name of each term to its weight. Without it every weight is 1,
            and the names are taken from the first step.

    Raises:
        TypeError: ``weights`` is no mapping from strings to numbers.
        ValueError: a weight is not finite.

    Example:
        >>> import torch
        >>> from lossproof.terms import FixedWeights
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> balancer = FixedWeights({"data": 1.0, "pde": 0.5})
        >>> step = balancer.backward({"data": x.sum(), "pde": x.square().sum()}, [x])
        >>> step.total, x.grad
        (tensor(5.5000, dtype=torch.float64), tensor([2., 3.]))
    """

    needs: ClassVar[tuple[Want, ...]] = ()

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.fixed = NamedNumbers("weights", weights, default=1.0)
        super().__init__(tuple(self.fixed.given) if self.fixed.given else None)

    def extra_repr(self) -> str:
        return super().extra_repr() if self.fixed.given is None else f"weights={self.fixed}"

    def weights_of(self, figures: TermGradients) -> Tensor:
        return self.fixed.of(figures.names, figures.values)
