"""Computes the gradients of the terms along a plan: which passes, and what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.autograd.graph import GradientEdge

from lossproof.terms.collecting import Collector
from lossproof.terms.factors import SegmentFactors, SharedFactors
from lossproof.terms.graph import read_graph
from lossproof.terms.held import Group, total_products
from lossproof.terms.parameters import Parameters
from lossproof.terms.plan import make_plan
from lossproof.terms.shared_part import entries, through_shared_part
from lossproof.terms.statistics import SINGLE, StatisticsTable
from lossproof.terms.terms import Terms

Tensor = torch.Tensor


@dataclass
class Found:
    """What was computed of the gradients.

    Attributes:
        table: the statistics that were asked for.
        gramian: the inner products, where they were asked for.
        groups: the gradients themselves in some form, where they are held.
        reached: for each term and parameter, whether the one depends on the other.
    """

    table: StatisticsTable
    gramian: Tensor | None
    groups: list[Group]
    reached: list[list[bool]]


def compute(
    terms: Terms,
    parameters: Parameters,
    want: Sequence[str],
    *,
    hold: bool,
    retain_graph: bool,
    scale: Tensor | None = None,
) -> Found:
    """Compute what is wanted of the gradients of the terms.

    Args:
        terms: the terms.
        parameters: what they are differentiated by.
        want: names of statistics, ``"cosine"``, ``"gramian"``, ``"gradients"``.
        hold: whether the gradients are kept for combining.
        retain_graph: whether the graph can be gone through again afterwards.
        scale: what every gradient is multiplied by on its way (a loss scale), a scalar.
    """
    graph = read_graph(terms.tensors)
    products = "gramian" in want or "cosine" in want
    entrywise = bool({"mean_abs", "max_abs", "gradients"} & set(want))
    keep = hold or products or "gradients" in want
    plan = make_plan(graph, parameters, factors=not entrywise, hold=hold)
    sizes = [tensor.numel() for tensor in parameters.tensors]
    single = [name for name in SINGLE if name in want]
    table = StatisticsTable(single, sizes, len(terms), terms.tensors[0].device)
    collector = Collector(graph, plan, parameters, table, keep)
    start = torch.ones_like(terms.tensors[0]) if scale is None else scale
    doors = entries(graph) if plan.batched else None
    if doors:
        _batched(collector, doors, terms, start, retain_graph)
    else:
        _one_by_one(collector, terms, start, retain_graph)
    groups = collector.groups()
    for group in groups:
        _tabulate(table, group)
    gramian = None
    if products:
        gramian = total_products(groups, len(terms), terms.tensors[0].device)
    return Found(table, gramian, groups, collector.reached)


def _tabulate(table: StatisticsTable, group: Group) -> None:
    """Statistics of what stayed in factors; those of dense gradients were taken on the way."""
    if isinstance(group, SharedFactors | SegmentFactors):
        if "norm" in table.wanted:
            table.set("norm", group.positions[0], group.products().diagonal())
        if "mean" in table.wanted:
            table.set("mean", group.positions[0], group.sums())


def _one_by_one(collector: Collector, terms: Terms, start: Tensor, retain_graph: bool) -> None:
    """One pass for each term, through nothing but what leads to the wanted parameters."""
    present = collector.graph.present
    for k in present:
        again = retain_graph or (collector.plan.shared and k != present[-1])
        inputs = collector.wanted_of(k)
        collector.take(k, inputs, _gradients(terms.tensors[k], inputs.all, start, again))
        collector.close(k)


def _batched(
    collector: Collector, doors: Sequence[GradientEdge], terms: Terms, start: Tensor, again: bool
) -> None:
    """One pass for each term down to the part that all share, and one for all through that."""
    present = collector.graph.present
    arriving = []
    for k in present:
        inputs = collector.wanted_of(k, shared=False)
        found = _gradients(terms.tensors[k], [*doors, *inputs.all], start, True)
        arriving.append(found[: len(doors)])
        collector.take(k, inputs, found[len(doors) :])
    inputs = collector.wanted_of(present[0], shared=True)
    together = through_shared_part(doors, arriving, inputs.all, again)
    for row, k in enumerate(present):
        collector.take(k, inputs, [None if part is None else part[row] for part in together])
        collector.close(k)


def _gradients(
    term: Tensor, inputs: Sequence[Tensor | GradientEdge], start: Tensor, retain_graph: bool
) -> Sequence[Tensor | None]:
    if not inputs:
        return ()
    return torch.autograd.grad(
        term,
        inputs,  # type: ignore[arg-type]  # tensors and edges may be mixed
        grad_outputs=start.to(term.dtype).reshape(term.shape),
        retain_graph=retain_graph,
        allow_unused=True,
    )
