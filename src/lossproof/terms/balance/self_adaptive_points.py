"""Self-adaptive weights of the points of physics-informed networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lossproof.terms.balance.named_numbers import NamedNumbers
from lossproof.terms.balance.point_balancer import PointBalancer, Scalars, State
from lossproof.terms.balance.points import Points
from lossproof.terms.balance.residuals import all_given, residual_vector, unweighted
from lossproof.write.arguments import choice, integer, number

Tensor = torch.Tensor
Mask = Callable[[Tensor], Tensor]


class SelfAdaptivePoints(PointBalancer):
    r"""A learned weight for every point, which grows where the residual stays large.

    .. math::
        \min_\theta \max_\lambda \; L = \frac{1}{N} \sum_i m(\lambda_i)\, r_i^2

    The network descends and the weights ascend, in one backward pass: the gradient that reaches
    the weights has its sign reversed, so that any optimiser which descends makes them grow. Give it
    ``balancer.parameters()`` beside the network's, in a group of their own if their learning rate
    is another. The weights only ever grow, unlike those of :class:`ResidualAttention`, and need
    points that come again. Where another balancer takes the terms, let it measure the gradients
    ``on`` the parameters of the network alone.

    Args:
        points: the number of points of each term that is weighted, by name. Residuals of other
            terms become plain mean squares; scalars stay as they are.
        mask: :math:`m`, increasing and not negative: ``"power"`` for :math:`\lambda^q`,
            ``"sigmoid"``, or a function of a tensor.
        q: the power, above 0. The paper's code multiplies the residual by the weight inside the
            square, which is 2.
        initial: the weights start at random between 0 and this number; one number, or numbers for
            all terms in ``points`` by name. (The paper's code has 1 for the equation, 100 for the
            initial condition.)
        seed: of the random start.
        names: the names of all terms, in their order.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or a residual does not fit.

    Example:
        >>> import torch
        >>> from lossproof.terms import SelfAdaptivePoints
        >>> balancer = SelfAdaptivePoints({"pde": 2})
        >>> _ = torch.nn.init.constant_(balancer.attention, 0.5)
        >>> u = torch.tensor([1.0, -3.0], requires_grad=True)
        >>> step = balancer.backward({"pde": u}, [u])
        >>> u.grad, balancer.attention.grad
        (tensor([ 0.2500, -0.7500]), tensor([-0.5000, -4.5000]))

    Source:
        McClenny and Braga-Neto (2023), Self-adaptive physics-informed neural networks, Journal of
        Computational Physics 474 (arXiv 2009.04544, 2020). The paper halves the sums; its code and
        this do not.
    """

    points: Points

    def __init__(
        self,
        points: Mapping[str, int],
        *,
        mask: str | Mask = "power",
        q: float = 2.0,
        initial: float | Mapping[str, float] = 1.0,
        seed: int = 0,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(names)
        self.points = Points(points)
        self.mask = mask if callable(mask) else choice("mask", mask, ("power", "sigmoid"))
        self.q = number("q", q, above=0)
        self.attention = nn.Parameter(
            _start(self.points, initial, integer("seed", seed, minimum=0))
        )

    def weigh(self, residuals: Mapping[str, Any], where: Any) -> tuple[Scalars, State]:
        all_given("points", self.points.counts, residuals)
        scalars: Scalars = {}
        for name, given in residuals.items():
            if given is None or name not in self.points:
                scalars[name] = unweighted(name, given)
                continue
            residual = residual_vector(name, given)
            index = self.points.index_of(name, where, residual)
            attention = _ascending(self.points.of(self.attention, name, index))
            wide = residual.to(torch.promote_types(residual.dtype, torch.float32))
            mask = self._masked(attention).to(wide).view(-1, *[1] * (wide.dim() - 1))
            scalars[name] = (mask * wide.square()).mean()
        return scalars, {}

    def without(self, state: State, dropped: Sequence[str]) -> State:
        return state

    def _masked(self, attention: Tensor) -> Tensor:
        if callable(self.mask):
            return self.mask(attention)
        return attention.pow(self.q) if self.mask == "power" else torch.sigmoid(attention)


def _ascending(attention: Tensor) -> Tensor:
    """The same values with the gradient reversed."""
    return 2 * attention.detach() - attention


def _start(points: Points, initial: Any, seed: int) -> Tensor:
    if isinstance(initial, Mapping):
        tops = NamedNumbers("initial", initial, default=1.0, minimum=0)
        tops.fits(list(points.counts))
        given = dict(tops.given or {})
    else:
        given = dict.fromkeys(points.counts, number("initial", initial, minimum=0))
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(
        [
            given[name] * torch.rand(count, generator=generator)
            for name, count in points.counts.items()
        ]
    )
