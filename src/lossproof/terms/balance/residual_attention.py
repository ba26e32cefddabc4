"""Residual-based attention for physics-informed networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lossproof.terms.balance.point_balancer import PointBalancer, Scalars, State
from lossproof.terms.balance.points import Points
from lossproof.terms.balance.residuals import (
    all_given,
    magnitudes,
    mean_square,
    residual_vector,
    unweighted,
)
from lossproof.write.arguments import number

Tensor = torch.Tensor


class ResidualAttention(PointBalancer):
    r"""A weight for every point that follows its residual over the steps, without a gradient.

    .. math::
        \lambda_i \leftarrow \gamma\, \lambda_i + \eta\, \frac{|r_i|}{\max_j |r_j|}, \qquad
        L = \frac{1}{N} \sum_i (\lambda_i r_i)^2

    No weight exceeds :math:`\eta / (1 - \gamma)`. The weight multiplies the residual *inside* the
    square, as in the paper and its code; PINA multiplies the squared residual. It is no part of the
    graph. Of several equations at a point, :math:`|r_i|` is the Euclidean norm. A residual that is
    not finite counts as zero here. As the weights start near zero, so does the term: balance it
    against the others, or give ``initial``.

    Args:
        points: the number of points of each term that is weighted, by name. Residuals of other
            terms become plain mean squares; scalars stay as they are.
        eta: the learning rate, above 0.
        gamma: the decay, at least 0 and below 1.
        initial: where all weights start, at least 0.
        names: the names of all terms, in their order.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or a residual does not fit.

    Example:
        >>> import torch
        >>> from lossproof.terms import ResidualAttention
        >>> attention = ResidualAttention({"pde": 3}, eta=0.1, gamma=0.9, initial=1.0)
        >>> attention({"pde": torch.tensor([1.0, -2.0, 0.0]), "bc": torch.tensor(3.0)})
        {'pde': tensor(1.6342), 'bc': tensor(3.)}
        >>> attention.attention
        tensor([0.9500, 1.0000, 0.9000], dtype=torch.float64)

    Source:
        Anagnostopoulos, Toscano, Stergiopulos and Karniadakis (2024), Residual-based attention in
        physics-informed neural networks, Computer Methods in Applied Mechanics and Engineering 421.
        The defaults are those of its code for the Helmholtz equation.
    """

    points: Points
    attention: Tensor

    def __init__(
        self,
        points: Mapping[str, int],
        *,
        eta: float = 0.001,
        gamma: float = 0.999,
        initial: float = 0.0,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(names)
        self.points = Points(points)
        self.eta = number("eta", eta, above=0)
        self.gamma = number("gamma", gamma, minimum=0, below=1)
        start = float(number("initial", initial, minimum=0))
        self.register_buffer(
            "attention", torch.full((self.points.total,), start, dtype=torch.float64)
        )

    def weigh(self, residuals: Mapping[str, Any], where: Any) -> tuple[Scalars, State]:
        attention = self.attention
        all_given("points", self.points.counts, residuals)
        scalars: Scalars = {}
        for name, given in residuals.items():
            if given is None or name not in self.points:
                scalars[name] = unweighted(name, given)
                continue
            residual = residual_vector(name, given)
            attention = attention.to(residual.device)
            index = self.points.index_of(name, where, residual)
            before = self.points.of(attention, name, index)
            after = self.gamma * before + self.eta * _relative(residual).to(before)
            attention = self.points.put(attention, name, index, after)
            scalars[name] = mean_square(residual, after)
        return scalars, {"attention": attention}

    def without(self, state: State, dropped: Sequence[str]) -> State:
        attention = state["attention"]
        for name in dropped:
            if name in self.points:
                before = self.points.of(self.attention, name, None)
                attention = self.points.put(attention, name, None, before)
        return {"attention": attention}


def _relative(residual: Tensor) -> Tensor:
    """The magnitude at every point, relative to the largest."""
    sizes = magnitudes(residual.detach())
    sizes = torch.where(sizes.isfinite(), sizes, 0.0)
    largest = sizes.amax()
    return torch.where(largest > 0, sizes / largest, 0.0)
