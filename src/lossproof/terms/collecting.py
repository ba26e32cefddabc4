"""Takes the outcome of each backward pass to where it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.autograd.graph import GradientEdge

from lossproof.terms.factors import SegmentFactors, SharedFactors
from lossproof.terms.graph import Graph, Node, is_single
from lossproof.terms.held import Group, OfSingleTerms, Rows, SparseRows, as_real, real_count
from lossproof.terms.layers import MatrixUse, gives_sparse_gradients
from lossproof.terms.owners import Owners
from lossproof.terms.parameters import Parameters
from lossproof.terms.plan import Plan
from lossproof.terms.statistics import StatisticsTable
from lossproof.terms.workspace import Workspace, loan

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
        workspace: where buffers come from; without it the memory is the caller's for good.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        parameters: Parameters,
        table: StatisticsTable,
        keep: bool,
        workspace: Workspace | None,
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
        self._by_mask: dict[int, tuple[list[Node], list[int]]] = {}
        for node in self._edges:
            self._by_mask.setdefault(graph.masks[node], ([], []))[0].append(node)
        for position in plan.dense:
            self._by_mask.setdefault(self._masks[position], ([], []))[1].append(position)
        self._stacks: dict[Node, Tensor] = {}
        self._buffers: list[Tensor] = []
        self._workspace = workspace
        self._open: dict[int, dict[int, Tensor]] = {}
        self._rows: list[Rows] | None = None
        self._own: dict[int, tuple[Tensor, int]] = {}
        self._sparse: dict[int, list[Tensor | None]] = {
            position: [None] * len(graph.roots)
            for position in plan.dense
            if gives_sparse_gradients(graph, parameters.tensors[position])
        }

    def wanted_of(self, term: int, *, shared: bool | None = None) -> Inputs:
        """What a pass of a term must bring.

        Args:
            term: the term.
            shared: only what lies behind all terms, or only what does not.
        """
        everyone = self.graph.everyone
        nodes: list[Node] = []
        positions: list[int] = []
        for mask, (their_nodes, their_positions) in self._by_mask.items():
            if mask >> term & 1 and (shared is None or (mask == everyone) == shared):
                nodes += their_nodes
                positions += their_positions
        edges = [self._edges[node] for node in nodes]
        return Inputs(nodes, positions, [*edges, *(self._tensors[at] for at in positions)])

    def take(self, term: int, inputs: Inputs, found: Sequence[Tensor | None]) -> None:
        """Take what a pass of a term brought."""
        for node, cotangent in zip(inputs.nodes, found, strict=False):
            row = self._stack(term, node, cotangent)
            if row is None:
                continue
            if cotangent is None:
                row[self._members(node).index(term)].zero_()
            else:
                row[self._members(node).index(term)] = cotangent
                self._reach(term, node)
        self._take_dense(term, inputs, found[len(inputs.nodes) :])

    def take_together(self, inputs: Inputs, found: Sequence[Tensor | None]) -> None:
        """Take what one pass brought for all terms that have a graph, stacked."""
        for node, cotangents in zip(inputs.nodes, found, strict=False):
            if cotangents is not None:
                self._stacks[node] = cotangents
                for term in self.graph.present:
                    self._reach(term, node)
        dense = found[len(inputs.nodes) :]
        for row, term in enumerate(self.graph.present):
            self._take_dense(term, inputs, [None if part is None else part[row] for part in dense])

    def _take_dense(self, term: int, inputs: Inputs, dense: Sequence[Tensor | None]) -> None:
        for position, gradient in zip(inputs.positions, dense, strict=True):
            if gradient is not None:
                self._open.setdefault(term, {})[position] = gradient
                self.reached[term][position] = True

    def _reach(self, term: int, node: Node) -> None:
        for position in self._users[node]:
            self.reached[term][position] = True

    def _members(self, node: Node) -> list[int]:
        """The terms that lie behind a product."""
        mask = self.graph.masks[node]
        return [term for term in self.graph.present if mask >> term & 1]

    def _stack(self, term: int, node: Node, like: Tensor | None) -> Tensor | None:
        """The stacked cotangents at a product, which begin with the first that is there."""
        if node not in self._stacks and like is not None:
            members = self._members(node)
            stack = self._buffer((len(members), *like.shape), like)
            if term != members[0]:  # those before it did not arrive
                stack.zero_()
            self._stacks[node] = stack
        return self._stacks.get(node)

    def _buffer(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return loan(self._workspace, self._buffers)(shape, like)

    def close(self, term: int) -> None:
        """All passes of a term have been made: take the statistics, and keep what is needed."""
        gradients = self._open.pop(term, {})
        self._table.add(term, list(gradients), list(gradients.values()))
        if self._keep:
            self._file(term, gradients)

    def _file(self, term: int, gradients: dict[int, Tensor]) -> None:
        for position, gradient in list(gradients.items()):
            alone = is_single(self._masks[position])
            if gradient.is_sparse and position not in self._sparse:  # as a user's Function may give
                if alone or self._rows is None:
                    self._sparse[position] = [None] * len(self.graph.roots)
                else:
                    gradients[position] = gradient.to_dense()
            if position in self._sparse:
                self._sparse[position][term] = gradients.pop(position)
            elif alone:
                self._own[position] = (gradients.pop(position), term)
        for rows in self._all_rows():
            rows.fill(term, [gradients.get(position) for position in rows.positions])

    def _all_rows(self) -> list[Rows]:
        """The dense gradients that several terms have, a matrix for each dtype and device."""
        if self._rows is None:
            members: dict[tuple[torch.dtype, torch.device], list[int]] = {}
            for position in self.plan.dense:
                tensor = self._tensors[position]
                if not is_single(self._masks[position]) and position not in self._sparse:
                    members.setdefault((tensor.dtype, tensor.device), []).append(position)
            self._rows = []
            for positions in members.values():
                tensors = [self._tensors[position] for position in positions]
                shape = (len(self.graph.roots), sum(real_count(tensor) for tensor in tensors))
                matrix = self._buffer(shape, as_real(tensors[0].detach()))
                self._rows.append(Rows(positions, tensors, matrix))
        return self._rows

    @property
    def buffers(self) -> list[Tensor]:
        """The buffers of the workspace that were taken."""
        return self._buffers

    def groups(self) -> list[Group]:
        """The gradients of all terms, after all passes."""
        found: list[Group] = []
        if self._own:
            own, terms = zip(*self._own.values(), strict=True)
            found.append(OfSingleTerms(list(self._own), own, terms, len(self.graph.roots)))
        if self._keep:
            for rows in self._all_rows():
                for term, root in enumerate(self.graph.roots):
                    if root is None:
                        rows.matrix[term].zero_()
                found.append(rows)
        for position, kept in self._sparse.items():
            if any(part is not None for part in kept):
                found.append(SparseRows(position, kept, self._tensors[position]))
        for position, uses in self.plan.factored.items():
            group = self._factored(position, uses)
            if group is not None:
                found.append(group)
        return found

    def _factored(self, position: int, uses: Sequence[MatrixUse]) -> Group | None:
        if not any(self.reached[term][position] for term in range(len(self.reached))):
            return None
        if all(is_single(self.graph.masks[use.node]) for use in uses):
            return self._by_segments(position, uses)
        there = [n for n, use in enumerate(uses) if use.node in self._stacks]
        fixed = [self._fixed[position][n] for n in there]
        stacks = [self._stacks[uses[n].node] for n in there]
        parts = [uses[n].moving_factor(stack) for n, stack in zip(there, stacks, strict=True)]
        return SharedFactors(
            position,
            self._tensors[position],
            fixed[0] if len(fixed) == 1 else torch.cat(fixed),
            parts[0] if len(parts) == 1 else torch.cat(parts, 1),
            self._members(uses[0].node),
            len(self.graph.roots),
            uses[0].cotangent_left,
        )

    def _by_segments(self, position: int, uses: Sequence[MatrixUse]) -> Group:
        """Each product belongs to one term: its rows are a segment."""
        fixed, cotangents, owners = [], [], []
        for use, factor in zip(uses, self._fixed[position], strict=True):
            term = self.graph.masks[use.node].bit_length() - 1
            # Both factors of a product may be parameters: the other one needs it, too.
            stack = self._stacks.get(use.node)
            if stack is not None:
                fixed.append(factor)
                cotangents.append(use.moving_factor(stack[0]))
                owners.append((term, use.rows))
        return SegmentFactors(
            position,
            self._tensors[position],
            torch.cat(fixed),
            torch.cat(cotangents),
            Owners(owners, len(self.graph.roots), fixed[0].device),
            uses[0].cotangent_left,
            self._buffer,
        )
