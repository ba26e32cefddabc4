"""Per-term gradients of parameters that are sharded over the ranks (FSDP2, ``fully_shard``).

A sharded parameter is not in autograd's graph: FSDP gathers a whole copy for the forward pass, and
takes the gradient away from that copy in the backward pass, adds it up over the ranks and leaves
each rank its shard of the sum. So every term is sent through a backward pass of its own, after
which ``.grad`` holds this rank's shard of the gradient of the whole batch; from the shards, inner
products and statistics are exact.

That costs as many gathers and reductions as there are terms, in every step in which weights are
computed anew; ``every=n`` makes these rare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lossproof.terms.engine import Found
from lossproof.terms.graph import read_graph
from lossproof.terms.held import Group, total_products
from lossproof.terms.parameters import Parameters
from lossproof.terms.products import products_of_rows
from lossproof.terms.statistics import SINGLE, StatisticsTable
from lossproof.terms.terms import Terms, solving_dtype
from lossproof.write.sharding import is_sharded

Tensor = torch.Tensor


def shard_of(tensor: Any) -> Tensor:
    """What this rank holds of a tensor."""
    shard: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return shard


def shards(tensor: Any) -> int:
    """Into how many different pieces a tensor is divided; its copies are not counted."""
    if not is_sharded(tensor):
        return 1
    count = 1
    for axis, placement in enumerate(tensor.placements):
        if placement.is_shard():
            count *= tensor.device_mesh.size(axis)
    return count


def whole(shard: Tensor, like: Any) -> Tensor:
    """The tensor of which this is the shard, divided among the ranks like another of its shape."""
    if is_sharded(shard) or not is_sharded(like):
        return shard
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        shard, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )


class Shards:
    """The gradients of one parameter, of which this rank holds a shard.

    Args:
        position: where the parameter stands among the chosen ones.
        parameter: the parameter.
        gradients: for each term the shard of its gradient, ``None`` where it does not depend on
            the parameter.
    """

    def __init__(self, position: int, parameter: Tensor, gradients: Sequence[Tensor | None]):
        self.positions = (position,)
        self._parameter = parameter
        self._gradients = gradients

    def products(self, dtype: torch.dtype | None = None) -> Tensor:
        """This rank's part, so much enlarged that the mean over the ranks is the whole."""
        device = shard_of(self._parameter).device
        count = len(self._gradients)
        there = [k for k, gradient in enumerate(self._gradients) if gradient is not None]
        rows = torch.stack([part.reshape(-1) for part in self._gradients if part is not None])
        total = torch.zeros(count, count, dtype=solving_dtype(device), device=device)
        index = torch.tensor(there, device=device)
        total[index[:, None], index] = products_of_rows(rows, dtype) * shards(self._parameter)
        return total

    def vanishes(self, term: int) -> bool:
        gradient = self._gradients[term]
        return gradient is None or not bool(gradient.any())

    def combined(self, weights: Tensor) -> list[Tensor]:
        total: Tensor | None = None
        for weight, gradient in zip(weights, self._gradients, strict=True):
            if gradient is not None:
                part = gradient * weight.to(gradient)
                total = part if total is None else total.add_(part)
        assert total is not None  # a parameter that no term reaches has no group
        return [whole(total, self._parameter)]

    def rows(self) -> list[Tensor]:
        zero = torch.zeros_like(shard_of(self._parameter))
        return [torch.stack([zero if part is None else part for part in self._gradients])]

    def gradient(self, term: int) -> list[Tensor | None]:
        part = self._gradients[term]
        return [None if part is None else whole(part, self._parameter)]


def compute_sharded(
    terms: Terms,
    parameters: Parameters,
    want: Sequence[str],
    *,
    retain_graph: bool,
    scale: Tensor | None = None,
) -> Found:
    """Compute what is wanted of the gradients, by a backward pass for each term.

    The figures are this rank's part, so much enlarged that their mean over the ranks is the whole.

    Raises:
        ValueError: something listens to ``.grad``, gradients are not added up over the ranks, or
            the model has sharded parameters that are not among the chosen ones.
    """
    _refuse_listeners(parameters)
    count, device = len(terms), terms.tensors[0].device
    sizes = [tensor.numel() for tensor in parameters.tensors]
    table = StatisticsTable([one for one in SINGLE if one in want], sizes, count, device)
    bystanders = Bystanders(terms.tensors, parameters.tensors)
    start = torch.ones((), device=device) if scale is None else scale
    present = [k for k, term in enumerate(terms.tensors) if term.requires_grad]
    gradients: list[Sequence[Tensor | None]] = [[None] * len(parameters)] * count
    for k in present:
        term = terms.tensors[k]
        arrived = gradients_by_backward(
            [term],
            [start.to(term.dtype).reshape(term.shape)],
            parameters.tensors,
            retain_graph=retain_graph or k != present[-1],
            bystanders=bystanders,
        )
        parts = {p: shard_of(part) for p, part in enumerate(arrived) if part is not None}
        gradients[k] = [parts.get(position) for position in range(len(parameters))]
        filled = {p: part for p, part in parts.items() if part.numel()}
        table.add(k, list(filled), list(filled.values()))
    _refuse_silence(gradients, parameters)
    reached = [[part is not None for part in row] for row in gradients]
    groups: list[Group] = [
        Shards(position, tensor, [row[position] for row in gradients])
        for position, tensor in enumerate(parameters.tensors)
        if any(row[position] is not None for row in gradients)
    ]
    gramian = None
    if "gramian" in want or "cosine" in want:
        gramian = total_products(groups, count, device)
    return Found(_enlarged(table, parameters), gramian, groups, reached)


def _enlarged(table: StatisticsTable, parameters: Parameters) -> StatisticsTable:
    """Sums over a shard, so much enlarged that their mean over the ranks is the whole sum."""
    factors = table.sizes.new_tensor([shards(tensor) for tensor in parameters.tensors])
    return table.replaced(
        {
            name: kept if name == "max_abs" else kept * factors[:, None]
            for name, kept in table.kept.items()
        }
    )


def refuse_flattened(parameters: Parameters) -> None:
    """Raise where parameters were put into a flat one by ``FullyShardedDataParallel``.

    Raises:
        ValueError: they were.
    """
    for name, tensor in zip(parameters.names, parameters.tensors, strict=True):
        if getattr(tensor, "_fsdp_flattened", False):
            raise ValueError(
                f"the parameter {name!r} is part of a flat one of FullyShardedDataParallel (FSDP1),"
                " which hides the gradients of single terms: shard the model with "
                "torch.distributed.fsdp.fully_shard (FSDP2)"
            )


def _refuse_listeners(parameters: Parameters) -> None:
    for name, tensor in zip(parameters.names, parameters.tensors, strict=True):
        if is_sharded(tensor) and tensor._post_accumulate_grad_hooks:
            raise ValueError(
                f"the sharded parameter {name!r} has a hook that runs when its gradient is there "
                "(register_post_accumulate_grad_hook); it would run for every single term: step "
                "the optimiser after balancer.backward instead"
            )


def _refuse_silence(gradients: Sequence[Sequence[Tensor | None]], parameters: Parameters) -> None:
    sharded = [position for position, one in enumerate(parameters.tensors) if is_sharded(one)]
    if all(row[position] is None for row in gradients for position in sharded):
        raise ValueError(
            "no gradient of any term arrived at the sharded parameters: either the terms do not "
            "depend on them, or the gradients are not added up over the ranks in this step "
            "(set_requires_gradient_sync(False)); balancing needs them in every step, and they "
            "accumulate in .grad all the same"
        )


def gradients_by_backward(
    roots: Sequence[Tensor],
    starts: Sequence[Tensor],
    over: Sequence[Tensor],
    *,
    retain_graph: bool,
    bystanders: Bystanders | None = None,
) -> list[Tensor | None]:
    """The gradients that a plain backward pass brings; ``.grad`` is afterwards as it was before.

    Args:
        roots: the tensors that the pass starts from.
        starts: their gradients.
        over: the parameters, sharded or not.
        retain_graph: whether the graph can be gone through again afterwards.
        bystanders: the other leaves behind the roots, and perhaps more.

    Raises:
        ValueError: a gradient arrived at sharded parameters that are not among these.
    """
    others = bystanders or Bystanders(roots, over)
    before = [tensor.grad for tensor in over]
    with others.left_alone():
        for tensor in over:
            tensor.grad = None
        try:
            torch.autograd.backward(roots, starts, retain_graph=retain_graph)
            others.check(roots, over)
            return [_placed(tensor) for tensor in over]
        finally:
            for tensor, grad in zip(over, before, strict=True):
                tensor.grad = grad


def _placed(parameter: Any) -> Tensor | None:
    """The gradient of a parameter, divided among the ranks like the parameter itself."""
    gradient: Any = parameter.grad
    if gradient is None or not is_sharded(parameter):
        return gradient  # type: ignore[no-any-return]
    if gradient.placements != parameter.placements:
        gradient = gradient.redistribute(parameter.device_mesh, parameter.placements)
    return gradient  # type: ignore[no-any-return]


class Bystanders:
    """The leaves behind some tensors that are not among the parameters.

    A backward pass that is not told where to go fills their ``.grad``, too. Among them are the
    whole copies of sharded parameters, from which FSDP takes the gradient away.
    """

    def __init__(self, roots: Sequence[Tensor], over: Sequence[Tensor]) -> None:
        chosen = {id(tensor) for tensor in over}
        graph = read_graph(roots)
        self._bits = {id(root): 1 << bit for bit, root in enumerate(roots)}
        self._leaves = [
            (leaf, graph.masks[node])
            for key, (leaf, node) in graph.leaves.items()
            if key not in chosen
        ]

    @contextmanager
    def left_alone(self) -> Iterator[None]:
        """Inside, their ``.grad`` may be filled; afterwards it is what it was before."""
        before = [leaf.grad for leaf, _ in self._leaves]
        for leaf, _ in self._leaves:
            leaf.grad = None
        try:
            yield
        finally:
            for (leaf, _), grad in zip(self._leaves, before, strict=True):
                leaf.grad = grad

    def check(self, roots: Sequence[Tensor], over: Sequence[Tensor]) -> None:
        """Whatever FSDP took away from a copy must have arrived at one of the parameters.

        Raises:
            ValueError: it arrived elsewhere.
        """
        mask = sum(self._bits[id(root)] for root in roots)
        arrived = sum(is_sharded(one) and one.grad is not None for one in over)
        taken = sum(
            isinstance(leaf, nn.Parameter) and leaf.grad is None and bool(reached & mask)
            for leaf, reached in self._leaves
        )
        if 0 < arrived < taken:
            raise ValueError(
                f"the terms depend on {taken} sharded parameters, but only {arrived} of them are "
                "in `params`: with fully_shard, give the parameters of the whole model"
            )
