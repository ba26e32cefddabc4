"""Terms that are given several times, each on an independent part of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.on_cpu import Array
from lossproof.terms.balance.state import checked_names
from lossproof.terms.gradients import TermGradients
from lossproof.terms.terms import refuse_no_mapping
from lossproof.write.arguments import integer

Tensor = torch.Tensor


class SampledBalancer(Balancer):
    """The base of the balancers that need independent samples of each term.

    The inner product of two gradients on the same batch is too large on average, by the variance of
    the gradient; that of gradients on two independent batches is right. So each term is a sequence
    of scalars, one for each batch, and the terms that are weighted, named and reported are those,
    ``name[0]``, ``name[1]``, ...

    Args:
        names: the names of the terms, without the number of the sample.
        samples: how many samples of each term there are, 2 or 3. The first two are what the weights
            are computed from. With two, the step is along the mean of both; with three along the
            third alone, which the weights do not depend on.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: ``samples`` is no integer, or at a step a term is no sequence of tensors.
        ValueError: it is neither 2 nor 3, or a term has another number of samples.
    """

    shares: Tensor
    """The share of each term, which stands once for each of its samples (a buffer)."""

    def __init__(self, names: Sequence[str] | None, *, samples: int, every: int) -> None:
        if integer("samples", samples) not in (2, 3):
            raise ValueError(f"`samples` must be 2 or 3, got {samples}")
        self.samples = samples
        given = () if names is None else checked_names(names)
        flat = [sampled(name, number) for name in given for number in range(samples)]
        super().__init__(flat or None, every=every)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms, without the number of the sample."""
        return tuple(name[: name.rindex("[")] for name in (self.names or ())[:: self.samples])

    def initial_state(self, count: int) -> dict[str, Tensor]:
        share = float(self.samples) / count
        return {"shares": torch.full((count,), share, dtype=torch.float64)}

    def scalars(self, terms: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
        refuse_no_mapping(terms)
        flat: dict[str, Tensor | None] = {}
        for name, given in terms.items():
            for number, scalar in enumerate(self._checked(name, given)):
                flat[sampled(name, number)] = scalar
        return flat

    def _checked(self, name: str, given: Any) -> Sequence[Tensor | None]:
        if given is None:
            return [None] * self.samples
        if isinstance(given, Tensor):
            if given.dim() != 1:
                raise TypeError(_wanted(name, self.samples, f"a tensor of shape {[*given.shape]}"))
            given = given.unbind()
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise TypeError(_wanted(name, self.samples, type(given).__name__))
        if len(given) != self.samples or any(scalar is None for scalar in given):
            there = sum(scalar is not None for scalar in given)
            raise ValueError(_wanted(name, self.samples, f"{there}"))
        return given

    def positions(self, figures: TermGradients) -> dict[str, list[int]]:
        """Where the samples of each term stand, for the terms all of whose samples are there."""
        at = {name: position for position, name in enumerate(figures.names)}
        found: dict[str, list[int]] = {}
        for name in figures.names:
            term = name[: name.rindex("[")]
            samples = [at.get(sampled(term, number)) for number in range(self.samples)]
            if None not in samples:
                found[term] = [position for position in samples if position is not None]
        return found

    def weights_from(self, shares: Tensor, positions: Mapping[str, Sequence[int]]) -> Tensor:
        """The weight of each sample: its part of the share of its term."""
        part = (0.5, 0.5) if self.samples == 2 else (0.0, 0.0, 1.0)
        parts = [0.0] * len(shares)
        for samples in positions.values():
            for position, one in zip(samples, part, strict=True):
                parts[position] = one
        return shares * shares.new_tensor(parts)


def sampled(name: str, number: int) -> str:
    """What a sample of a term is called.

    Example:
        >>> from lossproof.terms.balance.samples import sampled
        >>> sampled("data", 1)
        'data[1]'
    """
    return f"{name}[{number}]"


def _wanted(name: str, samples: int, got: str) -> str:
    return (
        f"term {name!r} must be a sequence of {samples} scalar tensors, one for each independent "
        f"part of the batch, got {got}"
    )


def cross_products(gramian: Array, positions: Sequence[int], samples: int) -> Array:
    """The inner products of the gradients on the first batch with those on the second.

    Args:
        gramian: the inner products of all gradients.
        positions: where the samples of the terms stand in it, one term after the other.
        samples: how many samples each term has.

    Returns:
        A matrix with a row for each term on the first batch, a column for each on the second.
    """
    rows = np.array(positions).reshape(-1, samples)
    products: Array = gramian[np.ix_(rows[:, 0], rows[:, 1])]
    return products


def scale_of(gramian: Array, positions: Sequence[int], samples: int) -> float:
    """A gradient's length that all products are divided by twice, as the code of SDMGrad has it.

    It is the mean over the terms of the root of their own cross product, with 0 for one that is
    negative, as noise can make it. If all are, it is the mean of the norms.
    """
    rows = np.array(positions).reshape(-1, samples)
    squares = gramian[rows[:, 0], rows[:, 1]]
    scale = float(np.sqrt(np.maximum(squares, 0.0)).mean())
    if scale > 0.0:
        return scale
    norms = np.sqrt(np.maximum(gramian.diagonal()[rows[:, :2]], 0.0))
    return float(norms.mean())
