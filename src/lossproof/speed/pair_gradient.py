"""The gradient of reductions over all pairs: each block is computed once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lossproof.errors import UnsupportedGraphError
from lossproof.speed.captured import captured_leaves, now
from lossproof.speed.gate import Gate
from lossproof.speed.pair_function import Index, Pieces, pieces
from lossproof.speed.pair_sweep import Sweep, slices
from lossproof.speed.row_reductions import Extreme, State
from lossproof.speed.surroundings import Surroundings
from lossproof.write.arguments import transformed
from lossproof.write.hooks import hooks_held_back

Tensor = torch.Tensor

BESIDE = 128
"""How many rows and their extreme partners are put beside each other: of the block that they make,
only the diagonal is used, so a few rows cost little and many calls cost more."""

Block = tuple[Index, Index]


@dataclass(frozen=True)
class Gradient:
    """The gradient of the results in the tensors, from that in the results."""

    sweep: Sweep
    wanted: list[int]
    asked: list[int]
    """Which results have one."""
    places: list[State]
    before: Surroundings
    drawn: bool

    def __call__(self, given: Sequence[Tensor], *, attached: bool = False) -> list[Tensor]:
        """The gradients in the tensors that are wanted.

        Args:
            given: the upstream gradients, the results, and all tensors.
            attached: whether all blocks stay in the graph, so that it can be differentiated.
        """
        count = len(self.asked)
        tensors = given[2 * count :]
        scale = None if attached else self._scale(given[:count])
        if scale is not None:
            given = [*(one / scale for one in given[:count]), *given[count:]]
        found = [zeros(tensors[place]) for place in self.wanted]
        totals = dict(zip(self.wanted, found, strict=True))
        with self.again(given), torch.set_grad_enabled(attached):
            for part in self.parts():
                with torch.enable_grad():
                    arguments = pieces(
                        self.sweep.call, tensors, *part.block, self.wanted, attached=attached
                    )
                    since = now()
                    values = part.values(arguments)
                if not attached:
                    self._refuse_leaves_of_some_blocks(values, arguments, given, since)
                if not values.requires_grad:
                    continue
                slope = part.slope(values if attached else values.detach(), given)
                slopes = gradients_of(values, arguments.wanted, slope, create=attached)
                add(totals, arguments, slopes)
        if scale is not None:
            found = [total.mul_(scale) for total in found]
        return [
            total.to(tensors[place].dtype) for total, place in zip(found, self.wanted, strict=True)
        ]

    def _refuse_leaves_of_some_blocks(
        self, values: Tensor, arguments: Pieces, given: Sequence[Tensor], since: int
    ) -> None:
        """What the function closes over was looked for in one block; a branch may use more."""
        if transformed():
            return
        known = [*arguments.wanted, *self.captured(given)]
        more = captured_leaves([values], known, since, "`pair_fn`")
        if more:
            raise UnsupportedGraphError(
                f"`pair_fn` closes over a parameter of shape {list(more[0].shape)} that it uses "
                "for some pairs alone: give it by name, so that its gradient can be found"
            )

    def _scale(self, upstream: Sequence[Tensor]) -> Tensor | None:
        """What the gradient of values in float16 is divided by on its way.

        It makes the largest upstream a sixteenth. A mean over thousands of rows would leave many
        gradients below the smallest number of float16; blocks are added up in float32.
        """
        if self.sweep.dtype != torch.float16:
            return None
        largest = torch.stack([one.abs().max() for one in upstream]).max()
        usable = largest.isfinite() & (largest > 0)
        return torch.where(usable, 16 * largest, 1.0)

    def of_matrix(self, given: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The gradients for many upstreams at a time, which fill no buffer made for one."""
        count, gate, call = len(self.asked), Gate(), self.sweep.call
        tensors = gate.before(given[2 * count :], call.places)
        with self.again(given), torch.enable_grad():
            blocks = [
                call(pieces(call, tensors, *block, attached=True)) for block in self.sweep.blocks()
            ]
            beside = -(-self.sweep.sizes[1] // self.sweep.block[1])
            strips = [torch.cat(blocks[n : n + beside], 1) for n in range(0, len(blocks), beside)]
            matrix = torch.cat(strips)
            results = [self.sweep.reduction.whole(matrix, self.sweep.dims[k]) for k in self.asked]
        with gate.closed(), hooks_held_back(self.captured(given)):
            return torch.autograd.grad(
                results,
                [tensors[place] for place in self.wanted],
                given[:count],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )

    def captured(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The leaves that the function closes over."""
        tensors = given[2 * len(self.asked) :]
        return [tensors[place] for place in self.wanted if place not in self.sweep.call.places]

    @contextmanager
    def again(self, given: Sequence[Tensor]) -> Iterator[None]:
        """Inside, blocks are computed with what the forward pass was computed with."""
        before = self.before.again() if self.drawn else self.before.autocast_again()
        with before, hooks_held_back(self.captured(given)):
            yield

    def parts(self) -> Iterator[Part]:
        """What has to be computed again."""
        if isinstance(self.sweep.reduction, Extreme) and not self.drawn:
            for k in self.asked:
                dim, partners = self.sweep.dims[k], self.places[k][0]
                for along in slices(len(partners), min(BESIDE, *self.sweep.block)):
                    beside = partners[along]
                    yield _Beside(self, k, (along, beside) if dim else (beside, along))
        else:
            for block in self.sweep.blocks():
                yield _Whole(self, block)


@dataclass(frozen=True)
class _Whole:
    """A block of pairs."""

    gradient: Gradient
    block: tuple[slice, slice]

    def values(self, arguments: Pieces) -> Tensor:
        return self.gradient.sweep.call(arguments)

    def slope(self, values: Tensor, given: Sequence[Tensor]) -> Tensor:
        """The gradient in the values."""
        gradient, (rows, columns) = self.gradient, self.block
        slopes = []
        for n, k in enumerate(gradient.asked):
            dim = gradient.sweep.dims[k]
            along, first = (rows, columns.start) if dim else (columns, rows.start)
            result = given[len(gradient.asked) + n][along]
            state = (result, *(place[along] for place in gradient.places[k]))
            reduction = gradient.sweep.reduction
            slopes.append(reduction.slope(values, dim, first, given[n][along], state))
        slope = slopes[0] if len(slopes) == 1 else slopes[0] + slopes[1]
        return slope.to(values.dtype)


@dataclass(frozen=True)
class _Beside:
    """Some rows, each with its extreme partner."""

    gradient: Gradient
    result: int
    block: Block

    def values(self, arguments: Pieces) -> Tensor:
        return self.gradient.sweep.call(arguments).diagonal()

    def slope(self, values: Tensor, given: Sequence[Tensor]) -> Tensor:
        """The gradient in the values."""
        along = next(index for index in self.block if isinstance(index, slice))
        return given[self.gradient.asked.index(self.result)][along].to(values.dtype)


Part = _Whole | _Beside


def zeros(tensor: Tensor) -> Tensor:
    """Where gradients are added up."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return torch.zeros(tensor.shape, dtype=dtype, device=tensor.device)


def gradients_of(
    value: Tensor, wanted: Sequence[Tensor], slope: Tensor | None = None, *, create: bool = False
) -> Sequence[Tensor | None]:
    """The gradients of the values of pairs; ``None`` for what they do not depend on."""
    return torch.autograd.grad(value, wanted, slope, create_graph=create, allow_unused=True)


def add(totals: dict[int, Tensor], arguments: Pieces, slopes: Sequence[Tensor | None]) -> None:
    """Add the gradients of a block to the totals, by place, where they belong."""
    for (place, index, _), slope in zip(arguments.leaves, slopes, strict=True):
        if slope is None or place not in totals:
            continue
        if index is None:
            totals[place] += slope
        elif isinstance(index, slice):
            totals[place][index] += slope
        else:
            totals[place].index_add_(0, index, slope.to(totals[place].dtype))
