"""Takes the outcome of each backward pass to where it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.autograd.graph import GradientEdge

from lossproof.terms.factors import SegmentFactors, SharedFactors
from lossproof.terms.graph import Graph, Node
from lossproof.terms.held import Dense, Group, OfOneTerm, SparseRows
from lossproof.terms.layers import MatrixUse
from lossproof.terms.parameters import Parameters
from lossproof.terms.plan import Plan, is_single
from lossproof.terms.statistics import StatisticsTable

Tensor = torch.Tensor


@dataclass(frozen=True)
class Inputs:
    """What a pass must bring: cotangents of products, and gradients of parameters."""

    nodes: list[Node]
    positions: list[int]
    all: list[Tensor | GradientEdge]


class Collector:
    """Keeps the gradients of each term in the form that the plan says.

    Args:
        graph: what lies behind the terms.
        plan: what stays in factors, and what is dense.
        parameters: what is differentiated by.
        table: the statistics that are taken on the way.
        keep: whether the gradients are needed afterwards; without it only statistics remain.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        parameters: Parameters,
        table: StatisticsTable,
        keep: bool,
    ) -> None:
        self.graph = graph
        self.plan = plan
        self.reached = [[False] * len(parameters) for _ in graph.roots]
        self._tensors = parameters.tensors
        self._table = table
        self._keep = keep
        self._masks = [graph.mask_of(tensor) for tensor in parameters.tensors]
        # The saved factors are fetched before the passes, the last of which frees them.
        self._fixed = {
            position: [use.saved_factor() for use in uses]
            for position, uses in plan.factored.items()
        }
        self._users: dict[Node, list[int]] = {}
        self._edges: dict[Node, GradientEdge] = {}
        for position, uses in plan.factored.items():
            for use in uses:
                self._users.setdefault(use.node, []).append(position)
                self._edges[use.node] = use.edge
        self._cotangents: dict[tuple[int, Node], Tensor] = {}
        self._open: dict[int, dict[int, Tensor]] = {}
        self._dense: dict[int, dict[int, Tensor]] = {}
        self._of_one: list[Group] = []
        self._sparse: dict[int, list[Tensor | None]] = {}

    def wanted_of(self, term: int, *, shared: bool | None = None) -> Inputs:
        """What a pass of a term must bring.

        Args:
            term: the term.
            shared: only what lies behind all terms, or only what does not.
        """
        bit, everyone = 1 << term, self.graph.everyone

        def meant(mask: int) -> bool:
            return bool(mask & bit) and (shared is None or (mask == everyone) == shared)

        nodes = [node for node in self._edges if meant(self.graph.masks[node])]
        positions = [position for position in self.plan.dense if meant(self._masks[position])]
        edges = [self._edges[node] for node in nodes]
        return Inputs(nodes, positions, [*edges, *(self._tensors[at] for at in positions)])

    def take(self, term: int, inputs: Inputs, found: Sequence[Tensor | None]) -> None:
        """Take what a pass of a term brought."""
        for node, cotangent in zip(inputs.nodes, found, strict=False):
            if cotangent is not None:
                self._cotangents[term, node] = cotangent
                for position in self._users[node]:
                    self.reached[term][position] = True
        dense = found[len(inputs.nodes) :]
        for position, gradient in zip(inputs.positions, dense, strict=True):
            if gradient is not None:
                self._open.setdefault(term, {})[position] = gradient
                self.reached[term][position] = True

    def close(self, term: int) -> None:
        """All passes of a term have been made: take the statistics, and keep what is needed."""
        gradients = self._open.pop(term, {})
        self._table.add(term, list(gradients), list(gradients.values()))
        if self._keep:
            self._file(term, gradients)

    def _file(self, term: int, gradients: dict[int, Tensor]) -> None:
        own: dict[int, Tensor] = {}
        several = self._dense.setdefault(term, {})
        for position, gradient in gradients.items():
            if gradient.is_sparse:
                kept = self._sparse.setdefault(position, [None] * len(self.graph.roots))
                kept[term] = gradient
            elif is_single(self._masks[position]):
                own[position] = gradient
            else:
                several[position] = gradient
        if own:
            count = len(self.graph.roots)
            self._of_one.append(OfOneTerm(list(own), list(own.values()), term, count))

    def groups(self) -> list[Group]:
        """The gradients of all terms, after all passes."""
        found: list[Group] = [*self._of_one]
        found += self._dense_groups()
        for position, kept in self._sparse.items():
            found.append(SparseRows(position, kept, self._tensors[position]))
        for position, uses in self.plan.factored.items():
            group = self._factored(position, uses)
            if group is not None:
                found.append(group)
        return found

    def _dense_groups(self) -> list[Group]:
        """The dense gradients that several terms have, a group for each device."""
        members: dict[torch.device, list[int]] = {}
        for position in sorted({at for gradients in self._dense.values() for at in gradients}):
            members.setdefault(self._tensors[position].device, []).append(position)
        count = len(self.graph.roots)
        return [
            Dense(
                positions,
                [self._tensors[position] for position in positions],
                [
                    [self._dense.get(term, {}).get(position) for position in positions]
                    for term in range(count)
                ],
            )
            for positions in members.values()
        ]

    def _factored(self, position: int, uses: Sequence[MatrixUse]) -> Group | None:
        if not any(self.reached[term][position] for term in range(len(self.reached))):
            return None
        if all(is_single(self.graph.masks[use.node]) for use in uses):
            return self._by_segments(position, uses)
        fixed = self._fixed[position]
        return SharedFactors(
            position,
            self._tensors[position],
            fixed[0] if len(uses) == 1 else torch.cat(fixed),
            [self._cotangent(term, uses) for term in range(len(self.graph.roots))],
            uses[0].cotangent_left,
        )

    def _cotangent(self, term: int, uses: Sequence[MatrixUse]) -> Tensor | None:
        """The cotangent of a term at the products of a matrix; zeros where it reaches a part."""
        found = [self._cotangents.get((term, use.node)) for use in uses]
        like = next((part for part in found if part is not None), None)
        if like is None:
            return None
        parts = [
            like.new_zeros((use.rows, use.moving))
            if part is None
            else _scaled(use.oriented(part), use.scale)
            for use, part in zip(uses, found, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _by_segments(self, position: int, uses: Sequence[MatrixUse]) -> Group:
        """Each product belongs to one term: its rows are a segment."""
        fixed, cotangents, owners = [], [], []
        for use, factor in zip(uses, self._fixed[position], strict=True):
            term = self.graph.masks[use.node].bit_length() - 1
            # Both factors of a product may be parameters: the other one needs it, too.
            cotangent = self._cotangents.get((term, use.node))
            if cotangent is not None:
                fixed.append(factor)
                cotangents.append(_scaled(use.oriented(cotangent), use.scale))
                owners.append((term, use.rows))
        return SegmentFactors(
            position,
            self._tensors[position],
            torch.cat(fixed),
            torch.cat(cotangents),
            owners,
            len(self.graph.roots),
            uses[0].cotangent_left,
        )


def _scaled(cotangent: Tensor, scale: float) -> Tensor:
    return cotangent if scale == 1.0 else cotangent * scale
