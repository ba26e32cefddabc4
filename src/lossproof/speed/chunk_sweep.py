"""One sweep over the chunks: the sum of the values and its gradients, a chunk at a time.

The gradients are those of the sum, not of the mean: they are numbers of ordinary size, which half
precision keeps, where those of a mean over many items would be flushed to zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lossproof.errors import UnsupportedGraphError
from lossproof.speed.captured import captured_leaves, now
from lossproof.speed.chunk_plan import Part, Plan, blocks, taken
from lossproof.speed.half_products import add_product, fitting_scale, times
from lossproof.speed.heads import LinearHead
from lossproof.speed.surroundings import plain_precision
from lossproof.write.arguments import transformed
from lossproof.write.hooks import hooks_held_back
from lossproof.write.precision import any_half, widened

Tensor = torch.Tensor
LOGITS, TARGET = 0, 1
"""Where the gradients in what the heads give are kept: in the places of what they are given."""


def sweep(
    plan: Plan, tensors: Sequence[Tensor], needed: Sequence[bool], cotangent: Tensor | None = None
) -> tuple[Tensor, list[Tensor | None]]:
    """The sum of the weighted values, and its gradients in the tensors that need one.

    Args:
        plan: how a chunk is computed.
        tensors: those of the call, in the order of the plan.
        needed: which of them need a gradient.
        cotangent: a factor for each value; without it the values are just added up.

    Returns:
        The sum, detached, and for each tensor its gradient or ``None``. Gradients in tensors of
        float16, and in shared ones of any half precision, are float32.
    """
    run = _Sweep(plan, tensors, needed, cotangent)
    with plan.surroundings.autocast_again(), hooks_held_back(plan.captured):
        for part in plan.parts():
            run.chunk(part)
    return run.total(), run.found


class _Sweep:
    """What is the same for all chunks, and what they add up to."""

    def __init__(
        self,
        plan: Plan,
        tensors: Sequence[Tensor],
        needed: Sequence[bool],
        cotangent: Tensor | None,
    ) -> None:
        self.plan = plan
        self.rows, shared = plan.split(tensors)
        self.needs_rows, self.needs_shared = plan.split(needed)
        self.leaves = plan.leaves(shared, self.needs_shared)
        self.cotangent = cotangent
        self.sums: list[Tensor] = []
        self.found: list[Tensor | None] = [
            _buffer(tensor, cut=place < plan.row_tensors) if need else None
            for place, (tensor, need) in enumerate(zip(tensors, needed, strict=True))
        ]
        self.linear = _Products(plan.head, self) if isinstance(plan.head, LinearHead) else None

    def total(self) -> Tensor:
        """The sum over all chunks; there may be many, so that it is taken in float64."""
        parts = torch.stack(self.sums)
        wide = torch.float64 if parts.device.type != "mps" else parts.dtype
        return parts.sum(dtype=wide).to(parts.dtype)

    def chunk(self, part: Part) -> None:
        """Add one chunk."""
        plan = self.plan
        rows = [
            taken(row, part).detach().requires_grad_(need)
            for row, need in zip(self.rows, self.needs_rows, strict=True)
        ]
        with torch.enable_grad():
            of_head = plan.of_head(self.leaves)
            if self.linear is None:
                logits = output = plan.head.logits(rows[0], of_head)
            else:
                output = self.linear.head.features(rows[0], of_head)
                logits = self.linear.logits(output)
            given = plan.through_target_head(rows, self.leaves)
        wants_slope = output.requires_grad or (self.linear is not None and self.linear.needed)
        slopes = self._loss(logits, wants_slope, given, part)
        slope, of_target = slopes.get(LOGITS), slopes.get(TARGET)
        if self.linear is not None and slope is not None:
            slope = self.linear.add(output, slope)
        if slope is not None and output.requires_grad:
            self._through(output, slope, rows, part)
        if plan.target_head is not None and of_target is not None:
            self._through(given[1], of_target, rows, part)

    def _loss(
        self, output: Tensor, wants_slope: bool, rows: Sequence[Tensor], part: Part
    ) -> dict[int, Tensor]:
        """Add a chunk's sum and the gradients of the loss itself.

        Products want many rows and a loss in plain PyTorch few, of which it holds several copies.
        So the loss goes through the logits in blocks, and leaves its gradient where they were.

        Returns:
            The gradients that have still to go through the heads.
        """
        plan = self.plan
        if plan.slope is not None and not any(row.requires_grad for row in rows[1:]):
            return {LOGITS: self._formula(output, rows, part)}
        logits: Tensor = widened(output.detach())
        found = {LOGITS: logits} if wants_slope else {}
        if wants_slope and self.linear is None and logits.data_ptr() == output.data_ptr():
            found[LOGITS] = torch.empty_like(logits)  # the head may have kept what it returned
        if plan.target_head is not None and rows[1].requires_grad:
            found[TARGET] = torch.empty_like(rows[1])
        for block in blocks(logits):
            own = [row.detach()[block].requires_grad_(row.requires_grad) for row in rows[1:]]
            leaf = logits[block].requires_grad_(wants_slope)
            slopes = self._block([leaf, *own], _within(part, block))
            for place, into in found.items():
                slope = slopes.get(place)
                into[block] = 0.0 if slope is None else slope
        return found

    def _block(self, rows: Sequence[Tensor], part: Part) -> dict[int, Tensor | None]:
        """Add the sum of a few rows and their gradients; return those that go through the heads."""
        plan = self.plan
        wanted = self._wanted(rows, 0)
        wanted |= self._wanted(plan.beyond_heads(self.leaves), plan.row_tensors + plan.heads)
        if plan.compiled is not None and wanted:
            slopes = self._compiled(plan.compiled, rows, part, list(wanted))
        else:
            slopes = self._by_autograd(rows, part, list(wanted.values()))
        found: dict[int, Tensor | None] = dict(zip(wanted, slopes, strict=True))
        in_heads = {LOGITS} if plan.target_head is None else {LOGITS, TARGET}
        self._add({place: one for place, one in found.items() if place not in in_heads}, part)
        return found

    def _by_autograd(
        self, rows: Sequence[Tensor], part: Part, wanted: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        plan = self.plan
        with torch.enable_grad():
            since = now()
            values = plan.values(rows[0], rows, plan.beyond_heads(self.leaves))
            values = plan.counted(values, rows)
            self._refuse_leaves_of_some_rows(values, rows, since)
            if self.cotangent is not None:
                values = values * taken(self.cotangent, part)
            total = values.sum()
        self.sums.append(total.detach())
        if not wanted or not total.requires_grad:
            return [None] * len(wanted)
        return torch.autograd.grad(total, wanted, allow_unused=True)

    def _refuse_leaves_of_some_rows(
        self, values: Tensor, rows: Sequence[Tensor], since: int
    ) -> None:
        """What a loss closes over was looked for in two rows; a branch may use more in others."""
        if transformed():
            return
        more = captured_leaves([values], [*rows, *self.leaves], since, "`loss`")
        if more:
            raise UnsupportedGraphError(
                f"`loss` closes over a parameter of shape {list(more[0].shape)} that it uses for "
                "some rows alone: give it by name, so that its gradient can be found"
            )

    def _compiled(
        self, compiled: Any, rows: Sequence[Tensor], part: Part, wanted: Sequence[int]
    ) -> Sequence[Tensor | None]:
        plan = self.plan
        factor = () if self.cotangent is None else (taken(self.cotangent, part),)
        # The compiled function knows no heads: what the loss takes follows on its rows.
        numbers = [place - (plan.heads if place >= plan.row_tensors else 0) for place in wanted]
        of_loss = plan.beyond_heads(self.leaves)
        slopes, total = compiled(rows[0], rows[1:], of_loss, factor, numbers)
        self.sums.append(total)
        found: Sequence[Tensor | None] = slopes
        return found

    def _formula(self, output: Tensor, rows: Sequence[Tensor], part: Part) -> Tensor:
        plan = self.plan
        assert plan.slope is not None
        logits: Tensor = widened(output.detach())
        if logits.data_ptr() == output.data_ptr() and self.linear is None:
            logits = logits.clone()  # the head may have kept what it returned
        values = plan.slope.values_and_slope(logits, rows[1])
        factor = plan.counted(torch.ones_like(values), rows)
        if self.cotangent is not None:
            factor = factor * taken(self.cotangent, part)
        plan.item_shape = ()
        # A value that does not count may be NaN.
        self.sums.append(torch.where(factor == 0, 0.0, values * factor).sum())
        if plan.weighted or plan.masked or self.cotangent is not None:
            logits.mul_(factor.unsqueeze(1))
        return logits

    def _through(self, output: Tensor, slope: Tensor, rows: Sequence[Tensor], part: Part) -> None:
        """Add the gradients of a head, or of what stands before its linear layer."""
        wanted = self._wanted(rows, 0) | self._wanted(self.leaves, self.plan.row_tensors)
        scale = None
        if output.dtype is torch.float16 and slope.dtype is not torch.float16:
            scale = fitting_scale(slope.abs().amax(), 16.0)
            slope = slope * scale
        slopes = torch.autograd.grad(
            output, list(wanted.values()), slope.to(output.dtype), allow_unused=True
        )
        self._add(dict(zip(wanted, slopes, strict=True)), part, scale)

    def _wanted(self, tensors: Sequence[Tensor], first: int) -> dict[int, Tensor]:
        """Those that a gradient is wanted in, by their places among all tensors."""
        return {
            place: tensor for place, tensor in enumerate(tensors, first) if tensor.requires_grad
        }

    def _add(
        self, slopes: Mapping[int, Tensor | None], part: Part, scale: Tensor | None = None
    ) -> None:
        for place, slope in slopes.items():
            into = self.found[place]
            if slope is None or into is None:
                continue
            added = slope if scale is None else slope.to(into.dtype) / scale
            if place >= self.plan.row_tensors:
                into.add_(added)
            elif isinstance(part, slice):
                into[part] += added
            else:
                into.index_add_(0, part, added.to(into.dtype))


class _Products:
    """The gradients of a linear layer, from products of matrices."""

    def __init__(self, head: LinearHead, run: _Sweep) -> None:
        self.head = head
        first = run.plan.row_tensors
        self.weight_gradient = run.found[first]
        self.bias_gradient = run.found[first + 1] if head.bias is not None else None
        self.needed = self.weight_gradient is not None or self.bias_gradient is not None
        weight = run.leaves[0].detach()
        kind = weight.device.type
        self.dtype = weight.dtype
        for one in run.plan.surroundings.autocast:
            if one.device == kind and one.enabled and weight.dtype != torch.float64:
                self.dtype = one.dtype
        self.weight = weight.to(self.dtype)  # once, and not for each chunk
        self.bias = None if head.bias is None else run.leaves[1].detach().to(self.dtype)
        self.device = kind

    def logits(self, features: Tensor) -> Tensor:
        found: Tensor = torch.nn.functional.linear(features.detach(), self.weight, self.bias)
        return found

    def add(self, features: Tensor, slope: Tensor) -> Tensor | None:
        """Add the gradients of the weight and the bias; return that in the features."""
        slope = slope.reshape(-1, slope.shape[-1])  # a row may have several vectors of features
        with plain_precision(self.device):
            if self.weight_gradient is not None:
                own = features.detach().reshape(-1, features.shape[-1]).to(self.dtype)
                add_product(self.weight_gradient, slope, own)
            if self.bias_gradient is not None:
                self.bias_gradient.add_(slope.sum(0))
            if not features.requires_grad:
                return None
            return times(slope, self.weight).reshape(features.shape)


def _within(part: Part, block: slice) -> Part:
    """A block of a part, as rows of the whole."""
    if isinstance(part, slice):
        return slice(part.start + block.start, min(part.start + block.stop, part.stop))
    return part[block]


def _buffer(tensor: Tensor, *, cut: bool) -> Tensor:
    """Where gradients are added up: those of shared tensors come from many chunks."""
    half = tensor.dtype is torch.float16 or (not cut and any_half((tensor,)))
    return torch.zeros_like(
        tensor,
        dtype=torch.float32 if half else None,
        memory_format=torch.contiguous_format,
    )
