"""The gradients of terms on different rows of a batch, from one backward pass of their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.autograd.graph import GradientEdge

from lossproof.terms.factors import Loan, SegmentFactors
from lossproof.terms.graph import Graph, Node, is_single
from lossproof.terms.held import Group, OfSingleTerms, Rows
from lossproof.terms.layers import (
    BiasUse,
    MatrixUse,
    NormalisationUse,
    bias_uses,
    gives_sparse_gradients,
    matrix_uses,
    normalisation_uses,
)
from lossproof.terms.owners import Owners
from lossproof.terms.parameters import Parameters
from lossproof.terms.segments import Segments, find_segments

Tensor = torch.Tensor
RowsUse = BiasUse | NormalisationUse


@dataclass
class SegmentPlan:
    """Which gradients are taken apart by rows.

    Attributes:
        segments: whose the rows are.
        matrices: for the positions of matrices their uses.
        vectors: for the positions of biases and of what scales a norm their uses.
        own: for the positions of parameters of a single term that term.
    """

    segments: Segments
    matrices: dict[int, list[MatrixUse]] = field(default_factory=dict)
    vectors: dict[int, Sequence[RowsUse]] = field(default_factory=dict)
    own: dict[int, int] = field(default_factory=dict)


def segment_plan(graph: Graph, parameters: Parameters) -> SegmentPlan | None:
    """How to take the gradients apart, or ``None`` where terms or parameters do not allow it."""
    segments = find_segments(graph)
    if segments is None:
        return None
    plan = SegmentPlan(segments)
    for position, tensor in enumerate(parameters.tensors):
        mask = graph.mask_of(tensor)
        if is_single(mask):
            if gives_sparse_gradients(graph, tensor):
                return None
            plan.own[position] = mask.bit_length() - 1
        elif mask and (mask != graph.everyone or not _taken_apart(plan, graph, position, tensor)):
            return None
    return plan


def _taken_apart(plan: SegmentPlan, graph: Graph, position: int, tensor: Tensor) -> bool:
    everyone = graph.everyone
    matrices = matrix_uses(graph, tensor)
    if matrices:
        plan.matrices[position] = matrices
        kinds = {(use.cotangent_left, use.fixed, use.moving) for use in matrices}
        fitting = all(
            graph.masks[use.node] == everyone
            and not use.flipped
            and use.rows % plan.segments.batch == 0
            for use in matrices
        )
        return fitting and len(kinds) == 1
    vectors = bias_uses(graph, tensor) or normalisation_uses(graph, tensor)
    if vectors:
        plan.vectors[position] = vectors
        return all(graph.masks[use.node] == everyone for use in vectors)
    return False


def gradients_by_segments(
    plan: SegmentPlan,
    graph: Graph,
    terms: Sequence[Tensor],
    parameters: Parameters,
    start: Tensor,
    retain_graph: bool,
    memory: Loan,
) -> tuple[list[Group], list[list[bool]]]:
    """One backward pass, and the gradients of every term.

    Returns:
        The gradients, and for each term and parameter whether the one depends on the other.
    """
    fixed = {
        position: [use.saved_factor() for use in uses] for position, uses in plan.matrices.items()
    }
    edges: dict[Node, GradientEdge] = {}
    for uses in [*plan.matrices.values(), *plan.vectors.values()]:
        edges.update((use.node, use.edge) for use in uses)
    present = [terms[term] for term in graph.present]
    # What the rows of a norm add needs its saved input, which the pass may free: kept till the end.
    keep = retain_graph or any(
        isinstance(use, NormalisationUse) for uses in plan.vectors.values() for use in uses
    )
    inputs = [*edges.values(), *(parameters.tensors[position] for position in plan.own)]
    found: Sequence[Tensor | None] = torch.autograd.grad(
        present,
        inputs,  # type: ignore[arg-type]  # tensors and edges may be mixed
        grad_outputs=[start.to(term.dtype).reshape(term.shape) for term in present],
        retain_graph=keep,
        allow_unused=True,
    )
    cotangents = dict(zip(edges, found, strict=False))
    own = dict(zip(plan.own, found[len(edges) :], strict=True))
    owners = _AllOwners(plan.segments, len(terms), present[0].device)
    groups: list[Group] = [
        *_matrix_groups(plan, parameters, fixed, cotangents, owners, memory),
        *_vector_groups(plan, parameters, cotangents, owners),
        *_own_groups(plan, graph, own),
    ]
    reached = [[False] * len(parameters) for _ in graph.roots]
    for group in groups:
        for position in group.positions:
            for term in graph.present:
                alone = plan.own.get(position)
                reached[term][position] = alone is None or alone == term
    return groups, reached


def _matrix_groups(
    plan: SegmentPlan,
    parameters: Parameters,
    fixed: dict[int, list[Tensor]],
    cotangents: dict[Node, Tensor | None],
    owners: _AllOwners,
    memory: Loan,
) -> list[Group]:
    groups: list[Group] = []
    for position, uses in plan.matrices.items():
        left, right, rows = [], [], []
        for use, factor in zip(uses, fixed[position], strict=True):
            cotangent = cotangents[use.node]
            if cotangent is not None:
                left.append(factor)
                right.append(use.moving_factor(cotangent))
                rows.append(use.rows)
        if left:
            groups.append(
                SegmentFactors(
                    position,
                    parameters.tensors[position],
                    left[0] if len(left) == 1 else torch.cat(left),
                    right[0] if len(right) == 1 else torch.cat(right),
                    owners(*rows),
                    uses[0].cotangent_left,
                    memory,
                )
            )
    return groups


def _vector_groups(
    plan: SegmentPlan,
    parameters: Parameters,
    cotangents: dict[Node, Tensor | None],
    owners: _AllOwners,
) -> list[Group]:
    sums: dict[int, Tensor] = {}
    for position, uses in plan.vectors.items():
        tensor = parameters.tensors[position]
        for use in uses:
            cotangent = cotangents[use.node]
            if cotangent is not None:
                of_rows = use.of_rows(cotangent).reshape(-1, tensor.numel())
                part = owners(of_rows.shape[0]).sums(of_rows)
                sums[position] = sums[position] + part if position in sums else part
    if not sums:
        return []
    tensors = [parameters.tensors[position] for position in sums]
    return [Rows(list(sums), tensors, torch.cat(list(sums.values()), 1))]


class _AllOwners:
    """Whose the rows are, for each number of rows that a layer may have."""

    def __init__(self, segments: Segments, count: int, device: torch.device) -> None:
        self._segments, self._count, self._device = segments, count, device
        self._known: dict[tuple[int, ...], Owners] = {}

    def __call__(self, *rows: int) -> Owners:
        if rows not in self._known:
            owners = [one for part in rows for one in self._segments.stretched(part)]
            self._known[rows] = Owners(owners, self._count, self._device)
        return self._known[rows]


def _own_groups(plan: SegmentPlan, graph: Graph, own: dict[int, Tensor | None]) -> list[Group]:
    there = {position: part for position, part in own.items() if part is not None}
    if not there:
        return []
    terms = [plan.own[position] for position in there]
    return [OfSingleTerms(list(there), list(there.values()), terms, len(graph.roots))]
