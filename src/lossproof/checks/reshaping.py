"""A `view` where a `permute` was needed: it keeps the numbers in memory and mixes the axes.

`[N, C, H, W]` viewed as `[-1, C]` has rows of `C` neighbouring pixels, not of the `C` channels of
one pixel. The shapes tell what was meant, and a joint permutation of the positions whether it
matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.trace import Operation, tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Tensor = torch.Tensor
RESHAPES = frozenset({"view", "reshape"})
SPATIAL = frozenset(
    """
    conv1d conv2d conv3d conv_transpose2d unfold avg_pool1d avg_pool2d avg_pool3d max_pool1d
    max_pool2d max_pool3d interpolate pad diff roll fft2 rfft2 stft grid_sample pixel_shuffle
    cumsum cumprod logcumsumexp
    """.split()
)


def mixing(case: Examination) -> tuple[Operation, int] | None:
    """The reshape that mixes axes, and the axis of its operand that was meant to stay whole."""
    for operation in case.trace.operations:
        if operation.name not in RESHAPES or operation.inside is not None:
            continue
        operand = next(tensors_in(operation.args), None)
        if operand is None or not isinstance(operation.out, Tensor):
            continue
        axis = mixed_axis(tuple(operand.shape), tuple(operation.out.shape))
        if axis is not None and operation.inputs & set(case.inputs.differentiable):
            return operation, axis
    return None


def mixed_axis(before: Sequence[int], after: Sequence[int]) -> int | None:
    """The axis that a reshape puts elsewhere without moving its numbers, if it does.

    Example:
        >>> mixed_axis((2, 5, 6, 6), (72, 5)), mixed_axis((2, 6, 6, 5), (72, 5))
        (1, None)
        >>> mixed_axis((4, 7, 3), (4, 3, 7)), mixed_axis((4, 7, 3), (4, 21))
        (2, None)
    """
    if len(before) < 3 or len(after) < 2 or math.prod(before) == 0:
        return None
    last = len(before) - 1
    target = after[-1]
    if target == before[last] or target == 1:
        return None
    middle = [i for i in range(1, last) if before[i] == target]
    if len(middle) != 1:
        return None
    axis = middle[0]
    if sorted(after) == sorted(before) or _merges_the_rest(before, after, axis):
        return last if sorted(after) == sorted(before) and len(before) == 3 else axis
    return None


def _merges_the_rest(before: Sequence[int], after: Sequence[int], axis: int) -> bool:
    """Whether the result is the other axes, some of them merged, and this one last."""
    rest = [size for i, size in enumerate(before) if i != axis]
    lead = list(after[:-1])
    position = 0
    for size in lead:
        merged = 1
        while position < len(rest) and merged < size:
            merged *= rest[position]
            position += 1
        if merged != size:
            return False
    return all(size == 1 for size in rest[position:])


def permuted_positions(case: Examination, axis: int) -> tuple[Any, ...] | None:
    """The inputs with their positions in another order, alike in all of them.

    Args:
        case: the examination.
        axis: the axis of the prediction along which the classes or features lie.
    """
    inputs = case.small
    if len(inputs.differentiable) < 1:
        return None
    shape = inputs.values[inputs.differentiable[0]].shape
    if len(shape) < 3 or not 0 < axis < len(shape):
        return None
    positions = [size for i, size in enumerate(shape) if i not in (0, axis)]
    count = math.prod(positions)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(27_182))
    changed, moved = [], 0
    for value in inputs.values:
        if isinstance(value, Tensor) and value.dim() >= 2:
            own = _axes_of_positions(tuple(value.shape), tuple(shape), axis)
            if own is None:
                return None
            moved += 1
            changed.append(_permuted(value.detach(), own, order))
        else:
            changed.append(value)
    return tuple(changed) if moved else None


def _axes_of_positions(
    shape: tuple[int, ...], prediction: tuple[int, ...], axis: int
) -> list[int] | None:
    rest = [i for i in range(len(prediction)) if i not in (0, axis)]
    if len(shape) == len(prediction) and all(shape[i] == prediction[i] for i in rest):
        return rest
    without = [size for i, size in enumerate(prediction) if i != axis]
    return list(range(1, len(shape))) if list(shape) == without else None


def _permuted(value: Tensor, axes: list[int], order: Tensor) -> Tensor:
    first = [i for i in range(value.dim()) if i not in axes]
    arranged = value.permute(*first, *axes)
    flat = arranged.reshape(*[value.shape[i] for i in first], -1)
    turned = flat.index_select(flat.dim() - 1, order.to(value.device)).reshape(arranged.shape)
    back = [0] * value.dim()
    for place, i in enumerate([*first, *axes]):
        back[i] = place
    return turned.permute(*back).contiguous()
