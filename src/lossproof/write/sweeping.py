"""A sum over items and its gradient in one sweep, in blocks that stay in the cache.

A loss in eager PyTorch is a chain of elementwise operations, and each writes a temporary as large
as the batch: on a CPU most of the time goes into memory traffic, not into arithmetic. Here the
chain runs on one block of items after the other, forward and backward together, so that the
temporaries never leave the cache and only the gradient is kept.

This needs no second formula: the derivative of a block comes from autograd. Where a loss gives its
own (it is then checked like any other), a block costs less still. Second derivatives, forward mode,
``torch.func``, compiled graphs and accelerators take the plain formula on the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import forward_ad

from lossproof.write.arguments import REDUCTIONS, choice, fits, transformed
from lossproof.write.reduction import denominator, divide, reduce, usable_normalizer

Tensor = torch.Tensor
Values = Callable[..., Tensor]
"""From the tensors of some items to the values of these items."""
Gradient = Callable[..., tuple[Tensor, Tensor]]
"""From the tensors of some items to their values and the derivative of each in the first tensor."""

BLOCK = 1 << 16
"""Elements in a block, for each thread: few enough for the caches, enough for a call to pay."""


def reduce_swept(
    values: Values,
    tensors: Sequence[Tensor],
    weight: Tensor | None = None,
    reduction: str = "mean",
    *,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    fill: float | Sequence[float] = 0.0,
    gradient: Gradient | None = None,
    class_axis: bool = False,
) -> Tensor:
    r"""``reduce(values(*tensors), weight, reduction, ...)``, with less memory and in less time.

    Args:
        values: the formula, for any number of items: it sees the tensors as they are, or blocks of
            them. No item may depend on another.
        tensors: what it takes. All have the shape of the values; with ``class_axis`` the first is
            (N, C, \*), the others are (N, \*) or (N, C, \*), and the values (N, \*); a single
            sample has no N.
        weight: how much each item counts, as for :func:`lossproof.reduce`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: which items count.
        normalizer: what ``"mean"`` divides by instead.
        fill: what stands in the floating-point tensors where the mask is false, so that NaN there
            does no harm: a number in the domain of the formula, for all tensors or for each.
        gradient: the values and their derivative in the first tensor, by a formula that is faster
            than autograd. It may not keep or change the tensors it is given.
        class_axis: whether the second axis holds the classes of one item.
    """
    tensors = tuple(tensors)
    items = tensors[0].detach()
    if class_axis:  # as many numbers as there are values; a single sample has the classes first
        axis = min(1, items.ndim - 1)
        if items.shape[axis] == 0:
            raise ValueError(f"`input` must have at least one class, got shape {list(items.shape)}")
        items = items.select(axis, 0)
    choice("reduction", reduction, REDUCTIONS)
    normalizer = usable_normalizer(normalizer)
    if weight is not None:
        weight = fits("weight", weight, items)
    if mask is not None:
        mask = fits("mask", mask, items, kind="bool")
        tensors = _filled(tensors, mask, fill, items.ndim)
        weight = None if weight is None else torch.where(mask, weight, 0.0)
    factor = mask if weight is None else weight
    swept = tensors if factor is None else (*tensors, factor.expand_as(items))
    if reduction == "none" or not worth_a_sweep(swept):
        return reduce(values(*tensors), weight, reduction, mask=mask, normalizer=normalizer)
    formula = _Formula(values, gradient, factor is not None)
    rows = [_rows(tensor, items.ndim) for tensor in swept]
    total: Tensor = _SweptSum.apply(  # type: ignore[no-untyped-call]
        formula, torch.is_grad_enabled(), *rows
    )
    if reduction == "sum":
        return total
    return divide(total, denominator(items, weight, mask, normalizer)).to(total.dtype)


@dataclass(frozen=True)
class _Formula:
    """What is summed."""

    values: Values
    gradient: Gradient | None
    weighted: bool
    """Whether the last tensor is a factor of the values."""

    def sum(self, *tensors: Tensor) -> Tensor:
        if self.weighted:
            values = self.values(*tensors[:-1])
            return (values * tensors[-1]).sum().to(values.dtype)  # whatever the weights are
        return self.values(*tensors).sum()

    def sum_and_gradients(
        self, tensors: Sequence[Tensor], wanted: Sequence[int]
    ) -> tuple[Tensor, Sequence[Tensor]]:
        if self.gradient is not None and list(wanted) == [0]:
            return self._by_formula(tensors)
        with torch.enable_grad():
            leaves = [t.detach() for t in tensors]
            for i in wanted:
                leaves[i].requires_grad_()
            total = self.sum(*leaves)
        return total.detach(), torch.autograd.grad(
            total, [leaves[i] for i in wanted], materialize_grads=True
        )

    def _by_formula(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        assert self.gradient is not None
        if not self.weighted:
            values, slope = self.gradient(*tensors)
            return values.sum(), (slope,)
        values, slope = self.gradient(*tensors[:-1])
        factor = tensors[-1]
        of_classes = factor.unsqueeze(1) if slope.ndim > values.ndim else factor
        return (values * factor).sum().to(values.dtype), (slope * of_classes,)


class _SweptSum(torch.autograd.Function):
    """The sum over all items; its gradient is computed with it, block by block."""

    @staticmethod
    def forward(ctx: Any, formula: _Formula, with_gradient: bool, *rows: Tensor) -> Tensor:
        ctx.formula = formula
        ctx.wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        ctx.save_for_backward(*rows)
        total, ctx.gradients = _sweep(formula, rows, ctx.wanted if with_gradient else [])
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        twice = torch.is_grad_enabled()  # the gradient itself is to be differentiated
        if twice or _are_many(grad):
            with torch.enable_grad():
                rows = _views(ctx.saved_tensors)
                total = ctx.formula.sum(*rows)
            wanted = [rows[i] for i in ctx.wanted]
            gradients: Sequence[Tensor] = torch.autograd.grad(
                total, wanted, grad, create_graph=twice, materialize_grads=True
            )
        else:
            kept, ctx.gradients = ctx.gradients, None
            if kept is None:  # a second backward: the first gave its buffers away
                _, kept = _sweep(ctx.formula, ctx.saved_tensors, ctx.wanted)
            gradients = [gradient.mul_(grad) for gradient in kept]
        found = dict(zip(ctx.wanted, gradients, strict=True))
        return (None, None, *(found.get(i) for i in range(len(ctx.needs_input_grad) - 2)))


def _views(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors as views, which have no hooks, and of which none is computed from another.

    Derivatives in them are partial ones, whatever the tensors are.
    """
    return [tensor.view_as(tensor) for tensor in tensors]


def _are_many(grad: Tensor) -> bool:
    """Whether this stands for many gradients at a time, which fill no buffer made for one."""
    return transformed() or torch._C._functorch.is_legacy_batchedtensor(grad)


def _sweep(
    formula: _Formula, rows: Sequence[Tensor], wanted: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """The sum and the gradients in the tensors at these places."""
    gradients = [torch.empty_like(rows[i]) for i in wanted]
    # Blocks are added up in float64: there may be thousands of them.
    total = torch.zeros((), dtype=torch.float64, device=rows[0].device)
    dtype = torch.float32
    # A softmax over the last axis is several times as fast as one over the last but one.
    thin = rows[0].ndim == 3 and rows[0].shape[-1] == 1
    for index in blocks(rows[0]):
        block = [row[index].squeeze(-1) if thin else row[index] for row in rows]
        if wanted:
            part, slopes = formula.sum_and_gradients(block, wanted)
            for gradient, slope in zip(gradients, slopes, strict=True):
                gradient[index] = slope.unsqueeze(-1) if thin else slope
        else:
            part = formula.sum(*block)
        dtype = part.dtype
        total += part
    return total.to(dtype), gradients


def blocks(first: Tensor) -> Iterator[tuple[Any, ...]]:
    r"""Indices that cut tensors of shape (N, \*, S) into blocks of items that fit into a cache."""
    rows, inner = first.shape[0], first.shape[-1]
    classes = first.shape[1] if first.ndim == 3 else 1
    size = max(1, BLOCK * torch.get_num_threads() // classes)
    together = max(1, size // inner)
    for row in range(0, rows, together):
        for start in range(0, inner, size):
            yield slice(row, row + together), ..., slice(start, start + size)


def _rows(tensor: Tensor, item_axes: int) -> Tensor:
    """The tensor as (1, S), or where its items have classes as (N, C, S) and (N, S)."""
    if tensor.ndim > item_axes:
        return tensor.reshape(*tensor.shape[:2], -1)
    return tensor.reshape(tensor.shape[0], -1) if tensor.ndim else tensor.reshape(1, 1)


def _filled(
    tensors: Sequence[Tensor], mask: Tensor, fill: float | Sequence[float], item_axes: int
) -> tuple[Tensor, ...]:
    fills = [fill] * len(tensors) if isinstance(fill, int | float) else fill
    return tuple(
        torch.where(
            mask.unsqueeze(min(1, item_axes)) if tensor.ndim > item_axes else mask, tensor, number
        )
        if tensor.is_floating_point()
        else tensor
        for tensor, number in zip(tensors, fills, strict=True)
    )


def worth_a_sweep(tensors: Sequence[Tensor]) -> bool:
    """Whether these are many numbers, on a CPU, and nothing looks for the operations themselves."""
    if torch.compiler.is_compiling() or tensors[0].device.type != "cpu" or not tensors[-1].ndim:
        return False
    return tensors[0].numel() >= 4 * BLOCK and not observed(tensors)


def observed(tensors: Sequence[Tensor]) -> bool:
    """Whether something looks for the operations themselves, and not for their result alone.

    A graph that is compiled or traced, a subclass of tensors, a transform of ``torch.func``,
    forward-mode differentiation.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    if any(type(t) not in {Tensor, torch.nn.Parameter} for t in tensors):
        return True
    return transformed() or any(map(_has_tangent, tensors))


def _has_tangent(tensor: Tensor) -> bool:
    """Whether forward-mode differentiation goes through it."""
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


Statistics = Callable[..., tuple[Tensor, ...]]
"""From the tensors (N, C, S) and (N, S) of some items to sums over these items, each (N, C)."""
StatisticsGradient = Callable[..., Tensor]
"""From the same tensors and the derivatives of a loss in the sums: its derivative in the first."""


def sum_swept(
    statistics: Statistics,
    tensors: Sequence[Tensor],
    *,
    gradient: StatisticsGradient | None = None,
) -> tuple[Tensor, ...]:
    """Sums over the items of each sample and class, in blocks that stay in the cache.

    What an overlap (Dice, Jaccard, Tversky) is made of. The blocks are gone through once for the
    sums and once for the gradient; nothing is kept in between.

    Args:
        statistics: the formula, for any number of items of any number of samples.
        tensors: what it takes; the first is (N, C, S), the others are (N, C, S) or (N, S).
        gradient: the derivative in the first tensor, called with the tensors and then the
            derivatives in the sums, by a formula that is faster than autograd.

    Returns:
        The sums, each (N, C).
    """
    tensors = tuple(tensors)
    if not worth_a_sweep(tensors):
        return statistics(*tensors)
    sums: tuple[Tensor, ...] = _SweptStatistics.apply(  # type: ignore[no-untyped-call]
        statistics, gradient, *tensors
    )
    return sums


class _SweptStatistics(torch.autograd.Function):
    """Sums over blocks; the gradient computes each block once more."""

    @staticmethod
    def forward(
        ctx: Any,
        statistics: Statistics,
        gradient: StatisticsGradient | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.statistics, ctx.gradient = statistics, gradient
        ctx.save_for_backward(*tensors)
        sums: list[Tensor] = []
        for index in blocks(tensors[0]):
            parts = statistics(*(tensor[index] for tensor in tensors))
            if not sums:
                samples = tensors[0].shape[0]
                sums = [part.new_zeros(samples, *part.shape[1:]) for part in parts]
            for total, part in zip(sums, parts, strict=True):
                total[index[0]] += part
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        twice = torch.is_grad_enabled()  # the gradient itself is to be differentiated
        if twice or any(map(_are_many, grads)):
            with torch.enable_grad():
                tensors = _views(tensors)
                sums = ctx.statistics(*tensors)
            found = _slopes(sums, [tensors[i] for i in wanted], grads, create_graph=twice)
        else:
            found = _statistics_gradients(ctx, tensors, wanted, grads)
        by_place = dict(zip(wanted, found, strict=True))
        return (None, None, *(by_place.get(i) for i in range(len(tensors))))


def _statistics_gradients(
    ctx: Any, tensors: Sequence[Tensor], wanted: Sequence[int], grads: Sequence[Tensor]
) -> Sequence[Tensor]:
    gradients = [torch.empty_like(tensors[i]) for i in wanted]
    for index in blocks(tensors[0]):
        block = [tensor[index] for tensor in tensors]
        upstream = [grad[index[0]] for grad in grads]
        if ctx.gradient is not None and wanted == [0]:
            gradients[0][index] = ctx.gradient(*block, *upstream)
            continue
        with torch.enable_grad():
            leaves = [t.detach() for t in block]
            for i in wanted:
                leaves[i].requires_grad_()
            sums = ctx.statistics(*leaves)
        slopes = _slopes(sums, [leaves[i] for i in wanted], upstream)
        for gradient, slope in zip(gradients, slopes, strict=True):
            gradient[index] = slope
    return gradients


def _slopes(
    sums: Sequence[Tensor],
    leaves: Sequence[Tensor],
    upstream: Sequence[Tensor],
    *,
    create_graph: bool = False,
) -> Sequence[Tensor]:
    """The gradients of sums of which some may be constant, such as a count of labels."""
    live = [(total, grad) for total, grad in zip(sums, upstream, strict=True) if total.grad_fn]
    return torch.autograd.grad(
        [total for total, _ in live],
        leaves,
        [grad for _, grad in live],
        create_graph=create_graph,
        materialize_grads=True,
    )
