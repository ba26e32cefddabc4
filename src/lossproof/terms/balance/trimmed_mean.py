"""The coordinate-wise trimmed mean: what lies outside at a coordinate is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.reaching import voting_rows
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor

ROUNDING = 1e-9
"""A share such as 0.29 of 100 terms is 29, whatever its last bit."""


class TrimmedMean(Balancer):
    r"""The mean of the gradients without the largest and the smallest, coordinate by coordinate.

    .. math::
        \Delta = \frac{1}{K - 2b} \sum_{k = b + 1}^{K - b} g_{(k)}, \qquad
        b = \lfloor \beta K \rfloor

    where :math:`g_{(1)} \le \dots \le g_{(K)}` are sorted at each coordinate. A term that goes
    wrong moves the step by no more than the others allow. It treats the terms as noisy copies of
    one objective: a term that is the only one to improve something is outvoted. The weights that
    are told are 1/K each, those of the mean.

    On a parameter that n of the K terms depend on, such as a head, the n are trimmed among
    themselves, and their mean is multiplied by n/K, so that :math:`\beta = 0` is the mean. TorchJD
    takes b itself (``trim_number``), and sorts the zeros of the other terms in, so that a head of
    one term is never trained.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        beta: the share of the terms that is left out at each end, from 0 to below 1/2. The paper
            has no default. Three terms are trimmed with 1/3, four with 1/4.

    Raises:
        TypeError: ``beta`` is no number.
        ValueError: ``beta`` is out of range.

    Example:
        >>> import torch
        >>> from lossproof.terms import TrimmedMean
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> _ = TrimmedMean(beta=0.34).backward({"a": x, "b": 3 * x, "c": 1000 * x}, [x])
        >>> x.grad
        tensor(3.)

    Source:
        Yin, Chen, Ramchandran and Bartlett (2018), Byzantine-robust distributed learning: towards
        optimal statistical rates, ICML, definition 2.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gradients",)

    def __init__(self, names: Sequence[str] | None = None, *, beta: float = 0.25) -> None:
        super().__init__(names)
        self.beta = number("beta", beta, minimum=0, below=0.5)

    def weights_of(self, figures: TermGradients) -> Tensor:
        return torch.full_like(figures.values, 1.0 / len(figures.names))

    def gradients_of(self, figures: TermGradients, weights: Tensor) -> dict[str, Tensor]:
        count = len(figures.names)
        return {name: self._trimmed(rows, count) for name, rows in voting_rows(figures)}

    def _trimmed(self, rows: Tensor, count: int) -> Tensor:
        trimmed = math.floor(self.beta * len(rows) + ROUNDING)
        left = rows.sort(dim=0).values[trimmed : len(rows) - trimmed]
        return left.mean(0) * (len(rows) / count)
