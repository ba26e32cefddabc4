"""Reductions over all pairs, a block of pairs at a time, forward and backward.

Nothing of the size of the matrix is kept. The gradient computes each block once more; its own
gradient does so again, so that second derivatives have the same bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.speed.pair_function import Index, PairFunction, Pieces, pieces
from lossproof.speed.row_reductions import Extreme, RowReduction, State
from lossproof.speed.surroundings import Surroundings, surroundings

Tensor = torch.Tensor

BESIDE = 128
"""How many rows and their extreme partners are put beside each other: of the block that they make,
only the diagonal is used, so a few rows cost little and many calls cost more."""


@dataclass(frozen=True)
class Sweep:
    """What is computed.

    Args:
        call: the function of pairs.
        reduction: how rows are reduced.
        dims: the axes of the matrix that are reduced, one result for each.
        sizes: the numbers of rows of ``x`` and of ``y``.
        block: how many of them go into a block.
    """

    call: PairFunction
    reduction: RowReduction
    dims: tuple[int, ...]
    sizes: tuple[int, int]
    block: tuple[int, int]

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """The blocks of the matrix, row by row."""
        for rows in _slices(self.sizes[0], self.block[0]):
            for columns in _slices(self.sizes[1], self.block[1]):
                yield rows, columns


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def swept(sweep: Sweep, tensors: Sequence[Tensor], *, differentiable: bool) -> tuple[Tensor, ...]:
    """The results, one for each axis; half precision is returned as float32."""
    if not differentiable:
        with torch.no_grad():
            states, _, _ = _reduced(sweep, tensors)
        return tuple(state[0] for state in states)
    results: tuple[Tensor, ...] = _Reduced.apply(sweep, *tensors)  # type: ignore[no-untyped-call]
    return results


def _reduced(sweep: Sweep, tensors: Sequence[Tensor]) -> tuple[list[State], Surroundings, bool]:
    """The final states; what they were computed with, and whether random numbers were drawn."""
    before = surroundings(tensors)
    states: list[State] = []
    with before.autocast_again():
        for rows, columns in sweep.blocks():
            values = sweep.call(pieces(sweep.call, tensors, rows, columns))
            for k, dim in enumerate(sweep.dims):
                along, first = (rows, columns.start) if dim else (columns, rows.start)
                state = sweep.reduction.state(values, dim, first)
                if len(states) == k:
                    states.append(tuple(s.new_empty(sweep.sizes[1 - dim]) for s in state))
                _put(states[k], along, state, sweep.reduction, is_first=first == 0)
    after = surroundings(tensors)
    return states, before, not _same_generators(before, after)


def _put(
    whole: State, along: slice, state: State, reduction: RowReduction, *, is_first: bool
) -> None:
    if not is_first:
        state = reduction.joined(tuple(one[along] for one in whole), state)
    for one, part in zip(whole, state, strict=True):
        one[along] = part


def _same_generators(before: Surroundings, after: Surroundings) -> bool:
    earlier = [before.cpu_generator, *(state for _, state in before.generators)]
    later = [after.cpu_generator, *(state for _, state in after.generators)]
    return all(map(torch.equal, earlier, later))


class _Reduced(torch.autograd.Function):
    """The results; nothing is kept but the tensors and the results."""

    @staticmethod
    def forward(ctx: Any, sweep: Sweep, *tensors: Tensor) -> tuple[Tensor, ...]:
        states, ctx.before, ctx.drawn = _reduced(sweep, tensors)
        ctx.sweep = sweep
        ctx.wanted = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        ctx.places = [state[1:] for state in states]
        ctx.set_materialize_grads(False)
        results = tuple(state[0] for state in states)
        ctx.save_for_backward(*results, *tensors)
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(upstream)
        results, tensors = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        asked = [k for k in range(count) if upstream[k] is not None]
        if not asked:
            return (None,) * (1 + len(tensors))
        gradient = _Gradient(ctx.sweep, ctx.wanted, asked, ctx.places, ctx.before, ctx.drawn)
        given = [upstream[k] for k in asked] + [results[k] for k in asked] + list(tensors)
        if torch.is_grad_enabled():
            found = _Differentiated.apply(gradient, *given)  # type: ignore[no-untyped-call]
        else:
            found = gradient(given)
        by_place = dict(zip(ctx.wanted, found, strict=True))
        return (None, *(by_place.get(i) for i in range(len(tensors))))


Block = tuple[Index, Index]


@dataclass(frozen=True)
class _Gradient:
    """The gradient of the results in the tensors, from that in the results."""

    sweep: Sweep
    wanted: list[int]
    asked: list[int]
    """Which results have one."""
    places: list[State]
    before: Surroundings
    drawn: bool

    def __call__(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The gradients in the tensors that are wanted."""
        count = len(self.asked)
        tensors = given[2 * count :]
        found = [_zeros(tensors[place]) for place in self.wanted]
        totals = dict(zip(self.wanted, found, strict=True))
        with self.again():
            for part in self.parts():
                with torch.enable_grad():
                    arguments = pieces(self.sweep.call, tensors, *part.block, self.wanted)
                    values = part.values(arguments)
                if not values.requires_grad:
                    continue
                slope = part.slope(values.detach(), given)
                slopes = _gradients(values, arguments.wanted, slope)
                _add(totals, arguments, slopes)
        return [
            total.to(tensors[place].dtype) for total, place in zip(found, self.wanted, strict=True)
        ]

    def again(self) -> AbstractContextManager[None]:
        """What the forward pass was computed with."""
        return self.before.again() if self.drawn else self.before.autocast_again()

    def parts(self) -> Iterator[_Part]:
        """What has to be computed again."""
        if isinstance(self.sweep.reduction, Extreme) and not self.drawn:
            for k in self.asked:
                dim, partners = self.sweep.dims[k], self.places[k][0]
                for along in _slices(len(partners), BESIDE):
                    beside = partners[along]
                    yield _Beside(self, k, (along, beside) if dim else (beside, along))
        else:
            for block in self.sweep.blocks():
                yield _Whole(self, block)


@dataclass(frozen=True)
class _Whole:
    """A block of pairs."""

    gradient: _Gradient
    block: tuple[slice, slice]

    def values(self, arguments: Pieces) -> Tensor:
        return self.gradient.sweep.call(arguments)

    def slope(self, values: Tensor, given: Sequence[Tensor]) -> Tensor:
        """The gradient in the values."""
        gradient, (rows, columns) = self.gradient, self.block
        slopes = []
        for n, k in enumerate(gradient.asked):
            dim = gradient.sweep.dims[k]
            along, first = (rows, columns.start) if dim else (columns, rows.start)
            result = given[len(gradient.asked) + n][along]
            state = (result, *(place[along] for place in gradient.places[k]))
            reduction = gradient.sweep.reduction
            slopes.append(reduction.slope(values, dim, first, given[n][along], state))
        slope = slopes[0] if len(slopes) == 1 else slopes[0] + slopes[1]
        return slope.to(values.dtype)


@dataclass(frozen=True)
class _Beside:
    """Some rows, each with its extreme partner."""

    gradient: _Gradient
    result: int
    block: Block

    def values(self, arguments: Pieces) -> Tensor:
        return self.gradient.sweep.call(arguments).diagonal()

    def slope(self, values: Tensor, given: Sequence[Tensor]) -> Tensor:
        """The gradient in the values."""
        along = next(index for index in self.block if isinstance(index, slice))
        return given[self.gradient.asked.index(self.result)][along].to(values.dtype)


_Part = _Whole | _Beside


def _zeros(tensor: Tensor) -> Tensor:
    """Where gradients are added up."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return torch.zeros(tensor.shape, dtype=dtype, device=tensor.device)


def _gradients(
    value: Tensor, wanted: Sequence[Tensor], slope: Tensor | None = None, *, create: bool = False
) -> Sequence[Tensor | None]:
    return torch.autograd.grad(value, wanted, slope, create_graph=create, allow_unused=True)


def _add(totals: dict[int, Tensor], arguments: Pieces, slopes: Sequence[Tensor | None]) -> None:
    for (place, index, _), slope in zip(arguments.leaves, slopes, strict=True):
        if slope is None or place not in totals:
            continue
        if index is None:
            totals[place] += slope
        elif isinstance(index, slice):
            totals[place][index] += slope
        else:
            totals[place].index_add_(0, index, slope.to(totals[place].dtype))


class _Differentiated(torch.autograd.Function):
    """The gradient, in a form that can be differentiated; its blocks are computed once more."""

    @staticmethod
    def forward(ctx: Any, gradient: _Gradient, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.gradient = gradient
        ctx.save_for_backward(*given)
        return tuple(gradient(given))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient: _Gradient = ctx.gradient
        given = list(ctx.saved_tensors)
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        with gradient.again():
            found = _second(gradient, given, upstream, wanted, attached=torch.is_grad_enabled())
        by_place = dict(zip(wanted, found, strict=True))
        return (None, *(by_place.get(i) for i in range(len(given))))


def _second(
    gradient: _Gradient,
    given: list[Tensor],
    upstream: Sequence[Tensor],
    wanted: list[int],
    *,
    attached: bool,
) -> Sequence[Tensor | None]:
    """The gradient of the inner product of ``upstream`` and the gradient, in what was given.

    With ``attached`` it can be differentiated itself, and all blocks are kept for that.
    """
    heads = 2 * len(gradient.asked)
    gate = _Gate()
    if attached:
        own = {heads + place for place in gradient.sweep.call.places}
        given = [gate.before(one) if i < heads or i in own else one for i, one in enumerate(given)]
        upstream = [gate.before(one) for one in upstream]
    tensors = given[heads:]
    direction = dict(zip(gradient.wanted, upstream, strict=True))
    leaves = sorted({*gradient.wanted, *(i - heads for i in wanted if i >= heads)})
    totals = {} if attached else {i: _zeros(given[i]) for i in wanted}
    products: list[Tensor] = []
    for part in gradient.parts():
        with torch.enable_grad():
            local = given[:heads]
            if not attached:
                local = [one.detach().requires_grad_() for one in local]
            arguments = pieces(gradient.sweep.call, tensors, *part.block, leaves, attached=attached)
            product = _inner_product(part, arguments, local, direction)
        if product is None:
            continue
        if attached:
            products.append(product)
            continue
        slopes = _gradients(product, local + arguments.wanted)
        for i, slope in enumerate(slopes[:heads]):
            if slope is not None and i in totals:
                totals[i] += slope
        of_tensors = {i - heads: total for i, total in totals.items()}
        _add(of_tensors, arguments, slopes[heads:])
    if not attached:
        return [totals[i].to(given[i].dtype) for i in wanted]
    if not products:
        return [None] * len(wanted)
    with gate.closed():
        return _gradients(torch.stack(products).sum(), [given[i] for i in wanted], create=True)


class _Gate:
    """A place in the graph that gradients do not pass for a while."""

    def __init__(self) -> None:
        self.open = True

    def before(self, tensor: Tensor) -> Tensor:
        """The tensor in front of the gate."""
        gated: Tensor = _Gated.apply(self, tensor)  # type: ignore[no-untyped-call]
        return gated

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Inside, derivatives behind the gate are partial ones."""
        self.open = False
        try:
            yield
        finally:
            self.open = True


class _Gated(torch.autograd.Function):
    """The tensor itself, behind a gate."""

    @staticmethod
    def forward(ctx: Any, gate: _Gate, tensor: Tensor) -> Tensor:
        ctx.gate = gate
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor | None]:
        return None, upstream if ctx.gate.open else None


def _inner_product(
    part: _Part, arguments: Pieces, heads: Sequence[Tensor], direction: dict[int, Tensor]
) -> Tensor | None:
    """What a block adds to the inner product of the direction and the gradient."""
    values = part.values(arguments)
    first = [leaf for leaf in arguments.leaves if leaf[0] in direction]
    if not values.requires_grad:
        return None
    slope = part.slope(values, heads)
    slopes = _gradients(values, [tensor for _, _, tensor in first], slope, create=True)
    terms = [
        (slope * (direction[place] if index is None else direction[place][index])).sum()
        for (place, index, _), slope in zip(first, slopes, strict=True)
        if slope is not None
    ]
    if not terms:
        return None
    product = torch.stack(terms).sum()
    return product if product.requires_grad else None
