"""The part of the graph that lies behind every term: where it begins, and one pass through it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.autograd.graph import GradientEdge

from lossproof.terms.graph import Graph, Node

Tensor = torch.Tensor


def entries(graph: Graph) -> list[GradientEdge] | None:
    """Where the cotangents of the terms enter the part of the graph that they all share.

    Returns:
        The edges, or ``None`` where one lies behind another (a cotangent that enters at the first
        would be counted again at the second), and where one is a parameter that is also used
        outside that part.
    """
    everyone = graph.everyone
    found: dict[tuple[Node, int], GradientEdge] = {}
    for root in graph.roots:
        if root is not None and graph.masks[root.node] == everyone:
            found[root.node, root.output_nr] = root
    for node, uses in graph.consumers.items():
        if graph.masks[node] == everyone:
            for consumer, _, number in uses:
                if graph.masks[consumer] != everyone:
                    found[node, number] = GradientEdge(node, number)
    if any(not node.next_functions for node, _ in found):
        return None
    return None if _nested(graph, {node for node, _ in found}) else list(found.values())


def _nested(graph: Graph, doors: set[Node]) -> bool:
    """Whether a door can be reached through another."""
    behind: set[Node] = set()
    for node in graph.order:  # consumers first
        if node in behind or node in doors:
            if node in behind and node in doors:
                return True
            behind.update(child for child, _ in node.next_functions if child is not None)
    return False


def through_shared_part(
    doors: Sequence[GradientEdge],
    arriving: Sequence[Sequence[Tensor | None]],
    inputs: Sequence[Tensor | GradientEdge],
    retain_graph: bool,
) -> Sequence[Tensor | None]:
    """Send the cotangents of all terms through the shared part together.

    Args:
        doors: where they enter.
        arriving: for each term its cotangents at the doors, ``None`` for zero.
        inputs: what the gradients are wanted for.
        retain_graph: whether the shared part can be gone through again afterwards.

    Returns:
        For each input the gradients of all terms, stacked.
    """
    if not inputs:
        return ()
    stacked = []
    for door, cotangents in enumerate(zip(*arriving, strict=True)):
        like = next((part for part in cotangents if part is not None), None)
        if like is None:
            metadata = doors[door].node._input_metadata[doors[door].output_nr]
            like = torch.zeros(metadata.shape, dtype=metadata.dtype, device=metadata.device)
        stacked.append(
            torch.stack([torch.zeros_like(like) if part is None else part for part in cotangents])
        )
    return torch.autograd.grad(
        doors,
        inputs,  # type: ignore[arg-type]  # tensors and edges may be mixed
        grad_outputs=stacked,
        retain_graph=retain_graph,
        allow_unused=True,
        is_grads_batched=True,
    )
