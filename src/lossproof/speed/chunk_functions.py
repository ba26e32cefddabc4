"""A chunked loss in autograd's graph.

Four functions: the sum with its gradient made in forward; the values of the rows, which are
computed again in backward; the gradient of either as a function of its own, so that it can be
differentiated; and the derivative of that. Each goes through the chunks, and holds one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lossproof.errors import UnsupportedGraphError
from lossproof.speed.chunk_plan import LEAST_ROWS, Plan, put, taken
from lossproof.speed.chunk_sweep import sweep
from lossproof.speed.gate import Gate
from lossproof.write.hooks import hooks_held_back

Tensor = torch.Tensor
Gradients = tuple[Tensor | None, ...]


class ChunkedSum(torch.autograd.Function):
    """The sum of the weighted values; its gradient is computed with it and kept.

    The first backward scales what was kept in place and gives it away; a second one, and one that
    is itself to be differentiated, computes it again.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> Tensor:
        ctx.plan = plan
        total, ctx.kept = sweep(plan, tensors, ctx.needs_input_grad[1:])
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        ctx.save_for_backward(*tensors)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Gradients:
        needed = tuple(ctx.needs_input_grad[1:])
        if torch.is_grad_enabled():
            tensors = ctx.saved_tensors
            values = upstream.expand(len(tensors[0]), *ctx.plan.item_shape)
            return None, *_gradient(ctx.plan, needed, values, tensors)
        if ctx.kept is None:  # a second time, and to the last bit what it was at the first
            with ctx.plan.surroundings.again():
                _, ctx.kept = sweep(ctx.plan, ctx.saved_tensors, needed)
        if _are_many(upstream):  # what was kept serves them all
            return None, *(None if one is None else one * upstream for one in ctx.kept)
        kept, ctx.kept = ctx.kept, None
        return None, *(
            None if one is None else one.mul_(upstream).to(dtype)
            for one, dtype in zip(kept, ctx.dtypes, strict=True)
        )


class ChunkedValues(torch.autograd.Function):
    """The weighted values of all rows; nothing is kept but the inputs."""

    @staticmethod
    def forward(plan: Plan, *tensors: Tensor) -> Tensor:
        return values_of(plan, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plan, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Gradients:
        needed = tuple(ctx.needs_input_grad[1:])
        found = _gradient(ctx.plan, needed, upstream, ctx.saved_tensors)
        return None, *found


class ChunkedGradient(torch.autograd.Function):
    """The gradients of the values times a cotangent, as a function of both."""

    @staticmethod
    def forward(
        plan: Plan, needed: Sequence[bool], cotangent: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        with plan.surroundings.again():
            _, found = sweep(plan, tensors, needed, cotangent)
        return tuple(
            gradient.to(tensor.dtype)
            for gradient, tensor in zip(found, tensors, strict=True)
            if gradient is not None
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, ctx.needed, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(
        info: Any, in_dims: Sequence[Any], plan: Plan, needed: Sequence[bool], *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Several cotangents, as those of a Jacobian, one after the other."""
        every = [
            ChunkedGradient.apply(  # type: ignore[no-untyped-call]
                plan,
                needed,
                *(
                    one if dim is None else one.select(dim, place)
                    for one, dim in zip(tensors, in_dims[2:], strict=True)
                ),
            )
            for place in range(info.batch_size)
        ]
        found = tuple(torch.stack(several) for several in zip(*every, strict=True))
        return found, (0,) * len(found)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Gradients:
        if any(map(torch._C._functorch.is_batchedtensor, upstream)):
            raise UnsupportedGraphError(
                "a chunked loss has no second derivatives by a reverse pass under "
                "`torch.func.vmap`, as in `jacrev` of a gradient: take `torch.func.hessian` or "
                "`jacfwd`, or the loss's `.plain`"
            )
        cotangent, *tensors = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[2:])
        whole = torch.is_grad_enabled() or any(map(_are_many, upstream))
        derivative = _at_once if whole else _by_chunks
        with ctx.plan.surroundings.again():
            found = derivative(ctx.plan, ctx.needed, wanted, upstream, cotangent, tensors)
        return None, None, *found


def _gradient(
    plan: Plan, needed: Sequence[bool], cotangent: Tensor, tensors: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients in their places."""
    if torch._C._functorch.is_legacy_batchedtensor(cotangent):  # knows no functions of ours
        return _of_whole(plan, needed, cotangent, tensors)
    found = iter(
        ChunkedGradient.apply(plan, needed, cotangent, *tensors)  # type: ignore[no-untyped-call]
    )
    return [next(found) if need else None for need in needed]


def _are_many(upstream: Tensor) -> bool:
    """Whether this stands for several gradients at a time, as in a Jacobian."""
    kinds = torch._C._functorch.is_legacy_batchedtensor, torch._C._functorch.is_batchedtensor
    return any(kind(upstream) for kind in kinds)


def _of_whole(
    plan: Plan, needed: Sequence[bool], cotangent: Tensor, tensors: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients by way of all rows at once."""
    again = torch.is_grad_enabled()
    gate, whole = _gated(plan, tensors)
    with plan.surroundings.again(), torch.enable_grad():
        values = plan.whole_values(whole)
        inputs = [one for one, need in zip(whole, needed, strict=True) if need]
        with gate.closed(), hooks_held_back(plan.captured):
            slopes = torch.autograd.grad(
                values, inputs, cotangent, create_graph=again, allow_unused=True
            )
    found = iter(slopes)
    return [next(found) if need else None for need in needed]


def values_of(plan: Plan, tensors: Sequence[Tensor]) -> Tensor:
    """The weighted values of all rows, chunk by chunk; 0 for those that do not count."""
    rows, shared = plan.split(tensors)
    with plan.surroundings.autocast_again(), torch.no_grad():
        parts = [
            (part, plan.row_values_in_blocks([taken(row, part) for row in rows], shared))
            for part in plan.parts()
        ]
    if plan.index is None:
        return torch.cat([values for _, values in parts])
    found = parts[0][1].new_zeros(plan.count, *plan.item_shape)
    for part, values in parts:
        put(found, part, values)
    return found


def _by_chunks(
    plan: Plan,
    needed: Sequence[bool],
    wanted: Sequence[bool],
    upstream: Sequence[Tensor],
    cotangent: Tensor,
    tensors: Sequence[Tensor],
) -> list[Tensor | None]:
    """The derivative of the gradients, in the cotangent and the tensors."""
    found = [
        torch.zeros_like(one, memory_format=torch.contiguous_format) if want else None
        for one, want in zip((cotangent, *tensors), wanted, strict=True)
    ]
    cut = 1 + plan.row_tensors
    leaves = plan.leaves(plan.split(tensors)[1], [_can(t) for t in plan.split(tensors)[1]])
    upstream_of = iter(upstream)
    along = [next(upstream_of) if need else None for need in needed]
    # The graph of a gradient holds a dozen copies of the logits: few rows then, if they may be.
    for part in plan.parts(most=None if plan.draws else LEAST_ROWS):
        factor = taken(cotangent, part).detach().requires_grad_()
        rows = [
            taken(row, part).detach().requires_grad_(_can(row)) for row in plan.split(tensors)[0]
        ]
        mine = [
            taken(one, part) if one is not None and place < plan.row_tensors else one
            for place, one in enumerate(along)
        ]
        with torch.enable_grad():
            values = plan.recorded_values(rows, leaves) * factor
        with hooks_held_back(plan.captured):
            slopes = _second(values, needed, wanted, mine, (factor, *rows, *leaves))
        for place, (into, slope) in enumerate(zip(found, slopes, strict=True)):
            if into is None or slope is None:
                continue
            if place < cut:
                put(into, part, slope)
            else:
                into.add_(slope)
    return found


def _at_once(
    plan: Plan,
    needed: Sequence[bool],
    wanted: Sequence[bool],
    upstream: Sequence[Tensor],
    cotangent: Tensor,
    tensors: Sequence[Tensor],
) -> list[Tensor | None]:
    """The same in one graph, which can be differentiated again; it holds all rows."""
    again = torch.is_grad_enabled()
    gate, (factor, *whole) = _gated(plan, (cotangent, *tensors))
    upstream_of = iter(gate.before(upstream, range(len(upstream))) if plan.captured else upstream)
    along = [next(upstream_of) if need else None for need in needed]
    with torch.enable_grad(), gate.closed(), hooks_held_back(plan.captured):
        values = plan.whole_values(whole) * factor
        return _second(values, needed, wanted, along, (factor, *whole), again=again)


def _gated(plan: Plan, tensors: Sequence[Tensor]) -> tuple[Gate, list[Tensor]]:
    """The tensors, of which those that may depend on each other stand in front of a gate.

    What a function closes over stands for itself: nothing can take its place. Without any, others
    that stand for the tensors are gate enough (and ``torch.func``, which closes over nothing, gets
    along with them).
    """
    gate, own = Gate(), len(tensors) - len(plan.captured)
    if not plan.captured:
        with torch.enable_grad():
            return gate, [one.view_as(one) if _can(one) else one for one in tensors]
    return gate, gate.before(tensors, [n for n, one in enumerate(tensors[:own]) if _can(one)])


def _second(
    values: Tensor,
    needed: Sequence[bool],
    wanted: Sequence[bool],
    along: Sequence[Tensor | None],
    tensors: Sequence[Tensor],
    *,
    again: bool = False,
) -> list[Tensor | None]:
    """The derivatives, in the factor and the tensors, of the gradients along directions."""
    if not values.requires_grad:
        return [None] * len(wanted)
    inputs = [one for one, need in zip(tensors[1:], needed, strict=True) if need]
    with torch.enable_grad():
        first = torch.autograd.grad(values.sum(), inputs, create_graph=True, allow_unused=True)
    directions = [one for one in along if one is not None]
    return _along(first, directions, tensors, wanted, again)


def _along(
    first: Sequence[Tensor | None],
    directions: Sequence[Tensor],
    tensors: Sequence[Tensor],
    wanted: Sequence[bool],
    again: bool,
) -> list[Tensor | None]:
    """The derivatives of the inner product of gradients and directions."""
    pairs = [
        (slope, direction.to(slope.dtype))
        for slope, direction in zip(first, directions, strict=True)
        if slope is not None and slope.requires_grad
    ]
    inputs = [one for one, want in zip(tensors, wanted, strict=True) if want]
    if not pairs or not inputs:
        return [None] * len(wanted)
    slopes = torch.autograd.grad(
        [slope for slope, _ in pairs],
        inputs,
        [direction for _, direction in pairs],
        create_graph=again,
        allow_unused=True,
    )
    found = iter(slopes)
    return [next(found) if want else None for want in wanted]


def _can(tensor: Tensor) -> bool:
    """Whether it can have a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()
