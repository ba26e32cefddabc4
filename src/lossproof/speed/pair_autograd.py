"""Reductions over all pairs in the graph of autograd.

Nothing of the size of the matrix is kept. The gradient computes each block once more; its own
gradient does so again, so that second derivatives have the same bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lossproof.speed.pair_gradient import Gradient
from lossproof.speed.pair_second import second, second_at_once
from lossproof.speed.pair_sweep import Sweep, reduced
from lossproof.write.arguments import transformed

Tensor = torch.Tensor


def swept(sweep: Sweep, tensors: Sequence[Tensor], *, differentiable: bool) -> tuple[Tensor, ...]:
    """The results, one for each axis; half precision is returned as float32."""
    if not differentiable:
        with torch.no_grad():
            states, _, _ = reduced(sweep, tensors)
        return tuple(state[0] for state in states)
    results: tuple[Tensor, ...] = _Reduced.apply(sweep, *tensors)  # type: ignore[no-untyped-call]
    return results


class _Reduced(torch.autograd.Function):
    """The results; nothing is kept but the tensors and the results."""

    @staticmethod
    def forward(ctx: Any, sweep: Sweep, *tensors: Tensor) -> tuple[Tensor, ...]:
        states, ctx.before, ctx.drawn = reduced(sweep, tensors)
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
        saved = ctx.saved_tensors  # once: who packs them may unpack them once alone
        results, tensors = saved[:count], saved[count:]
        asked = [k for k in range(count) if upstream[k] is not None]
        if not asked:
            return (None,) * (1 + len(tensors))
        gradient = Gradient(ctx.sweep, ctx.wanted, asked, ctx.places, ctx.before, ctx.drawn)
        given = [upstream[k] for k in asked] + [results[k] for k in asked] + list(tensors)
        if any(are_many(given[n]) for n in range(len(asked))):
            found = gradient.of_matrix(given)
        elif torch.is_grad_enabled():
            found = _Differentiated.apply(gradient, *given)  # type: ignore[no-untyped-call]
        else:
            found = gradient(given)
        by_place = dict(zip(ctx.wanted, found, strict=True))
        return (None, *(by_place.get(i) for i in range(len(tensors))))


def are_many(upstream: Tensor) -> bool:
    """Whether this stands for many gradients at a time (``is_grads_batched``)."""
    return transformed() or torch._C._functorch.is_legacy_batchedtensor(upstream)


class _Differentiated(torch.autograd.Function):
    """The gradient, in a form that can be differentiated; its blocks are computed once more."""

    @staticmethod
    def forward(ctx: Any, gradient: Gradient, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.gradient = gradient
        ctx.save_for_backward(*given)
        return tuple(gradient(given))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient: Gradient = ctx.gradient
        given = list(ctx.saved_tensors)
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        at_once = torch.is_grad_enabled() or any(map(are_many, upstream))
        found = (second_at_once if at_once else second)(gradient, given, upstream, wanted)
        by_place = dict(zip(wanted, found, strict=True))
        return (None, *(by_place.get(i) for i in range(len(given))))
