"""Causal training of physics-informed networks: no time before the times before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from lossproof.terms.balance.point_balancer import PointBalancer, Scalars, State
from lossproof.terms.balance.residuals import all_given, residual_vector, unweighted
from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.terms import solving_dtype
from lossproof.write.arguments import integer, number, tensor

Tensor = torch.Tensor


class CausalWeighting(PointBalancer):
    r"""Weights that open a span of time only when the residuals before it are small.

    .. math::
        L = \frac{1}{M} \sum_{i=1}^{M} w_i L_i, \qquad
        w_i = \exp\Big( -\epsilon \sum_{k < i} L_k \Big)

    The points are sorted by time and cut into M chunks of equal numbers; :math:`L_i` is the mean
    square of the residual in one of them. The weights are no part of the graph.
    :math:`\epsilon` has the unit of one over the loss, so that it must suit the scale of the
    equation; it goes through ``eps``, from the mildest on: the next one follows when all weights
    exceed ``delta``, or after ``max_steps``. When they do so at the last one, ``finished`` is true,
    which is the paper's criterion to stop.

    Args:
        causal: the name of the term that is weighted, or several names. Residuals of other terms
            become plain mean squares; scalars stay as they are.
        chunks: M, the number of chunks; each needs a point.
        eps: the values of :math:`\epsilon`, above 0 and increasing; one, or several in their order.
        delta: what all weights must exceed, from 0 to 1.
        max_steps: the largest number of steps with one :math:`\epsilon` but the last.
        initial: the name of the term of the initial condition, which then counts as a chunk before
            the first: its value is in every sum. It remains a term of its own.
        initial_weight: what its value is multiplied by in these sums, at least 0; the weight that
            it has in the loss (1000 in the authors' code).
        names: the names of all terms, in their order.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or a residual does not fit.

    Example:
        >>> import torch
        >>> from lossproof.terms import CausalWeighting
        >>> causal = CausalWeighting("pde", chunks=2, eps=0.1)
        >>> causal({"pde": torch.tensor([1.0, 3.0, 2.0, 2.0])}, time=torch.tensor([0, 1, 2, 3]))
        {'pde': tensor(3.7131)}
        >>> causal.last["pde"]  # exp(-0.1 * (1 + 9) / 2)
        tensor([1.0000, 0.6065], dtype=torch.float64)

    Source:
        Wang, Sankaran and Perdikaris (2024), Respecting causality for training physics-informed
        neural networks, Computer Methods in Applied Mechanics and Engineering 421, algorithm 1.
        There a chunk is one time; chunks of sampled points are those of jaxpi.
    """

    schedule: Tensor
    stage: Tensor
    steps_in_stage: Tensor
    finished: Tensor

    def __init__(
        self,
        causal: str | Sequence[str],
        *,
        chunks: int = 32,
        eps: float | Sequence[float] = (1e-2, 1e-1, 1.0, 1e1, 1e2),
        delta: float = 0.99,
        max_steps: int | None = None,
        initial: str | None = None,
        initial_weight: float = 1.0,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(names)
        self.causal = _names_of(causal)
        self.chunks = integer("chunks", chunks, minimum=1)
        self.eps = _increasing(eps)
        self.delta = number("delta", delta, minimum=0, maximum=1)
        self.max_steps = None if max_steps is None else integer("max_steps", max_steps, minimum=1)
        if initial is not None and not isinstance(initial, str):
            raise TypeError(f"`initial` must be the name of a term or None, got {initial!r}")
        if initial in self.causal:
            raise ValueError(
                f"`initial` must be the name of a term not in `causal`, got {initial!r}"
            )
        self.initial = initial
        self.initial_weight = number("initial_weight", initial_weight, minimum=0)
        self.last: dict[str, Tensor] = {}
        """The weights of the last call, M numbers for each causal term."""
        self.register_buffer(
            "schedule", torch.tensor(self.eps, dtype=torch.float64), persistent=False
        )
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps_in_stage", torch.zeros((), dtype=torch.int64))
        self.register_buffer("finished", torch.zeros((), dtype=torch.bool))

    def forward(  # type: ignore[override]  # points are known by their time
        self, residuals: Mapping[str, Any], *, time: Any = None
    ) -> Scalars:
        """The scalar terms.

        Args:
            residuals: for each term its residual at every point, a tensor of shape (N,), or
                (N, ...) for several equations. Scalars pass as they are, and so does ``None``.
            time: the time of every point, a tensor of N numbers for each causal term, by name; or
                the tensor alone, if there is one such term. Without it the points are in the
                order of their times already.
        """
        return super().forward(residuals, index=time)

    def backward(  # points are known by their time
        self, terms: Mapping[str, Any], params: Any = None, *, time: Any = None, **options: Any
    ) -> BalanceStep:
        """Add the gradient of the sum of the weighted terms to ``.grad``.

        Args:
            terms: the residuals, as for a call.
            params: what is filled, as for every balancer.
            time: as for a call.
            **options: as for every balancer.
        """
        return super().backward(terms, params, index=time, **options)

    def weigh(self, residuals: Mapping[str, Any], where: Any) -> tuple[Scalars, State]:
        all_given("causal", self.causal, residuals)
        scalars = {
            name: unweighted(name, given)
            for name, given in residuals.items()
            if name not in self.causal
        }
        before = self._before(scalars)
        self.last = {}
        for name in self.causal:
            if residuals[name] is None:
                continue
            losses = self._chunk_losses(name, residuals[name], where)
            exact = losses.detach().to(solving_dtype(losses.device))
            earlier = torch.cat([torch.zeros_like(exact[:1]), exact[:-1]]).cumsum(0) + before
            eps = self.schedule.to(exact)[self.stage.to(exact.device)]
            weights = torch.exp(-eps * earlier)
            scalars[name] = (weights.to(losses) * losses).mean()
            self.last[name] = weights
        in_order = {name: scalars.get(name) for name in residuals}
        return in_order, self._after(list(self.last))

    def without(self, state: State, dropped: Sequence[str]) -> State:
        return self._after([name for name in self.last if name not in dropped])

    def _before(self, scalars: Mapping[str, Tensor | None]) -> Tensor | float:
        """What stands in every sum: the term of the initial condition."""
        if self.initial is None:
            return 0.0
        if self.initial not in scalars:
            raise ValueError(
                f"`initial` must be one of the terms {list(scalars)}, got {self.initial!r}"
            )
        value = scalars[self.initial]
        if value is None:
            return 0.0
        return self.initial_weight * value.detach().to(solving_dtype(value.device))

    def _chunk_losses(self, name: str, given: Any, time: Any) -> Tensor:
        """The mean square of the residual in each chunk."""
        residual = residual_vector(name, given)
        count = residual.shape[0]
        if count < self.chunks:
            raise ValueError(
                f"term {name!r} must have a point for each of {self.chunks} chunks, got {count}"
            )
        order = self._order(name, time, residual)
        if order is not None:
            residual = residual.index_select(0, order)
        wide = residual.to(torch.promote_types(residual.dtype, torch.float32))
        squares = wide.square().reshape(count, -1).mean(1)
        chunk = torch.arange(count, device=residual.device) * self.chunks // count
        sums = squares.new_zeros(self.chunks).index_add(0, chunk, squares)
        return sums / squares.new_zeros(self.chunks).index_add(0, chunk, torch.ones_like(squares))

    def _order(self, name: str, given: Any, residual: Tensor) -> Tensor | None:
        if isinstance(given, Mapping):
            given = given.get(name)
        elif given is not None and len(self.causal) > 1:
            raise TypeError(
                f"`time` must be a mapping from the terms {list(self.causal)} to tensors, got "
                f"{type(given).__name__}"
            )
        if given is None:
            return None
        time = tensor(f"time[{name!r}]", given, "number").detach()
        if time.numel() != residual.shape[0]:
            raise ValueError(
                f"`time[{name!r}]` must hold a number for each of the {residual.shape[0]} points, "
                f"got the shape {list(time.shape)}"
            )
        return time.reshape(-1).to(residual.device).argsort(stable=True)

    def _after(self, names: Sequence[str]) -> State:
        """Where the sequence of eps stands after a step with the weights of these terms."""
        if not names:
            return {}
        smallest = torch.stack([self.last[name].amin() for name in names]).amin()
        open_all = smallest > self.delta
        last = len(self.eps) - 1
        stage, steps = self.stage.to(smallest.device), self.steps_in_stage.to(smallest.device) + 1
        onward = open_all if self.max_steps is None else open_all | (steps >= self.max_steps)
        onward = onward & (stage < last)
        return {
            "stage": stage + onward,
            "steps_in_stage": torch.where(onward, 0, steps),
            "finished": self.finished.to(smallest.device) | (open_all & (stage == last)),
        }


def _names_of(causal: Any) -> tuple[str, ...]:
    names = (causal,) if isinstance(causal, str) else causal
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"`causal` must be the name of a term, or several names, got {causal!r}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"`causal` must hold different names of terms, got {list(names)}")
    return tuple(names)


def _increasing(eps: Any) -> tuple[float, ...]:
    values = eps if isinstance(eps, Sequence) and not isinstance(eps, str) else (eps,)
    checked = tuple(float(number("eps", value, above=0)) for value in values)
    if not checked or any(a >= b for a, b in pairwise(checked)):
        raise ValueError(f"`eps` must hold increasing numbers, got {eps!r}")
    return checked
