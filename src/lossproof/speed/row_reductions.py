"""Reductions of the rows of a matrix, of which only a block is there at a time.

A row is read piece by piece. What is known of it so far is its *state*: a sum, a log-sum-exp, or
the largest element and its place. Half precision is accumulated in float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from lossproof.write.precision import widened

Tensor = torch.Tensor
State = tuple[Tensor, ...]
"""The value so far of each row and, for an extreme, where it was found."""


class RowReduction(ABC):
    """A reduction over the columns of a block (``dim=1``) or over its rows (``dim=0``)."""

    @abstractmethod
    def state(self, block: Tensor, dim: int, first: int) -> State:
        """What one block tells; along ``dim`` it begins at the place ``first``."""

    @abstractmethod
    def joined(self, state: State, further: State) -> State:
        """What is known after a further block, which comes later along the row."""

    @abstractmethod
    def slope(self, block: Tensor, dim: int, first: int, upstream: Tensor, state: State) -> Tensor:
        """The gradient in the block, from that in the rows and their final state.

        It is made of differentiable operations.
        """

    def whole(self, matrix: Tensor, dim: int) -> Tensor:
        """The reduction of a matrix that is all there, under autograd."""
        return self.state(matrix, dim, 0)[0]


class Sum(RowReduction):
    """The sum of a row."""

    def state(self, block: Tensor, dim: int, first: int) -> State:
        return (widened(block).sum(dim),)

    def joined(self, state: State, further: State) -> State:
        return (state[0] + further[0],)

    def slope(self, block: Tensor, dim: int, first: int, upstream: Tensor, state: State) -> Tensor:
        return upstream.unsqueeze(dim).expand_as(block)


class LogSumExp(RowReduction):
    """The logarithm of the sum of the exponentials of a row; ``-inf`` where all are ``-inf``."""

    def state(self, block: Tensor, dim: int, first: int) -> State:
        return (torch.logsumexp(widened(block), dim),)

    def joined(self, state: State, further: State) -> State:
        return (torch.logaddexp(state[0], further[0]),)

    def slope(self, block: Tensor, dim: int, first: int, upstream: Tensor, state: State) -> Tensor:
        # exp(-inf - 0) instead of exp(-inf + inf) in a row in which nothing counts.
        total = torch.where(state[0] == -torch.inf, 0.0, state[0]).unsqueeze(dim)
        if torch.is_grad_enabled():
            return torch.exp(block - total) * upstream.unsqueeze(dim)
        return (block - total).exp_().mul_(upstream.unsqueeze(dim))

    def whole(self, matrix: Tensor, dim: int) -> Tensor:
        if matrix.shape[dim] == 0:
            return super().whole(matrix, dim)
        wide = widened(matrix)
        largest = wide.detach().amax(dim)
        # As in `slope`; a row with +inf has no other sum than that.
        largest = torch.where(largest.isinf(), 0.0, largest)
        total = torch.exp(wide - largest.unsqueeze(dim)).sum(dim)
        nothing = total == 0
        total = torch.where(nothing, 1.0, total).log() + largest
        return torch.where(nothing, -torch.inf, total)


@dataclass(frozen=True)
class Extreme(RowReduction):
    """The largest or the smallest element of a row: the first of them, or the first NaN."""

    largest: bool

    def state(self, block: Tensor, dim: int, first: int) -> State:
        found = block.max(dim) if self.largest else block.min(dim)
        return found.values, found.indices + first

    def joined(self, state: State, further: State) -> State:
        value, candidate = state[0], further[0]
        no_better = candidate <= value if self.largest else candidate >= value
        kept = no_better | value.isnan()
        return tuple(torch.where(kept, old, new) for old, new in zip(state, further, strict=True))

    def slope(self, block: Tensor, dim: int, first: int, upstream: Tensor, state: State) -> Tensor:
        places = torch.arange(first, first + block.shape[dim], device=block.device)
        here = state[1].unsqueeze(dim) == places.unsqueeze(1 - dim)
        return torch.where(here, upstream.unsqueeze(dim), 0.0)

    def whole(self, matrix: Tensor, dim: int) -> Tensor:
        if matrix.shape[dim] == 0:
            which = "largest" if self.largest else "smallest"
            raise ValueError(
                f"`{'y' if dim else 'x'}` must have rows: of no values there is no {which}"
            )
        return super().whole(matrix, dim)


REDUCTIONS: dict[str, RowReduction] = {
    "sum": Sum(),
    "mean": Sum(),  # divided afterwards
    "logsumexp": LogSumExp(),
    "max": Extreme(largest=True),
    "min": Extreme(largest=False),
}
