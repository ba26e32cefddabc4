"""Relative loss balancing with random lookback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.random_stream import RandomStream
from lossproof.terms.balance.value_range import change, nonnegative
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor


class ReLoBRaLo(Balancer):
    r"""Weights by how little each term has fallen since the last step and, at times, the first.

    .. math::
        w(t) = \alpha \big( \rho\, w(t-1) + (1-\rho)\, \hat w(t; 0) \big)
               + (1-\alpha)\, \hat w(t; t-1), \qquad
        \hat w_k(t; t') = K \operatorname{softmax}_k\!\Big( \frac{L_k(t)}{\tau L_k(t')} \Big)

    with :math:`\rho` drawn anew in each step, 1 with probability ``rho`` and else 0 (the random
    lookback). The weights sum to K; in the first step they are 1, and in the second
    :math:`\alpha = 0` as in the authors' code, as there is no history to keep. A small temperature
    lets a single noisy ratio take all the weight. Made for full batches: with mini-batches the
    ratio to the last step is mostly noise, which ``alpha`` averages away.

    Args:
        names: the names of the terms, in their order.
        alpha: how much of the past is kept, from 0 to 1.
        temperature: :math:`\tau`.
        rho: the probability of *not* looking back to the first step (the expected saudade), from
            0 to 1.
        seed: of the method's own generator, whose state is in the checkpoint.
        every: the weights are computed anew in every n-th step, and the ratios are to the last
            such step.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or a term has a negative value. A term that was 0
            in the step compared with counts as unchanged.

    Example:
        >>> import torch
        >>> from lossproof.terms import ReLoBRaLo
        >>> balancer = ReLoBRaLo()
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> for a, b in ((4.0, 4.0), (4.0, 2.0)):
        ...     step = balancer.backward({"a": a * x, "b": b * x}, [x])
        >>> step.weights
        tensor([1.2449, 0.7551], dtype=torch.float64)

    Source:
        Bischof and Kraus (2021), Multi-objective loss balancing for physics-informed deep
        learning, arXiv:2110.09813, and the authors' code. PhysicsNeMo has it with defaults of its
        own: alpha=0.95, rho=0.99.
    """

    needs: ClassVar[tuple[Want, ...]] = ()
    first: Tensor
    last: Tensor
    kept: Tensor
    seen: Tensor

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        alpha: float = 0.999,
        temperature: float = 1.0,
        rho: float = 0.999,
        seed: int = 0,
        every: int = 1,
    ) -> None:
        super().__init__(names, every=every)
        self.alpha = number("alpha", alpha, minimum=0, maximum=1)
        self.temperature = number("temperature", temperature, above=0)
        self.rho = number("rho", rho, minimum=0, maximum=1)
        self.stream = RandomStream(seed)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        zeros = torch.zeros(count, dtype=torch.float64)
        return {
            "first": zeros,
            "last": zeros.clone(),
            "kept": torch.ones(count, dtype=torch.float64),
            "seen": torch.zeros((), dtype=torch.int64),
        }

    def weights_of(self, figures: TermGradients) -> Tensor:
        values = figures.values
        nonnegative(type(self).__name__, figures.names, values)
        drawn = torch.rand((), generator=self.stream.generator, dtype=torch.float64)
        forward = (drawn < self.rho).to(values)
        past = forward * self.kept + (1.0 - forward) * self._relative_to(self.first, values)
        alpha = self.alpha * (self.seen != 1).to(values)
        weights = alpha * past + (1.0 - alpha) * self._relative_to(self.last, values)
        self.first = torch.where(self.seen == 0, values, self.first)
        self.kept = torch.where(self.seen == 0, 1.0, weights)
        self.last = values
        self.seen = (self.seen + 1).clamp(max=2)
        return self.kept

    def _relative_to(self, before: Tensor, values: Tensor) -> Tensor:
        largest = torch.finfo(values.dtype).max  # a small temperature may overflow
        ratio = (change(values, before) / self.temperature).clamp(max=largest)
        return values.numel() * torch.softmax(ratio, 0)
