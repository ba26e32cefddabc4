"""How the gradient grows or dies on its way back, node by node of the replayed graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.nonfinite import node_name
from lossproof.checks.nonfinite_watch import size_of
from lossproof.checks.report import Location
from lossproof.watcher.lines import Line, nodes_from
from lossproof.watcher.record import Call
from lossproof.watcher.replay import Gradients, Replay

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Passage:
    """The gradient at one node: the largest element that arrived, and that left."""

    node: Any
    line: Line | None
    arriving: float
    leaving: float
    numbers: int
    """How many elements left."""

    @property
    def ratio(self) -> float:
        """How many times larger it left."""
        return self.leaving / self.arriving if self.arriving else 1.0

    @property
    def name(self) -> str:
        """The operation whose derivative it is; of a hand-written one, its class."""
        handwritten = getattr(type(self.node), "_forward_cls", None)
        return node_name(self.node) if handwritten is None else str(handwritten.__name__)

    @property
    def location(self) -> Location | None:
        """Where the operation was called; of a hand-written one, its ``backward``."""
        handwritten = getattr(type(self.node), "_forward_cls", None)
        if handwritten is None:
            return self.line.site.location if self.line else None
        code = inspect.unwrap(handwritten.backward).__code__
        name = f"{handwritten.__name__}.backward"
        return Location.at(code.co_filename, code.co_firstlineno, function=name)


def flow_of_gradient(replay: Replay, term: Tensor, call: Call) -> tuple[Gradients, list[Passage]]:
    """The gradient of a replayed term, and its passages in the order of the backward pass."""
    results = [new for _, new in replay.results_before(call)]
    roots = [tensor.grad_fn for tensor in (term, *results)]
    passages: list[Passage] = []

    def hook(node: Any) -> Callable[[Any, Any], None]:
        def note(leaving: Any, arriving: Any) -> None:
            left = [one for one in leaving if one is not None]
            replay.watch.idle = True
            passages.append(
                Passage(
                    node,
                    replay.lines.nodes.get(node),
                    max((size_of(one) for one in arriving if one is not None), default=0.0),
                    max((size_of(one) for one in left), default=0.0),
                    sum(one.numel() for one in left),
                )
            )
            replay.watch.idle = False

        return note

    handles = [
        node.register_hook(hook(node))
        for node in nodes_from(roots)
        if not hasattr(node, "variable")
    ]
    try:
        gradients = replay.gradients(term, call)
    finally:
        for handle in handles:
            handle.remove()
    return gradients, passages
