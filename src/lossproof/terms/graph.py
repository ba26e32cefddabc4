"""The recorded computation behind the terms, read from autograd's own graph.

Nothing is traced and no hook is set: the graph that a forward pass leaves behind says which term
depends on what, where the terms part, and which operations lie between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lossproof.errors import UnsupportedGraphError

Tensor = torch.Tensor
Node = Any
"""A node of autograd's graph (``torch.autograd.graph.Node``; its saved tensors are untyped)."""


@dataclass
class Graph:
    """The nodes behind some terms, each with the set of terms that depend on it.

    Attributes:
        roots: for each term the node that computed it and its output number, or ``None`` for a
            constant.
        order: every node, a consumer before its producers.
        masks: for each node the terms that depend on it, one bit for each.
        consumers: for each node the nodes that use its outputs: consumer, position among the
            consumer's inputs, and number of the output.
        leaves: the leaf tensors that the terms depend on, by their identity, with their nodes.
    """

    roots: list[GradientEdge | None]
    order: list[Node] = field(default_factory=list)
    masks: dict[Node, int] = field(default_factory=dict)
    consumers: dict[Node, list[tuple[Node, int, int]]] = field(default_factory=dict)
    leaves: dict[int, tuple[Tensor, Node]] = field(default_factory=dict)

    @cached_property
    def present(self) -> list[int]:
        """The terms that have a graph."""
        return [term for term, root in enumerate(self.roots) if root is not None]

    @cached_property
    def everyone(self) -> int:
        """The mask of all the terms that have a graph."""
        return sum(1 << term for term in self.present)

    def mask_of(self, leaf: Tensor) -> int:
        """The terms that depend on a leaf."""
        found = self.leaves.get(id(leaf))
        return 0 if found is None else self.masks[found[1]]


def read_graph(terms: Sequence[Tensor]) -> Graph:
    """Read the graph behind the terms.

    Raises:
        UnsupportedGraphError: it holds a reentrant activation checkpoint.
    """
    graph = Graph([get_gradient_edge(term) if term.requires_grad else None for term in terms])
    inputs: dict[Node, tuple[tuple[Node | None, int], ...]] = {}
    graph.order = _consumers_first([root.node for root in graph.roots if root is not None], inputs)
    masks, consumers = dict.fromkeys(graph.order, 0), graph.consumers
    graph.masks = masks
    for bit, root in enumerate(graph.roots):
        if root is not None:
            masks[root.node] |= 1 << bit
    for node in graph.order:
        mask, children = masks[node], inputs[node]
        for position, (child, number) in enumerate(children):
            if child is not None:
                masks[child] |= mask
                consumers.setdefault(child, []).append((node, position, number))
        if not children and (variable := getattr(node, "variable", None)) is not None:
            graph.leaves[id(variable)] = (variable, node)
        elif isinstance(node, BackwardCFunction):  # written in Python
            _refuse_reentrant(node)
    return graph


def _consumers_first(
    roots: Sequence[Node], inputs: dict[Node, tuple[tuple[Node | None, int], ...]]
) -> list[Node]:
    """Every node behind the roots, a consumer before what it consumes, depth first.

    Args:
        roots: where the search begins.
        inputs: is filled with what each node consumes, which costs something to ask for.
    """
    finished: list[Node] = []
    done: set[Node] = set()
    for root in roots:
        stack = [root]
        while stack:
            node = stack[-1]
            if node not in inputs:
                children = inputs[node] = node.next_functions
                stack += [child for child, _ in children if child is not None]
                continue
            stack.pop()
            if node not in done:
                done.add(node)
                finished.append(node)
    finished.reverse()
    return finished


def _refuse_reentrant(node: Node) -> None:
    if node.name() == "CheckpointFunctionBackward":
        raise UnsupportedGraphError(
            "a part of the model runs under torch.utils.checkpoint with use_reentrant=True, which "
            "hides its parameters from everything but a plain backward(): the gradients of single "
            "terms would silently be zero there; pass use_reentrant=False to checkpoint"
        )


def is_single(mask: int) -> bool:
    """Whether exactly one term is in a mask."""
    return mask != 0 and not has_several(mask)


def has_several(mask: int) -> bool:
    """Whether two terms or more are in a mask."""
    return mask & (mask - 1) != 0
