"""Random loss weighting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.random_stream import RandomStream
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import choice

Tensor = torch.Tensor


def _normal(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, generator=generator, dtype=torch.float64).softmax(0)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64).softmax(0)


def _dirichlet(count: int, generator: torch.Generator) -> Tensor:
    """Concentration 1 is what exponential variables are after division by their sum."""
    drawn = torch.empty(count, dtype=torch.float64).exponential_(generator=generator)
    return drawn / drawn.sum()


def _bernoulli(count: int, generator: torch.Generator) -> Tensor:
    """Heads of fair coins, divided by their number; thrown again where no coin shows heads."""
    while True:
        drawn = torch.randint(2, (count,), generator=generator, dtype=torch.int64).double()
        if drawn.any():
            return drawn / drawn.sum()


def _constrained_bernoulli(count: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randint(count, (1,), generator=generator)
    return torch.zeros(count, dtype=torch.float64).index_fill_(0, chosen, 1.0)


_DISTRIBUTIONS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "normal": _normal,
    "uniform": _uniform,
    "dirichlet": _dirichlet,
    "bernoulli": _bernoulli,
    "constrained_bernoulli": _constrained_bernoulli,
}


class RLW(Balancer):
    r"""Weights drawn at random in every step: the baseline that a clever method has to beat.

    .. math:: w = \operatorname{softmax}(z), \qquad z \sim \mathcal N(0, I)

    and other distributions of the paper. The weights sum to 1, and each is 1/K on average, so
    that in expectation this is the mean of the terms, with noise that may help to leave poor
    minima.

    Args:
        names: the names of the terms, in their order.
        distribution: ``"normal"`` or ``"uniform"`` (both through a softmax), ``"dirichlet"`` (of
            concentration 1), ``"bernoulli"`` (fair coins, the weight shared by those that show
            heads) or ``"constrained_bernoulli"`` (a single term in each step).
        seed: of the method's own generator, whose state is in the checkpoint.
        every: weights are drawn anew in every n-th step.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is not one of those allowed.

    Example:
        >>> import torch
        >>> from lossproof.terms import RLW
        >>> balancer = RLW(seed=1)
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> round(balancer.backward({"a": x, "b": 2 * x}, [x]).weights.sum().item(), 12)
        1.0

    Source:
        Lin, Ye, Zhang and Tsang (2022), Reasonable effectiveness of random weighting: a litmus
        test for multi-task learning, TMLR. LibMTL has the normal distribution.
    """

    needs: ClassVar[tuple[Want, ...]] = ()

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        distribution: str = "normal",
        seed: int = 0,
        every: int = 1,
    ) -> None:
        super().__init__(names, every=every)
        self.distribution = choice("distribution", distribution, tuple(_DISTRIBUTIONS))
        self.stream = RandomStream(seed)

    def weights_of(self, figures: TermGradients) -> Tensor:
        drawn = _DISTRIBUTIONS[self.distribution](len(figures.names), self.stream.generator)
        return drawn.to(figures.values)
