"""Terms that live on different rows of one batch: one backward pass holds the gradients of all.

Where a batch goes through a network row by row, and each term reads rows of its own, the cotangent
of the plain sum at any layer holds the cotangents of the single terms side by side. Whether that is
so is read from the graph: every operation between the layers and the place where the terms part
must be known to leave the rows apart. One that is not (a batch norm, an attention over the batch)
ends the matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lossproof.terms.graph import Graph, Node, has_several
from lossproof.terms.layers import is_view_of_leaf

Tensor = torch.Tensor

_ENTRYWISE = frozenset(
    f"{name}Backward0"
    for name in (
        "Abs Add Celu Clamp ClampMax ClampMin Clone Cos Cosh Div Elu Erf Exp Expm1 Gelu "
        "Hardsigmoid Hardswish Hardtanh LeakyRelu Log Log1P LogSigmoid Mish Mul NativeDropout Neg "
        "Pow Reciprocal Relu Rsqrt Rsub Sigmoid SigmoidBackward Silu Sin Sinh Softplus "
        "SoftplusBackward Sqrt Sub Tan Tanh TanhBackward ToCopy Where"
    ).split()
)
"""Operations that treat every entry by itself."""

_ROW_BY_ROW = frozenset(
    f"{name}Backward0"
    for name in (
        "AdaptiveAvgPool2D AvgPool2D Convolution MaxPool2DWithIndices MkldnnConvolution "
        "NativeGroupNorm ReflectionPad2D UpsampleNearest2D"
    ).split()
)
"""Operations whose first axis is the batch of their first input, on which nothing is mixed."""

_PRODUCTS_OF_BATCHES = ("BmmBackward0", "ScaledDotProductFlashAttentionForCpuBackward0")
"""Operations whose first axis is the batch of all their inputs."""

_ALONG_AN_AXIS = frozenset(
    {
        "CatBackward0",
        "LogSoftmaxBackward0",
        "MeanBackward1",
        "SelectBackward0",
        "SliceBackward0",
        "SoftmaxBackward0",
        "SplitBackward0",
        "SplitWithSizesBackward0",
        "SqueezeBackward1",
        "SumBackward1",
        "UnbindBackward0",
        "UnsqueezeBackward0",
    }
)
"""Operations along an axis (``dim``), which must not be the first."""

_PARTS = frozenset({"SplitBackward0", "SplitWithSizesBackward0", "UnbindBackward0"})
"""Operations with an output for each part of an axis."""

_RESHAPES = frozenset({"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"})


@dataclass(frozen=True)
class Segments:
    """Which rows of the batch are whose.

    Attributes:
        owners: the term and the number of rows of each segment, in the order of the rows. Rows that
            no term reads have a cotangent of zero, and are counted with those before them.
        batch: the number of rows.
    """

    owners: tuple[tuple[int, int], ...]
    batch: int

    def stretched(self, rows: int) -> list[tuple[int, int]]:
        """The segments of a matrix in which each row of the batch has become several."""
        each = rows // self.batch
        return [(term, length * each) for term, length in self.owners]


def find_segments(graph: Graph) -> Segments | None:
    """The segments on which the terms live, or ``None`` where they share rows."""
    if not has_several(graph.everyone):
        return None
    readings = list(_readings(graph))
    if not readings or any(rows is None for _, rows, _ in readings):
        return None
    batches = {batch for _, _, batch in readings}
    if len(batches) != 1:
        return None
    batch = batches.pop()
    if batch == 0:
        return None
    owners = _owners([(term, rows) for term, rows, _ in readings if rows is not None], batch)
    if owners is None or not _rows_stay_apart(graph, batch):
        return None
    return Segments(owners, batch)


def _readings(graph: Graph) -> Iterator[tuple[int, range | None, int]]:
    """How single terms read the shared part: the term, its rows (``None``: all), of how many."""
    everyone = graph.everyone
    for root in graph.roots:
        if root is not None and graph.masks[root.node] == everyone:
            yield 0, None, 0
    for node, uses in graph.consumers.items():
        mask = graph.masks[node]
        if not has_several(mask) or is_view_of_leaf(node):
            continue
        if mask != everyone:
            yield 0, None, 0
            continue
        for consumer, _, number in uses:
            theirs = graph.masks[consumer]
            if theirs != everyone:
                if has_several(theirs):
                    yield 0, None, 0
                else:
                    rows, batch = _rows_read(node, number, consumer)
                    yield theirs.bit_length() - 1, rows, batch


def _rows_read(node: Node, number: int, consumer: Node) -> tuple[range | None, int]:
    """The rows of the batch that a consumer reads from an output of a shared node."""
    name = node.name()
    if name in _PARTS:
        if _signed(node._saved_dim) != 0:
            return None, 0
        lengths = _lengths(node)
        start = sum(lengths[:number])
        return range(start, start + lengths[number]), sum(lengths)
    shape = node._input_metadata[number].shape
    if not shape:
        return None, 0
    size = int(shape[0])
    if consumer.name() == "SliceBackward0" and _signed(consumer._saved_dim) == 0:
        step = int(consumer._saved_step)
        start, end, _ = slice(_signed(consumer._saved_start), _signed(consumer._saved_end)).indices(
            size
        )
        return range(start, end, step), size
    if consumer.name() == "SelectBackward0" and _signed(consumer._saved_dim) == 0:
        at = _signed(consumer._saved_index) % size
        return range(at, at + 1), size
    return None, 0


def _lengths(node: Node) -> list[int]:
    if node.name() == "UnbindBackward0":
        return [1] * len(node._input_metadata)
    size = int(node._saved_self_sym_sizes[0])
    if node.name() == "SplitWithSizesBackward0":
        return [int(length) for length in node._saved_split_sizes]
    each = max(int(node._saved_split_size), 1)  # nothing may be split into parts of nothing
    return [min(each, size - start) for start in range(0, size, each)] or [0]


def _owners(
    readings: Sequence[tuple[int, range]], batch: int
) -> tuple[tuple[int, int], ...] | None:
    """The segments in the order of the rows, or ``None`` where two terms read the same row."""
    owner_of_row = [-1] * batch
    for term, rows in readings:
        for row in rows:
            if owner_of_row[row] not in (-1, term):
                return None
            owner_of_row[row] = term
    segments: list[list[int]] = []
    for owner in owner_of_row:
        if segments and owner in (-1, segments[-1][0]):
            segments[-1][1] += 1
        elif owner == -1:
            segments.append([readings[0][0], 1])
        else:
            segments.append([owner, 1])
    return tuple((term, length) for term, length in segments)


def _rows_stay_apart(graph: Graph, batch: int) -> bool:
    """Whether no operation of the shared part mixes rows of the batch."""
    everyone = graph.everyone
    for node in graph.order:
        if graph.masks[node] == everyone and node.next_functions and not is_view_of_leaf(node):
            if not _keeps_rows(node, batch) and not _deals_out_rows(graph, node):
                return False
    return True


def _deals_out_rows(graph: Graph, node: Node) -> bool:
    """Whether this is the operation that gives each term its rows, as `_rows_read` has seen."""
    if node.name() not in _PARTS or _signed(node._saved_dim) != 0:
        return False
    return all(graph.masks[consumer] != graph.everyone for consumer, _, _ in graph.consumers[node])


def _keeps_rows(node: Node, batch: int) -> bool:
    """Whether the rows of the batch lie one after the other before and after this operation."""
    name = node.name()
    inputs = [
        tuple(child._input_metadata[number].shape)
        for child, number in node.next_functions
        if child is not None and not is_view_of_leaf(child)
    ]
    leaves = [
        position
        for position, (child, _) in enumerate(node.next_functions)
        if child is not None and is_view_of_leaf(child)
    ]
    shapes = [*inputs, *(tuple(one.shape) for one in node._input_metadata)]
    if any(not shape or int(shape[0]) % batch for shape in shapes):
        return False
    if name == "AddmmBackward0":
        # A computed addend may have an entry for each row, which goes to a column of every row.
        return set(leaves) <= {0, 2} and _is_leaf_side(node, 0) and _is_leaf_side(node, 2)
    if name == "MmBackward0":
        return leaves == [1]
    if name == "NativeLayerNormBackward0":
        fixed = set(leaves) <= {1, 2} and _others_are_fixed(node)
        return fixed and len(node._saved_normalized_shape) < len(inputs[0])
    if leaves:
        return False
    if name in _RESHAPES:
        return True
    if name in _ENTRYWISE:
        return len(set(shapes)) == 1
    if len({int(shape[0]) for shape in shapes}) != 1:
        return False
    return (
        name in _PRODUCTS_OF_BATCHES
        or (name in _ROW_BY_ROW and _others_are_fixed(node))
        or (name in _ALONG_AN_AXIS and _not_the_first(node, inputs))
        or (_is_turn(node) and _first_stays(node, len(inputs[0])))
    )


def _others_are_fixed(node: Node) -> bool:
    """Weights that are computed may have as many rows as the batch, but they are no samples."""
    return all(child is None or is_view_of_leaf(child) for child, _ in node.next_functions[1:])


def _is_leaf_side(node: Node, position: int) -> bool:
    child = node.next_functions[position][0]
    return child is None or is_view_of_leaf(child)


def _not_the_first(node: Node, inputs: Sequence[tuple[int, ...]]) -> bool:
    saved = node._saved_dim
    axes = saved if isinstance(saved, list | tuple) else [saved]
    return bool(inputs) and all(_signed(axis) % len(inputs[0]) != 0 for axis in axes)


def _is_turn(node: Node) -> bool:
    return node.name() in ("TransposeBackward0", "PermuteBackward0")


def _first_stays(node: Node, dims: int) -> bool:
    if node.name() == "TransposeBackward0":
        return 0 not in (_signed(node._saved_dim0) % dims, _signed(node._saved_dim1) % dims)
    return int(node._saved_dims[0]) % dims == 0


def _signed(value: int) -> int:
    """A number that the graph may hold as the unsigned one of 64 bits."""
    value = int(value)
    return value - (1 << 64) if value >= 1 << 63 else value
