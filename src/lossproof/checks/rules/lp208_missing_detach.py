"""A value that should be a constant receives a gradient.

## What it does
Follows the gradient of the recorded call and looks where it arrives: at the critic's value through
the advantage that weighs a log-probability, at the inputs or parameters of a teacher, of a target
network or of an old policy, at a bootstrapped target or a pseudo label that the loss computes from
its own prediction, and at both sides of both terms of a vector quantiser. It judges by what arrives
and by how the values are combined, and by the names that the field gives to what is held constant.

## Why it matters
Nothing fails, and the loss goes down: the critic learns to make the advantage small, the teacher
moves towards its student, the target runs after the prediction. Training is unstable or collapses
to a constant.

## Example
```python
def a2c_loss(log_prob, value, returns):
    advantage = returns - value
    return -(log_prob * advantage).mean() + 0.5 * F.mse_loss(value, returns)
```

## Use instead
```python
def a2c_loss(log_prob, value, returns):
    advantage = (returns - value).detach()
    return -(log_prob * advantage).mean() + 0.5 * F.mse_loss(value, returns)
```

## Not reported
Losses that learn on both sides on purpose: siamese and contrastive losses, CLIP, two students that
teach each other, a symmetric divergence, two inputs of which each is stopped once and which may
change places, whatever they are called. Weights computed from the prediction (a focal loss lets
them carry a gradient). An input called `target` that requires a gradient. What requires no gradient
where the loss is called: whether a tensor does is told by the inputs of the check.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.backward_graph import BackwardGraph, Leaves
from lossproof.checks.constants import (
    ADVANTAGE,
    BOOTSTRAP,
    PLAIN_TARGET,
    TARGET,
    is_constant,
    is_log_prob,
    is_temperature,
    is_value,
    words,
)
from lossproof.checks.definitions import definitions
from lossproof.checks.report import Finding, Location, Severity
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination
    from lossproof.checks.trace import Operation

RULE = RULES["LP208"]
PRODUCTS = ("MulBackward0",)
COMPARISONS = frozenset(
    """
    MseLossBackward0 SmoothL1LossBackward0 HuberLossBackward0 L1LossBackward0 SubBackward0
    KlDivBackward0 BinaryCrossEntropyBackward0 BinaryCrossEntropyWithLogitsBackward0 MulBackward0
    """.split()
)
DIFFERENCES = ("SubBackward0", "RsubBackward1", "AddBackward0")
CHOICES = ("GatherBackward0", "IndexBackward0", "NllLossBackward0")
LOG_PROBABILITIES = ("LogSoftmaxBackward0", "LogBackward0", "LogsumexpBackward0")
FITS = ("MseLossBackward0", "SmoothL1LossBackward0", "HuberLossBackward0", "PowBackward0")
QUANTISER = frozenset("quantized quantised codebook zq ze commitment vq embed embedding".split())


def examine(case: Examination) -> Iterable[Verdict]:
    """Look where the gradient arrives."""
    if case.base.value is None or case.base.value.grad_fn is None:
        yield RULE.not_applicable("the loss has no gradient")
        return
    graph = BackwardGraph(case.base)
    for look in (_advantages, _locals, _constants, _quantisers, _predictors):
        findings = list(look(case, graph))
        if findings:
            yield from findings
            return
    if len(case.leaf_names) < 2:
        yield RULE.not_applicable("one value alone receives a gradient")
    else:
        yield RULE.proved("no gradient arrives at a value that is held constant by its name or use")


# ---------------------------------------------------------------------- advantages


def _advantages(case: Examination, graph: BackwardGraph) -> Iterator[Finding]:
    """A product of a log-probability with a difference that the critic's value is part of."""
    names = case.leaf_names
    for node in graph.nodes:
        if node.name() not in PRODUCTS or len(graph.operands(node)) != 2:
            continue
        for policy, weight in itertools.permutations(graph.operands(node)):
            made, weighs = graph.leaves(policy), graph.leaves(weight)
            if not made or not weighs or made & weighs:
                continue
            if not _all_named(names, made, is_log_prob) and not _is_chosen(graph, policy):
                continue
            critic = _all_named(names, weighs, is_value) or _is_fitted(graph, weighs)
            value = critic and _has(graph, weight, DIFFERENCES)
            if not value and not _all_named(names, weighs, is_temperature):
                continue
            if graph.gradient_at(weight) == 0:
                continue
            yield _advantage(case, graph, node, policy, weight)
            return


def _all_named(names: tuple[str, ...], leaves: Leaves, test: Any) -> bool:
    return all(test(names[leaf]) for leaf in leaves)


def _is_chosen(graph: BackwardGraph, node: Any) -> bool:
    """Whether a value is the log-probability of an action: picked out of a `log_softmax`."""
    return _has(graph, node, CHOICES) and _has(graph, node, LOG_PROBABILITIES)


def _is_fitted(graph: BackwardGraph, leaves: Leaves) -> bool:
    """Whether another term fits these leaves, and nothing else, to constants: as a critic is."""
    return any(node.name() in FITS and graph.leaves(node) == leaves for node in graph.nodes)


def _has(graph: BackwardGraph, node: Any, kinds: Iterable[str]) -> bool:
    return any(below.name() in kinds for below in graph.below(node))


def _advantage(
    case: Examination, graph: BackwardGraph, node: Any, policy: Any, weight: Any
) -> Finding:
    names = case.leaf_names
    learned = ", ".join(f"`{names[leaf]}`" for leaf in sorted(graph.leaves(weight)))
    own = ", ".join(f"`{names[leaf]}`" for leaf in sorted(graph.leaves(policy)))
    product, difference = graph.operation(node), graph.operation(weight)
    place = difference or product
    return RULE.finding(
        f"what weighs {own} carries a gradient: {learned} is trained by the policy's term, too",
        location=(place.site.location if place else None) or case.subject.location,
        cause="advantage",
        evidence={"largest_gradient": graph.gradient_at(weight)},
        related=_related(product),
        help="`advantage = (returns - value).detach()`",
    )


def _related(operation: Operation | None) -> tuple[tuple[str, Location], ...]:
    place = None if operation is None else operation.site.location
    return () if place is None else (("it is multiplied here", place),)


# ---------------------------------------------------------------------- local names


def _locals(case: Examination, graph: BackwardGraph) -> Iterator[Finding]:
    """A local name of a target, or of an advantage, whose value carries a gradient."""
    names = case.leaf_names
    for name, statement, location, node in _assigned(case, graph):
        leaves = graph.leaves(node)
        if not leaves or all("target" in words(names[leaf]) for leaf in leaves):
            continue
        used = [
            parent
            for parent in graph.nodes
            if node in graph.operands(parent)
            and parent.name() in (PRODUCTS if ADVANTAGE.match(name) else COMPARISONS)
            and any(graph.leaves(o) for o in graph.operands(parent) if o is not node)
        ]
        if not used or not _is_target(name, statement) or graph.gradient_at(node) == 0:
            continue
        reached = ", ".join(f"`{names[leaf]}`" for leaf in sorted(leaves))
        yield RULE.finding(
            f"`{name}` carries a gradient: the loss also moves {reached} through it",
            severity=Severity.WARNING,
            location=location,
            cause="target",
            evidence={"largest_gradient": graph.gradient_at(node)},
            related=_related(graph.operation(used[0])),
            help=f"`{name} = {name}.detach()`, or compute it under `torch.no_grad()`",
        )
        return


def _is_target(name: str, statement: ast.Assign) -> bool:
    if ADVANTAGE.match(name) or TARGET.match(name):
        return True
    mentioned = [node.id for node in ast.walk(statement.value) if isinstance(node, ast.Name)]
    return bool(PLAIN_TARGET.match(name)) and any(BOOTSTRAP.search(other) for other in mentioned)


def _assigned(
    case: Examination, graph: BackwardGraph
) -> Iterator[tuple[str, ast.Assign, Location, Any]]:
    """The local names that matter, with the node of the graph that made what they hold."""
    known = {node: graph.operation(node) for node in graph.nodes}
    for source in definitions(case.subject):
        for statement in ast.walk(source.tree):
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                continue
            target = statement.targets[0]
            if not isinstance(target, ast.Name):
                continue
            if not any(kind.match(target.id) for kind in (ADVANTAGE, TARGET, PLAIN_TARGET)):
                continue
            made = [
                (operation.index, node)
                for node, operation in known.items()
                if operation is not None and _within(operation, source.file, statement)
            ]
            if made:
                last = max(index for index, _ in made)
                nodes = [node for index, node in made if index == last]
                inner = {o for node in nodes for o in graph.operands(node)}
                outermost = [node for node in nodes if node not in inner]
                yield target.id, statement, source.location(statement), outermost[0]


def _within(operation: Operation, file: str, statement: ast.Assign) -> bool:
    place = operation.site.location
    if place is None or place.file != file:
        return False
    return statement.value.lineno <= place.line <= (statement.value.end_lineno or place.line)


# ---------------------------------------------------------------------- named inputs


def _constants(case: Examination, graph: BackwardGraph) -> Iterator[Finding]:
    """Inputs and parameters whose names say that they are held constant, and that are not."""
    names = case.leaf_names
    moved = [
        leaf
        for leaf, gradient in enumerate(case.base.gradients)
        if gradient is not None and bool((gradient != 0).any())
    ]
    fixed = [leaf for leaf in moved if is_constant(names[leaf], names)]
    if not fixed or len(fixed) == len(moved) or _are_equals(case, moved):
        return
    listed = ", ".join(f"`{names[leaf]}`" for leaf in fixed[:3]) + (" ..." if fixed[3:] else "")
    first = case.base.gradients[fixed[0]]
    assert first is not None
    yield RULE.finding(
        f"a gradient arrives at what should be constant: {listed}",
        severity=Severity.WARNING,
        location=_first_use(case, fixed[0]) or case.subject.location,
        cause="constant-input",
        evidence={"largest_gradient": float(first.abs().max())},
        help=f"`{names[fixed[0]]}.detach()` in the loss, or compute it under `torch.no_grad()`"
        if fixed[0] < len(case.inputs.differentiable)
        else "compute with it under `torch.no_grad()`, or take it out of the parameters with "
        "`requires_grad_(False)`",
    )


def _are_equals(case: Examination, leaves: list[int]) -> bool:
    """Whether two inputs may change places and each is stopped once: both teach, and both learn."""
    positions = case.inputs.differentiable
    if len(leaves) != 2 or max(leaves) >= len(positions) or case.trace.random:
        return False
    one, other = (positions[leaf] for leaf in leaves)
    values = list(case.inputs.values)
    stopped = {
        position for stop in case.trace.stops if not stop.discrete for position in stop.inputs
    }
    if values[one].shape != values[other].shape or not {one, other} <= stopped:
        return False
    here = case.evaluate(values, dtype=torch.float64, backward=False)
    values[one], values[other] = values[other], values[one]
    there = case.evaluate(values, dtype=torch.float64, backward=False)
    if here.value is None or there.value is None:
        return False
    return abs(here.scalar - there.scalar) <= 1e-9 * abs(here.scalar)


def _first_use(case: Examination, leaf: int) -> Location | None:
    """The first operation that takes the input behind a leaf."""
    positions = case.inputs.differentiable
    if leaf >= len(positions):
        return None
    return next(
        (
            operation.site.location
            for operation in case.trace.operations
            if positions[leaf] in operation.inputs
        ),
        None,
    )


# ---------------------------------------------------------------------- two terms, two sides


def _quantisers(case: Examination, graph: BackwardGraph) -> Iterator[Finding]:
    """The two terms of a vector quantiser, neither of which holds its other side."""
    seen: dict[frozenset[Any], Any] = {}
    spoken = {
        word
        for source in definitions(case.subject)
        for node in ast.walk(source.tree)
        for name in [getattr(node, "id", None) or getattr(node, "arg", None)]
        if isinstance(name, str)
        for word in (*words(name), name.replace("_", "").lower())
    }
    if spoken.isdisjoint(QUANTISER):
        return
    for node in graph.nodes:
        operands = graph.operands(node)
        if node.name() != "MseLossBackward0" or len(operands) != 2:
            continue
        pair = frozenset(operands)
        if pair in seen:
            operation = graph.operation(node)
            yield RULE.finding(
                "two terms compare the same two values, and neither holds one of them constant",
                severity=Severity.WARNING,
                location=(operation.site.location if operation else None) or case.subject.location,
                cause="two-sided",
                evidence={"terms": 2},
                help="`F.mse_loss(quantized, z.detach()) + beta * F.mse_loss(quantized.detach(), "
                "z)`",
            )
            return
        seen[pair] = node


def _predictors(case: Examination, graph: BackwardGraph) -> Iterator[Finding]:
    """Predictions compared with the projections of the other view, as in SimSiam and BYOL."""
    names = case.leaf_names
    wanted = {"p1": "z2", "p2": "z1"}
    if not {"p1", "p2", "z1", "z2"} <= set(names):
        return
    pairs: set[frozenset[str]] = set()
    for node in graph.nodes:
        sides = [{names[leaf] for leaf in graph.leaves(o)} for o in graph.operands(node)]
        if len(sides) == 2 and all(len(side) == 1 for side in sides) and sides[0] != sides[1]:
            pairs.add(frozenset(sides[0] | sides[1]))
    if pairs != {frozenset(pair) for pair in wanted.items()}:
        return
    gradient = case.base.gradients[names.index("z1")]
    if gradient is None or not bool((gradient != 0).any()):
        return
    yield RULE.finding(
        "the projections `z1` and `z2` receive a gradient: without a stop the two views collapse "
        "to a constant",
        severity=Severity.WARNING,
        location=_first_use(case, names.index("z1")) or case.subject.location,
        cause="two-sided",
        evidence={"largest_gradient": float(gradient.abs().max())},
        help="`cosine(p1, z2.detach())` and `cosine(p2, z1.detach())`",
    )
