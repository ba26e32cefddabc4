"""Which way is the least work: what stays in factors, and which passes are made.

The costs are counted in floating-point operations of one multiply-add each, with what memory
traffic and the start of an operation cost in between. They decide on speed alone: every way gives
the same gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lossproof.terms.graph import Graph, Node, has_several, is_single
from lossproof.terms.layers import MatrixUse, matrix_uses
from lossproof.terms.parameters import Parameters

Tensor = torch.Tensor

TRAFFIC = 60
"""Multiply-adds in the time in which a number is written to memory and read again twice."""
START = 1_000_000
"""Multiply-adds in the time that the dozen operations of a factored gradient need to start."""
FEW_ROWS = 128
"""Below as many rows a product does not keep a CPU core busy: K cotangents go through together."""

_BATCHABLE = frozenset(
    {
        "AddBackward0",
        "AddmmBackward0",
        "CosBackward0",
        "DivBackward0",
        "EluBackward0",
        "ExpBackward0",
        "GeluBackward0",
        "LeakyReluBackward0",
        "MmBackward0",
        "MulBackward0",
        "NegBackward0",
        "PowBackward0",
        "ReluBackward0",
        "SigmoidBackward0",
        "SiluBackward0",
        "SinBackward0",
        "SoftplusBackward0",
        "SubBackward0",
        "TBackward0",
        "TanhBackward0",
        "UnsafeViewBackward0",
        "ViewBackward0",
        "torch::autograd::AccumulateGrad",
    }
)
"""Nodes whose backward treats K cotangents at once as well as one by one."""


@dataclass
class Plan:
    """How the gradients are computed.

    Attributes:
        factored: for the positions of matrices their uses; their gradients stay in factors.
        dense: the positions of the other parameters that a term depends on.
        shared: whether an operation lies behind more than one term.
        batched: whether the cotangents of all terms go through the shared part together.
    """

    factored: dict[int, list[MatrixUse]] = field(default_factory=dict)
    dense: list[int] = field(default_factory=list)
    shared: bool = False
    batched: bool = False

    @classmethod
    def plain(cls, graph: Graph, parameters: Parameters) -> Plan:
        """One pass for each term, with nothing in factors."""
        there = [at for at, tensor in enumerate(parameters.tensors) if graph.mask_of(tensor)]
        return cls(dense=there, shared=any(_kept_twice(graph, node) for node in graph.order))


def make_plan(graph: Graph, parameters: Parameters, *, factors: bool, hold: bool) -> Plan:
    """Decide what to compute, and how.

    Args:
        graph: what lies behind the terms.
        parameters: what the gradients are wanted for.
        factors: whether sums and products of the gradients are enough, or every entry is needed.
        hold: whether the gradient of a weighted sum will be wanted.
    """
    plan = Plan(shared=any(_kept_twice(graph, node) for node in graph.order))
    count = len(graph.roots)
    for position, tensor in enumerate(parameters.tensors):
        mask = graph.mask_of(tensor)
        if not mask:
            continue
        uses = matrix_uses(graph, tensor) if factors and has_several(mask) else None
        if uses and _factored_is_cheaper(graph, uses, count, hold):
            plan.factored[position] = uses
        else:
            plan.dense.append(position)
    plan.batched = plan.shared and _batching_pays(graph, plan, parameters)
    return plan


def _kept_twice(graph: Graph, node: Node) -> bool:
    """Whether two terms need what this operation saved; views of a parameter save nothing."""
    several = has_several(graph.masks[node])
    return several and bool(node.next_functions) and node.name() not in _NO_SAVING


_NO_SAVING = ("TBackward0", "TransposeBackward0", "PermuteBackward0", "ToCopyBackward0")


def _factored_is_cheaper(graph: Graph, uses: Sequence[MatrixUse], count: int, hold: bool) -> bool:
    masks = {graph.masks[use.node] for use in uses}
    alone = all(is_single(mask) for mask in masks)
    if not alone and masks != {graph.masks[uses[0].node]}:
        return False  # some of it shared, some not: no single form holds that
    if len({(use.cotangent_left, use.fixed, use.moving) for use in uses}) > 1:
        return False
    fixed, moving = uses[0].fixed, uses[0].moving
    rows = sum(use.rows for use in uses)
    size = fixed * moving
    once = rows * size if hold else 0
    if alone:
        dense = rows * size + count * size * (count + TRAFFIC)
        return rows * rows * (fixed + moving) + once + START < dense
    dense = count * rows * size + count * size * (count + TRAFFIC)
    through = rows * rows * (fixed + count * moving) * 5 // 8 + count * count * rows * moving
    return 1.25 * through + once + START < dense


def _batching_pays(graph: Graph, plan: Plan, parameters: Parameters) -> bool:
    everyone = graph.everyone
    if is_single(everyone):
        return False
    shared = [node for node in graph.order if graph.masks[node] == everyone]
    if any(node.name() not in _BATCHABLE for node in shared):
        return False
    if any(parameters.tensors[position].is_cuda for position in plan.dense):
        return True  # kernels are started once instead of K times
    work = {True: 0, False: 0}
    for uses in plan.factored.values():
        for use in uses:
            few = use.rows <= FEW_ROWS and graph.masks[use.node] == everyone
            work[few] += use.rows * use.fixed * use.moving
    for position in plan.dense:
        tensor = parameters.tensors[position]
        if tensor.dim() > 1 and graph.mask_of(tensor) == everyone:
            work[False] += tensor.numel() * FEW_ROWS
    return work[True] > work[False]
