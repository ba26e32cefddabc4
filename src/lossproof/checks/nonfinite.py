"""Which operation, on which line, was the first to make a NaN or an infinity.

The loss is called once more under a mode that sees every operation of the forward and of the
backward pass. The first whose operands are finite and whose result is not is the culprit: in the
forward pass its line is where it was called, in the backward pass the line of the forward
operation whose derivative it is. (Anomaly mode names the first NaN instead, which for a square
root at 0 is the innocent multiplication after it, and does not see infinities.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.nonfinite_watch import Event, NonFiniteWatch, plain_name
from lossproof.checks.report import Location
from lossproof.checks.sources import Site, excerpt

Tensor = torch.Tensor

Mark = tuple[str, int, str, str]
SiteOf = Callable[[Any], Site | None]

_BOUNDARY = frozenset({Examination._call.__code__, Examination._differentiate.__code__})
_DEPTH = 8


@dataclass(frozen=True)
class Culprit:
    """The operation that first made something non-finite from finite operands."""

    operation: str
    """Its name as torch knows it: ``log``, ``div``, ``sqrt``..."""
    phase: Literal["forward", "backward"]
    produced: Literal["nan", "inf"]
    location: Location | None
    text: str
    """The expression at the location."""
    operand: float | None = None
    """The number that its first operand held where the result is not finite."""
    chain: tuple[str, ...] = ()
    """What its first operand was made by, nearest first, along first operands."""
    ancestors: frozenset[str] = frozenset()
    """Every operation that its operands were made by."""

    @property
    def key(self) -> tuple[str, int]:
        """Two culprits with the same key are the same fault."""
        if self.location is None:
            return (self.operation, 0)
        return (self.location.file, self.location.line)

    @property
    def mark(self) -> Mark:
        """What tells an operation from another on the same line."""
        return (*self.key, self.operation, self.phase)


def is_finite(found: Evaluation) -> bool:
    """Whether the value and every gradient are finite."""
    return _all_finite(found.value) and all(_all_finite(g) for g in found.gradients)


def _all_finite(value: Tensor | None) -> bool:
    return value is None or bool(torch.isfinite(value.detach()).all())


def find_culprit(
    case: Examination,
    values: Sequence[Any],
    *,
    dtype: torch.dtype | None = None,
    innocent: frozenset[Mark] = frozenset(),
) -> Culprit | None:
    """Call the loss at ``values`` and name the first operation that left the finite numbers.

    Args:
        case: the check in progress.
        values: the arguments of the call.
        dtype: as for :meth:`Examination.evaluate`.
        innocent: marks of operations that make infinities at ordinary inputs, too, which the loss
            deals with.
    """
    watch = NonFiniteWatch(case.subject.sources, _BOUNDARY)
    with watch:
        found = case.evaluate(values, dtype=dtype, record=True)
    culprits = [named(event, _sites(found)) for event in watch.events]
    return next((culprit for culprit in culprits if culprit.mark not in innocent), None)


def innocent_marks(case: Examination) -> frozenset[Mark]:
    """Operations that leave the finite numbers at the given inputs while the result is finite."""
    watch = NonFiniteWatch(case.subject.sources, _BOUNDARY)
    with watch:
        found = case.evaluate(record=True)
    if not is_finite(found):
        return frozenset()
    return frozenset(named(event, _sites(found)).mark for event in watch.events)


def named(event: Event, site_of: SiteOf) -> Culprit:
    """The culprit with its forward line, which for a derivative the graph's node knows.

    Args:
        event: what was noted.
        site_of: gives for a node of the graph the site of the forward operation that made it.
    """
    if event.node is None:
        return Culprit(
            plain_name(event.operation), "forward", event.produced, event.place,
            excerpt(event.place) if event.place else "", event.operand, event.chain,
            event.ancestors,
        )  # fmt: skip
    site = site_of(event.node)
    place = event.place
    if place is None and site is not None:
        place = site.location
    name, *chain = _node_names(event.node)
    return Culprit(
        name, "backward", event.produced, place,
        excerpt(place) if place else "", None, tuple(chain), _nodes_before(event.node),
    )  # fmt: skip


def _sites(found: Evaluation) -> SiteOf:
    nodes = {} if found.trace is None else found.trace.nodes

    def site_of(node: Any) -> Site | None:
        operation = nodes.get(node)
        return None if operation is None else operation.site

    return site_of


def _node_names(node: Any) -> list[str]:
    """The names of the operations that a node of the graph and the ones before it belong to."""
    names: list[str] = []
    while node is not None and len(names) <= _DEPTH and not hasattr(node, "variable"):
        names.append(node_name(node))
        node = next((following for following, _ in node.next_functions if following), None)
    return names


def _nodes_before(node: Any) -> frozenset[str]:
    """The names of every operation that a node of the graph depends on."""
    names: set[str] = set()
    seen: set[Any] = set()
    waiting = [following for following, _ in node.next_functions]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen and not hasattr(node, "variable"):
            seen.add(node)
            names.add(node_name(node))
            waiting += [following for following, _ in node.next_functions]
    return frozenset(names)


def node_name(node: Any) -> str:
    """The name of the operation whose derivative a node of the graph is."""
    return plain_name(_snake(re.sub(r"Backward\d*$", "", str(node.name()))))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
