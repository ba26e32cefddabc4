"""Computes the gradients of the terms along a plan: which passes, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch.autograd.graph import GradientEdge

from lossproof.terms.by_segments import SegmentPlan, gradients_by_segments, segment_plan
from lossproof.terms.collecting import Collector
from lossproof.terms.factors import SegmentFactors, SharedFactors
from lossproof.terms.graph import Graph, read_graph
from lossproof.terms.held import Group, real_count, squared_norms, total_products
from lossproof.terms.parameters import Parameters
from lossproof.terms.plan import Plan, make_plan
from lossproof.terms.shared_part import entries, through_shared_part
from lossproof.terms.statistics import SINGLE, StatisticsTable
from lossproof.terms.terms import Terms
from lossproof.terms.trust import (
    agrees,
    plain_gradient,
    remember,
    structure_of,
    telling_weights,
    verdict_on,
)
from lossproof.terms.workspace import WORKSPACE, Workspace, loan

Tensor = torch.Tensor


@dataclass
class Found:
    """What was computed of the gradients.

    Attributes:
        table: the statistics that were asked for.
        gramian: the inner products, where they were asked for.
        groups: the gradients themselves in some form, where they are held.
        reached: for each term and parameter, whether the one depends on the other.
        buffers: the buffers of the workspace that the gradients lie in.
    """

    table: StatisticsTable
    gramian: Tensor | None
    groups: list[Group]
    reached: list[list[bool]]
    buffers: list[Tensor] = field(default_factory=list)


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
    WORKSPACE.begin()
    graph = read_graph(terms.tensors)
    start = torch.ones_like(terms.tensors[0]) if scale is None else scale
    job = _Job(terms, parameters, graph, tuple(want), hold, start, retain_graph)
    impossible = []
    for shortcut in _shortcuts(job):
        structure = structure_of(graph, parameters, shortcut.way)
        verdict = verdict_on(structure)
        if verdict is False:
            continue
        try:
            found = _tried(job, shortcut, structure) if verdict is None else shortcut.attempt(job)
        except RuntimeError:  # a hook that cannot run on the cotangents of all terms at once
            impossible.append(structure)
            if verdict and not retain_graph:  # a part of the graph may be gone
                remember(structure, False)
                raise
            continue
        if found is not None:
            return found
    found = _one_by_one(job, Plan.plain(graph, parameters))
    for structure in impossible:  # where the plain way fails, too, it was not the shortcut's fault
        remember(structure, False)
    return found


@dataclass(frozen=True)
class _Shortcut:
    """A way that may be cheaper than one full pass for each term.

    Attributes:
        way: what it is called.
        attempt: takes it.
        doubtful: the positions of the parameters whose gradients do not come from a plain pass.
    """

    way: str
    attempt: Callable[[_Job], Found]
    doubtful: Collection[int]


def _shortcuts(job: _Job) -> Iterator[_Shortcut]:
    """The shortcuts, the cheapest first."""
    everything = range(len(job.parameters))
    if len(job.graph.present) < 2:
        return
    segments = segment_plan(job.graph, job.parameters)
    if segments is not None:
        yield _Shortcut("segments", partial(_by_segments, plan=segments), everything)
    plan = make_plan(job.graph, job.parameters, factors=not job.entrywise, hold=job.hold)
    doors = entries(job.graph) if plan.batched else None
    if doors:
        attempt = partial(_batched, plan=plan, doors=doors)
        yield _Shortcut(f"batched {sorted(plan.factored)}", attempt, everything)
    if plan.factored:
        attempt = partial(_one_by_one, plan=plan)
        yield _Shortcut(f"factored {sorted(plan.factored)}", attempt, plan.factored)


def _tried(job: _Job, shortcut: _Shortcut, structure: Hashable) -> Found | None:
    """Take a shortcut for the first time, beside a plain pass of a weighted sum of all terms."""
    found = shortcut.attempt(replace(job, hold=True, retain_graph=True))
    weights = telling_weights(found.groups, len(job.terms), job.terms.tensors[0].device)
    present = [(job.terms.tensors[k], float(weights[k])) for k in job.graph.present]
    plain = plain_gradient(present, job.parameters, job.start)
    verdict = agrees(found.groups, weights, plain, shortcut.doubtful)
    if verdict is not None:
        remember(structure, verdict)
    return found if verdict else None


@dataclass(frozen=True)
class _Job:
    """What is to be computed."""

    terms: Terms
    parameters: Parameters
    graph: Graph
    want: tuple[str, ...]
    hold: bool
    start: Tensor
    retain_graph: bool

    @property
    def products(self) -> bool:
        return "gramian" in self.want or "cosine" in self.want

    @property
    def entrywise(self) -> bool:
        """Whether every entry of the gradients is looked at, and not only sums and products."""
        return bool({"mean_abs", "max_abs", "gradients"} & set(self.want))

    @property
    def keep(self) -> bool:
        return self.hold or self.products or "gradients" in self.want

    def table(self) -> StatisticsTable:
        """Where the statistics will stand."""
        sizes = [real_count(tensor) for tensor in self.parameters.tensors]
        single = [name for name in SINGLE if name in self.want]
        return StatisticsTable(single, sizes, len(self.terms), self.terms.tensors[0].device)

    @property
    def workspace(self) -> Workspace | None:
        """Where buffers come from; whole gradients are given away, so they are no buffers."""
        return None if "gradients" in self.want else WORKSPACE

    def found(
        self, table: StatisticsTable, groups: list[Group], reached: list[list[bool]]
    ) -> Found:
        """The outcome, with the products where they are wanted."""
        gramian = None
        if self.products:
            gramian = total_products(groups, len(self.terms), self.terms.tensors[0].device)
        return Found(table, gramian, groups, reached)


def _by_segments(job: _Job, plan: SegmentPlan) -> Found:
    """One pass for all terms, which live on rows of their own."""
    buffers: list[Tensor] = []
    groups, reached = gradients_by_segments(
        plan,
        job.graph,
        job.terms.tensors,
        job.parameters,
        job.start,
        job.retain_graph,
        loan(job.workspace, buffers),
    )
    table = job.table()
    if not job.entrywise:
        _tabulate(table, groups)
    for group in groups:
        if table.wanted and (job.entrywise or not isinstance(group, SegmentFactors)):
            for term in job.graph.present:
                pairs = zip(group.positions, group.gradient(term), strict=True)
                there = {at: part for at, part in pairs if part is not None}
                table.add(term, list(there), list(there.values()))
    return replace(job.found(table, groups, reached), buffers=buffers)


def _tabulate(table: StatisticsTable, groups: Sequence[Group]) -> None:
    """Statistics of what stayed in factors; those of dense gradients were taken on the way."""
    factored = [group for group in groups if isinstance(group, SharedFactors | SegmentFactors)]
    if "norm" in table.wanted:
        for group, squares in zip(factored, squared_norms(factored), strict=True):
            table.set("norm", group.positions[0], squares)
    if "mean" in table.wanted:
        for group in factored:
            table.set("mean", group.positions[0], group.sums())


def _one_by_one(job: _Job, plan: Plan) -> Found:
    """One pass for each term, through nothing but what leads to the wanted parameters."""
    table = job.table()
    collector = Collector(job.graph, plan, job.parameters, table, job.keep, job.workspace)
    present = job.graph.present
    for k in present:
        again = job.retain_graph or (plan.shared and k != present[-1])
        inputs = collector.wanted_of(k)
        collector.take(k, inputs, _gradients(job.terms.tensors[k], inputs.all, job.start, again))
        collector.close(k)
    return _collected(job, table, collector)


def _batched(job: _Job, plan: Plan, doors: Sequence[GradientEdge]) -> Found:
    """One pass for each term down to the part that all share, and one for all through that."""
    table = job.table()
    collector = Collector(job.graph, plan, job.parameters, table, job.keep, job.workspace)
    present = job.graph.present
    arriving = []
    for k in present:
        inputs = collector.wanted_of(k, shared=False)
        found = _gradients(job.terms.tensors[k], [*doors, *inputs.all], job.start, True)
        arriving.append(found[: len(doors)])
        collector.take(k, inputs, found[len(doors) :])
    inputs = collector.wanted_of(present[0], shared=True)
    together = through_shared_part(doors, arriving, inputs.all, job.retain_graph)
    collector.take_together(inputs, together)
    for k in present:
        collector.close(k)
    return _collected(job, table, collector)


def _collected(job: _Job, table: StatisticsTable, collector: Collector) -> Found:
    groups = collector.groups()
    _tabulate(table, groups)
    return replace(job.found(table, groups, collector.reached), buffers=collector.buffers)


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
