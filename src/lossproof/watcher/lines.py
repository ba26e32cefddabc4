"""Which line and which module each node of the graph comes from, and where the graph is cut.

A lean recording: unlike :class:`~lossproof.checks.trace.Recorder` it keeps no tensor alive, since
a step is as large as the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from lossproof.checks.sources import Site, Sources
from lossproof.checks.trace import (
    Interceptor,
    is_carrying,
    is_discrete,
    is_stop,
    note_nodes,
    operands_of,
    result_of,
    tensors_in,
)

Tensor = torch.Tensor
NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Line:
    """Where an operation was called."""

    operation: str
    site: Site
    module: str | None
    """The module of the model in whose forward it was called, by its name there."""
    part: str
    """``model`` or ``loss``."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A place where something that carries a derivative went in and nothing came out."""

    line: Line
    nodes: tuple[Any, ...]
    """The nodes of the graph that went in."""
    leaves: frozenset[int]
    """The ids of the leaves that went in."""
    discrete: bool
    no_grad: bool


class Lines(Interceptor):
    """Notes every operation of a call.

    Args:
        sources: tells the user's files from the rest.
        where: gives the part and the name of the module that is being called.
    """

    def __init__(self, sources: Sources, where: Callable[[], tuple[str, str | None]]) -> None:
        super().__init__()
        self.sources = sources
        self.where = where
        self.nodes: dict[Any, Line] = {}
        """Node of the backward graph -> where the operation that made it was called."""
        self.cuts: list[Cut] = []
        self.used: set[int] = set()
        """The ids of the parameters that some operation was given."""
        self._cuts_in: Any = WeakTensorKeyDictionary()

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        operands = operands_of(args, kwargs)
        carrying = is_carrying(operands)
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            part, module = self.where()
            line = Line(name, self.sources.site(), module, part)
            made = result_of(name, args, out)
            self.used |= {id(one) for one in operands if isinstance(one, nn.Parameter)}
            cut = carrying and not self.inside and is_stop(made, operands)
            if cut:
                self._note_cut(line, operands, made)
            self._note_results(line, operands, made, cut)
        return out

    def call_function(
        self, cls: type, apply: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        out = super().call_function(cls, apply, args, kwargs)
        with torch._C.DisableTorchFunction():
            part, module = self.where()
            line = Line(cls.__name__, self.sources.site(), module, part)
            operands = list(tensors_in(args))
            self.used |= {id(one) for one in operands if isinstance(one, nn.Parameter)}
            self._note_results(line, operands, out, cut=False)
        return out

    def cuts_before(self, tensor: Tensor) -> list[Cut]:
        """The cuts whose value a tensor was made from, in order."""
        return [self.cuts[number] for number in sorted(self._cuts_in.get(tensor, NONE))]

    def _note_cut(self, line: Line, operands: list[Tensor], made: Any) -> None:
        nodes = tuple(one.grad_fn for one in operands if one.grad_fn is not None)
        leaves = frozenset(id(one) for one in operands if one.requires_grad and one.is_leaf)
        self.cuts.append(Cut(line, nodes, leaves, is_discrete(made), not torch.is_grad_enabled()))

    def _note_results(self, line: Line, operands: list[Tensor], made: Any, cut: bool) -> None:
        before = NONE.union(*(self._cuts_in.get(one, NONE) for one in operands))
        if cut:
            before |= {len(self.cuts) - 1}
        for result in tensors_in(made):
            if before:
                self._cuts_in[result] = before | self._cuts_in.get(result, NONE)
            if result.grad_fn is not None:
                note_nodes(self.nodes, result.grad_fn, line)


def nodes_behind(roots: Iterable[Any], leaf: Tensor) -> set[Any]:
    """The nodes of a graph whose result a leaf is part of."""
    users: dict[Any, list[Any]] = {}
    waiting: list[Any] = []
    for node in nodes_from(roots):
        if getattr(node, "variable", None) is leaf:
            waiting.append(node)
        for following, _ in node.next_functions:
            if following is not None:
                users.setdefault(following, []).append(node)
    found: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += users.get(node, ())
    return found


def nodes_from(roots: Iterable[Any], stop: Iterable[Any] = ()) -> Iterator[Any]:
    """The nodes of a graph from its roots to the leaves, each once; not beyond those in `stop`."""
    ends = set(stop)
    seen: set[Any] = set()
    waiting = [root for root in roots if root is not None]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        if node not in ends:
            waiting += [following for following, _ in node.next_functions if following is not None]
