"""Paths of the gradient through ``forward`` that a backward leaves out or weighs wrongly.

The re-derived graph gives the share of the gradient that flows through every value, and through
every single use of a value. A wrong gradient that differs from the truth by exactly one such share
(or by two) is explained by it, with the line in ``forward``.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.causes.cause import Cause, Kind
from lossproof.checks.causes.source import FunctionSource, source_of
from lossproof.checks.causes.study import Study
from lossproof.checks.report import Location
from lossproof.checks.sources import excerpt
from lossproof.checks.trace import Operation
from lossproof.checks.witness import Derivation, filled

Tensor = torch.Tensor

MANY = 300
"""More edges than these are not tried one by one."""
PAIRED = 30
"""Pairs are tried among so many distinct shares."""
PLAIN_WEIGHTS = (0.0, -1.0, 2.0, 0.5)
"""The weights that mistakes give: left out, wrong sign, doubled, halved."""


@dataclass(eq=False)
class Edge:
    """A value of ``forward`` (``operand`` is ``None``), or one use of a value in an operation."""

    order: int
    operand: int | None
    operation: Operation
    value: str
    """What a reader calls the value."""
    location: Location | None
    shares: list[Tensor]
    """The part of the gradient that flows through it, at each point."""


def graph_nodes(roots: Sequence[Any]) -> list[Any]:
    """Every node of a backward graph, in an order that depends on its structure alone."""
    seen: set[Any] = set()
    found = []
    waiting = list(reversed(roots))
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.append(node)
        waiting += [following for following, _ in reversed(node.next_functions)]
    return found


def nodes_of(derivation: Derivation) -> list[Any]:
    """The nodes of a re-derived graph."""
    return graph_nodes(
        [o.grad_fn for o in derivation.outputs if isinstance(o, Tensor) and o.grad_fn is not None]
    )


class Paths:
    """The shares of one argument's gradient."""

    def __init__(self, study: Study, k: int) -> None:
        self.study = study
        self.k = k
        self.source = source_of(getattr(study.function.cls, "forward", None))
        self._nodes = [
            nodes_of(scene.derivation) for scene in study.scenes if scene.derivation is not None
        ]
        self.edges = self._measured()

    def _measured(self) -> list[Edge]:
        first = self._nodes[0]
        if any([n.name() for n in nodes] != [n.name() for n in first] for nodes in self._nodes):
            return []
        return [edge for edge in itertools.islice(self._all_edges(), MANY) if edge is not None]

    def _all_edges(self) -> Iterator[Edge | None]:
        derivation = self.study.scenes[0].derivation
        assert derivation is not None
        known = derivation.recorder.nodes
        for order, node in enumerate(self._nodes[0]):
            operation = known.get(node)
            if operation is None:
                continue
            yield self._edge(order, None, operation)
            inner = [i for i, (f, _) in enumerate(node.next_functions) if f is not None]
            if len(inner) > 1 or len(node.next_functions) > 1:
                for operand in inner:
                    yield self._edge(order, operand, operation)

    def _edge(self, order: int, operand: int | None, operation: Operation) -> Edge | None:
        shares = []
        for s in range(len(self.study.scenes)):
            share = self._share(s, order, operand)
            if share is None or not bool((share != 0).any()):
                return None
            shares.append(share)
        value, location = self._described(order, operand, operation)
        return Edge(order, operand, operation, value, location, shares)

    def _share(self, s: int, order: int, operand: int | None) -> Tensor | None:
        """The truth minus the gradient with the edge cut."""
        study, k = self.study, self.k
        derivation, node = study.scenes[s].derivation, self._nodes[s][order]
        assert derivation is not None
        handle = (
            node.register_prehook(_nothing)
            if operand is None
            else node.register_hook(lambda inputs, outputs: _without(inputs, operand))
        )
        try:
            rest = derivation.gradient(study.upstream[s][k])
        except Exception:
            return None
        finally:
            handle.remove()
        return study.truth[s][k] - filled(rest, study.scenes[s].point)[k]

    # ------------------------------------------------------------------ words
    def _described(
        self, order: int, operand: int | None, operation: Operation
    ) -> tuple[str, Location | None]:
        location = operation.site.location
        if operand is None:
            return f"`{self._value_name(operation)}`", location
        derivation = self.study.scenes[0].derivation
        assert derivation is not None
        following = self._nodes[0][order].next_functions[operand][0]
        maker = derivation.recorder.nodes.get(following)
        if maker is not None:
            name = self._value_name(maker)
        else:
            name = self._leaf_name(following)
        where = f"{operation.name}(...)" if location is None else excerpt(location)
        return f"`{name}` in `{where}`", location

    def _leaf_name(self, node: Any) -> str:
        derivation = self.study.scenes[0].derivation
        assert derivation is not None
        while node is not None and not hasattr(node, "variable"):
            node = node.next_functions[0][0] if node.next_functions else None
        for k, leaf in enumerate(derivation.leaves):
            if node is not None and node.variable is leaf:
                return self.study.name(k)
        return self.study.name(self.k)

    def _value_name(self, operation: Operation) -> str:
        """The name a value is assigned to, or its expression; the operation where no source is."""
        location = operation.site.location
        if location is None:
            return f"{operation.name}(...)"
        return assigned_name(self.source, location) or excerpt(location)


def assigned_name(source: FunctionSource | None, location: Location | None) -> str | None:
    """The variable that the expression at a location is assigned to as a whole."""
    if source is None or location is None or location.file != source.file:
        return None
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        place = source.location(node.value)
        if (place.line, place.column) == (location.line, location.column) and (
            place.end_line,
            place.end_column,
        ) == (location.end_line, location.end_column):
            return node.targets[0].id
        if location.column is None and place.line == location.line:
            return node.targets[0].id
    return None


def _nothing(gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else torch.zeros_like(g) for g in gradients)


def _without(gradients: Sequence[Tensor | None], operand: int) -> tuple[Tensor | None, ...]:
    return tuple(
        torch.zeros_like(g) if i == operand and g is not None else g
        for i, g in enumerate(gradients)
    )


# ---------------------------------------------------------------------- the hypotheses
def wrong_path(study: Study, k: int, paths: Paths, *, plain: bool = True) -> Cause | None:
    """One value of ``forward``, or one use of a value, with a wrong share in the gradient.

    Args:
        study: the wrong gradient.
        k: which argument's.
        paths: the shares of it.
        plain: accept only the weights that mistakes give; else any constant weight.
    """
    found: list[tuple[float, Edge]] = []
    for edge in paths.edges:
        weight = _weight(study, k, edge)
        if weight is None or _is_whole(study, k, edge) or (plain and weight not in PLAIN_WEIGHTS):
            continue
        change = weight - 1
        if study.explains(k, (study.truth[s][k] + change * edge.shares[s] for s in study.points)):
            found.append((weight, edge))
    if not found:
        return None
    weight, edge = min(found, key=lambda item: _plausibility(*item))
    return _cause(study, k, [(weight, edge)])


def two_wrong_paths(study: Study, k: int, paths: Paths) -> Cause | None:
    """Two shares at once, each with a weight that mistakes give."""
    edges = _distinct(study, k, paths)
    difference = study.claim[0][k] - study.truth[0][k]
    for one, other in itertools.combinations(edges, 2):
        for first, second in itertools.product(PLAIN_WEIGHTS, repeat=2):
            change = (first - 1) * one.shares[0] + (second - 1) * other.shares[0]
            if float((change - difference).abs().max()) > 1e-7 * float(difference.abs().max()):
                continue
            predicted = (
                study.truth[s][k] + (first - 1) * one.shares[s] + (second - 1) * other.shares[s]
                for s in study.points
            )
            if study.explains(k, predicted):
                return _cause(study, k, [(first, one), (second, other)])
    return None


def _weight(study: Study, k: int, edge: Edge) -> float | None:
    share = edge.shares[0]
    difference = study.claim[0][k] - study.truth[0][k]
    weight = 1 + float((difference * share).sum()) / float((share * share).sum())
    for plain in PLAIN_WEIGHTS:
        if abs(weight - plain) < 1e-7:
            return plain
    return weight


def _is_whole(study: Study, k: int, edge: Edge) -> bool:
    """Whether everything flows through it: then a wrong weight is a wrong factor of it all."""
    truth = study.truth[0][k]
    return bool((edge.shares[0] - truth).abs().max() <= 1e-9 * truth.abs().max())


def _plausibility(weight: float, edge: Edge) -> tuple[int, int, int]:
    """Plain weights first, then whole values, then what is nearest to the loss."""
    plain = PLAIN_WEIGHTS.index(weight) if weight in PLAIN_WEIGHTS else len(PLAIN_WEIGHTS)
    return plain, edge.operand is not None, -edge.operation.index


def _distinct(study: Study, k: int, paths: Paths) -> list[Edge]:
    """One edge for each share, the one that a reader finds most telling."""
    found: list[Edge] = []
    for edge in sorted(paths.edges, key=lambda e: _plausibility(0.0, e)):
        share = edge.shares[0]
        size = float(share.abs().max())
        if _is_whole(study, k, edge):
            continue
        if all(float((share - other.shares[0]).abs().max()) > 1e-9 * size for other in found):
            found.append(edge)
    return found[:PAIRED]


def _cause(study: Study, k: int, parts: Sequence[tuple[float, Edge]]) -> Cause:
    name = study.name(k)
    weight, edge = parts[0]
    clauses = [_clause(w, e, name) for w, e in parts]
    where = [
        (f"the path through {e.value}", e.location) for _, e in parts[1:] if e.location is not None
    ]
    return Cause(
        _kind(weight),
        ", and ".join(clauses),
        location=edge.location,
        help=_mend(weight, edge, name),
        evidence={"weight": weight},
        related=tuple(where),
    )


def _kind(weight: float) -> Kind:
    if weight == 0.0:
        return Kind.MISSING_PATH
    return Kind.PATH_SIGN if weight == -1.0 else Kind.PATH_WEIGHT


def _clause(weight: float, edge: Edge, name: str) -> str:
    if weight == 0.0:
        return f"backward treats {edge.value} as a constant in the gradient of `{name}`"
    if weight == -1.0:
        return f"the gradient path of `{name}` through {edge.value} has the wrong sign"
    return f"the gradient path of `{name}` through {edge.value} enters {weight:.6g} times, not once"


def _mend(weight: float, edge: Edge, name: str) -> str:
    line = "" if edge.location is None else f" (line {edge.location.line})"
    if weight == 0.0:
        return f"add the derivative of {edge.value}{line} with respect to `{name}`"
    if weight == -1.0:
        return f"change the sign of the term that comes from {edge.value}{line}"
    return f"divide the term that comes from {edge.value}{line} by {weight:.6g}"
