"""Losses over all pairs of two batches without the matrix of all pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from lossproof.speed.blocks import block_of
from lossproof.speed.pair_function import Rows, pieces, taken
from lossproof.speed.pair_probe import look
from lossproof.speed.pair_sweep import Sweep, swept
from lossproof.speed.row_reductions import REDUCTIONS
from lossproof.write.accelerated import Accelerated
from lossproof.write.arguments import choice, integer, transformed
from lossproof.write.precision import autocast_of

Tensor = torch.Tensor
Dim = Literal[0, 1] | tuple[Literal[0, 1], ...]


class PairReduction(Accelerated):
    """A reduction over the values of all pairs; made by :func:`pairs`."""

    def __init__(
        self,
        pair_fn: Callable[..., Tensor],
        reduce: str,
        *,
        dim: Dim = 1,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        self.pair_fn = pair_fn
        self.reduce = choice("reduce", reduce, tuple(REDUCTIONS))
        self.dim = dim
        self.block_size = (
            None if block_size is None else integer("block_size", block_size, minimum=1)
        )

    def forward(self, x: Rows, y: Rows | None = None, **shared: Any) -> Any:
        y = x if y is None else y
        call, tensors = taken(x, y, shared, self.pair_fn)
        sizes = (tensors[call.x[0]].shape[0], tensors[call.y[0]].shape[0])
        if transformed() or torch.compiler.is_compiling() or 0 in sizes:
            return self.plain(x, y, **shared)
        seen = look(call, tensors, sizes)
        block = block_of(sizes, seen.bytes, self.block_size)
        if block == sizes:
            return self.plain(x, y, **shared)
        tensors = [*tensors, *seen.captured]
        sweep = Sweep(call, REDUCTIONS[self.reduce], self._dims, sizes, block)
        results = swept(
            sweep, tensors, differentiable=seen.differentiable and torch.is_grad_enabled()
        )
        return self._finished(results, sizes, seen.dtype, tensors)

    def plain(self, x: Rows, y: Rows | None = None, **shared: Any) -> Any:
        """The same from the whole matrix."""
        y = x if y is None else y
        call, tensors = taken(x, y, shared, self.pair_fn)
        whole = slice(None)
        matrix = call(pieces(call, tensors, whole, whole, attached=True))
        results = tuple(REDUCTIONS[self.reduce].whole(matrix, dim) for dim in self._dims)
        return self._finished(results, tuple(matrix.shape), matrix.dtype, tensors)

    @property
    def _dims(self) -> tuple[int, ...]:
        return self.dim if isinstance(self.dim, tuple) else (self.dim,)

    def _finished(
        self,
        results: tuple[Tensor, ...],
        sizes: tuple[int, ...],
        dtype: torch.dtype,
        tensors: list[Tensor],
    ) -> Any:
        """The results as they are returned: means divided, in the dtype of the values."""
        if self.reduce == "mean":
            results = tuple(
                result / max(1, sizes[dim]) for result, dim in zip(results, self._dims, strict=True)
            )
        if autocast_of(tuple(tensors)) is None:
            results = tuple(result.to(dtype) for result in results)
        return results if isinstance(self.dim, tuple) else results[0]


def pairs(
    pair_fn: Callable[..., Tensor],
    reduce: str,
    *,
    dim: Dim = 1,
    block_size: int | None = None,
) -> PairReduction:
    """Reduce the values of all pairs, row by row, without the matrix of all pairs."""
    return PairReduction(pair_fn, reduce, dim=dim, block_size=block_size)
