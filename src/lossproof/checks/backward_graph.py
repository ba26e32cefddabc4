"""The graph of derivatives of one recorded call: which leaves a value was made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.trace import Operation

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation

Tensor = torch.Tensor
Leaves = frozenset[int]


class BackwardGraph:
    """The nodes from a loss back to its leaves.

    Args:
        found: an evaluation that was recorded and differentiated.
    """

    def __init__(self, found: Evaluation) -> None:
        self.found = found
        self._positions = {id(leaf): number for number, leaf in enumerate(found.leaves)}
        self._reached: dict[Any, Leaves] = {}
        root = None if found.value is None else found.value.grad_fn
        self.nodes: list[Any] = list(_nodes(root))

    def operands(self, node: Any) -> list[Any]:
        """The nodes that a node's differentiable operands were made by."""
        return [following for following, _ in node.next_functions if following is not None]

    def leaves(self, node: Any) -> Leaves:
        """The positions of the leaves that a node's result depends on."""
        waiting = [node]
        while waiting:
            current = waiting[-1]
            if current in self._reached:
                waiting.pop()
                continue
            unknown = [one for one in self.operands(current) if one not in self._reached]
            if unknown:
                waiting += unknown
                continue
            waiting.pop()
            own = self._positions.get(id(getattr(current, "variable", None)))
            reached = [self._reached[one] for one in self.operands(current)]
            self._reached[current] = frozenset(() if own is None else (own,)).union(*reached)
        return self._reached[node]

    def below(self, node: Any) -> Iterator[Any]:
        """A node and everything that it was made from."""
        return _nodes(node)

    def operation(self, node: Any) -> Operation | None:
        """The operation of the call that made a node."""
        return None if self.found.trace is None else self.found.trace.nodes.get(node)

    def gradient_at(self, node: Any) -> float:
        """The largest element of the gradient that arrives at the result of a node."""
        arriving: list[float] = []

        def note(gradients: Any) -> None:
            arriving.extend(float(g.abs().max()) for g in gradients if g is not None and g.numel())

        value = self.found.value
        if value is None or not self.found.leaves:
            return 0.0
        handle = node.register_prehook(note)
        try:
            torch.autograd.grad(
                value, self.found.leaves, self.found.upstream, allow_unused=True, retain_graph=True
            )
        finally:
            handle.remove()
        return max(arriving, default=0.0)


def _nodes(root: Any) -> Iterator[Any]:
    seen: set[Any] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]
