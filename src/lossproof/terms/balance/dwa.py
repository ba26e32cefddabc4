"""Dynamic weight averaging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.value_range import change, nonnegative
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import integer, number

Tensor = torch.Tensor


class DWA(Balancer):
    r"""Weights by how slowly each term falls from one epoch to the next.

    .. math::
        w_k(t) = K \operatorname{softmax}_k\!\big(r_k(t-1) / T\big), \qquad
        r_k(t-1) = \frac{\bar L_k(t-1)}{\bar L_k(t-2)}

    where :math:`\bar L_k(t)` is the mean of the term over epoch :math:`t`. An epoch is ``window``
    steps: give the number of batches. In the first two epochs every weight is 1, and always they
    sum to K. The ratios mostly lie close to 1, so the weights mostly lie close to 1 as well;
    units do not matter, gradients are not looked at.

    Args:
        names: the names of the terms, in their order.
        window: how many steps (refreshes of the weights, with ``every``) make an epoch.
        temperature: :math:`T`; the larger, the more equal the weights.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or a term has a negative value. A term that was 0
            in a whole epoch counts as unchanged.

    Example:
        >>> import torch
        >>> from lossproof.terms import DWA
        >>> balancer = DWA(window=1)
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> for a, b in ((4.0, 4.0), (4.0, 2.0), (4.0, 1.0)):
        ...     step = balancer.backward({"a": a * x, "b": b * x}, [x])
        >>> step.weights
        tensor([1.1244, 0.8756], dtype=torch.float64)

    Source:
        Liu, Johns and Davison (2019), End-to-end multi-task learning with attention, CVPR,
        equation 7.
    """

    needs: ClassVar[tuple[Want, ...]] = ()
    sums: Tensor
    count: Tensor
    averages: Tensor
    epochs: Tensor

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        window: int,
        temperature: float = 2.0,
        every: int = 1,
    ) -> None:
        self.window = integer("window", window, minimum=1)
        self.temperature = number("temperature", temperature, above=0)
        super().__init__(names, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        return {
            "sums": torch.zeros(count, dtype=torch.float64),
            "count": torch.zeros((), dtype=torch.int64),
            "averages": torch.zeros(2, count, dtype=torch.float64),
            "epochs": torch.zeros((), dtype=torch.int64),
        }

    def weights_of(self, figures: TermGradients) -> Tensor:
        values = figures.values
        nonnegative(type(self).__name__, figures.names, values)
        rates = change(self.averages[1], self.averages[0]) / self.temperature
        weights = len(figures.names) * torch.softmax(rates, 0)
        weights = torch.where(self.epochs >= 2, weights, 1.0)
        self._count(values)
        return weights

    def _count(self, values: Tensor) -> None:
        """Take a step into the present epoch, and end the epoch when it is full."""
        sums, count = self.sums + values, self.count + 1
        over = count == self.window
        self.averages = torch.where(
            over, torch.stack([self.averages[1], sums / self.window]), self.averages
        )
        self.epochs = self.epochs + over
        self.sums = torch.where(over, 0.0, sums)
        self.count = torch.where(over, 0, count)
