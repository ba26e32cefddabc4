"""Losses over all pairs of two batches without the matrix of all pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lossproof.speed.blocks import FEW_PAIRS, block_of
from lossproof.speed.pair_autograd import swept
from lossproof.speed.pair_coupling import refuse_coupled_pairs
from lossproof.speed.pair_function import Rows, rows, taken, values_of_pairs
from lossproof.speed.pair_probe import look
from lossproof.speed.pair_sweep import Sweep
from lossproof.speed.ranks import AcrossRanks, gathered, group_of, share_of_rank, usable_ranks
from lossproof.speed.row_reductions import REDUCTIONS, Extreme
from lossproof.write.accelerated import Accelerated
from lossproof.write.arguments import choice, integer
from lossproof.write.precision import autocast_of
from lossproof.write.sweeping import observed

Tensor = torch.Tensor
Shared = Mapping[str, Any]
Results = tuple[Tensor, ...]
"""One for each axis that is reduced."""


class PairReduction(Accelerated):
    """A reduction over the values of all pairs, in blocks; made by :func:`pairs`."""

    def __init__(
        self,
        pair_fn: Callable[..., Tensor],
        reduce: str,
        *,
        dim: int | tuple[int, ...] = 1,
        block_size: int | None = None,
        across_ranks: AcrossRanks = False,
    ) -> None:
        super().__init__()
        if not callable(pair_fn):
            raise TypeError(f"`pair_fn` must be a function or a Module, got {pair_fn!r}")
        self.pair_fn = pair_fn
        self.reduce = choice("reduce", reduce, tuple(REDUCTIONS))
        self.dim = dim
        self.block_size = block_size
        if block_size is not None:
            integer("block_size", block_size, minimum=1)
        self.across_ranks = usable_ranks(across_ranks)
        self._dims = _usable_dims(dim)
        self._reduction = REDUCTIONS[reduce]
        self._tried = False

    def extra_repr(self) -> str:
        shown = [f"reduce={self.reduce!r}", f"dim={self.dim}"]
        if not isinstance(self.pair_fn, torch.nn.Module):
            shown.insert(0, getattr(self.pair_fn, "__name__", "pair_fn"))
        return ", ".join(shown)

    def forward(self, x: Rows, y: Rows | None = None, **shared: Any) -> Any:
        """The reduced rows; the arguments are those of :func:`pairs`."""
        if torch.compiler.is_compiling() and not self._is_small(x, x if y is None else y):
            outside = torch.compiler.disable(self._reduced)  # type: ignore[no-untyped-call]
            return outside(x, y, shared, self._in_blocks)
        return self._reduced(x, y, shared, self._in_blocks)

    def plain(self, x: Rows, y: Rows | None = None, **shared: Any) -> Any:
        """The same from the matrix of all pairs, with all the memory that this takes."""
        return self._reduced(x, y, shared, self._whole)

    def _reduced(
        self,
        x: Rows,
        y: Rows | None,
        shared: Shared,
        results_of: Callable[[Rows, Rows, Shared], tuple[Results, torch.dtype]],
    ) -> Any:
        """The results as they are returned."""
        group = group_of(self.across_ranks)
        y = x if y is None else y
        if group is None:
            counts = dict(enumerate(_sizes(x, y)))
            results, dtype = results_of(x, y, shared)
        else:
            results, dtype, counts = self._on_ranks(group, x, y, shared, results_of)
        if self.reduce == "mean":
            results = tuple(
                result / max(1, counts[dim])
                for result, dim in zip(results, self._dims, strict=True)
            )
        if dtype.is_floating_point and autocast_of(rows("x", x)) is None:
            results = tuple(result.to(dtype) for result in results)
        return results if isinstance(self.dim, tuple) else results[0]

    def _on_ranks(
        self,
        group: Any,
        x: Rows,
        y: Rows,
        shared: Shared,
        results_of: Callable[[Rows, Rows, Shared], tuple[Results, torch.dtype]],
    ) -> tuple[Results, torch.dtype, dict[int, int]]:
        """The results for the rows and columns of this rank, and of how many pairs each is made.

        A rank has its own rows of ``x`` and all of ``y``. What it finds of a column is a part, and
        whose column it is joins the parts of all ranks.
        """
        parts = rows("y", y)
        device = parts[0].device
        own_rows = share_of_rank(rows("x", x)[0].shape[0], group, device=device)
        everything, own_columns = gathered("y", parts, group)
        if 0 in self._dims and 0 in own_rows.counts and isinstance(self._reduction, Extreme):
            raise ValueError(f"`x` must have rows on every rank for reduce={self.reduce!r}, dim=0")
        y = _in_form(y, everything)
        results, dtype = results_of(x, y, shared)
        found = []
        for dim, result in zip(self._dims, results, strict=True):
            if dim == 0:
                (table,), _ = gathered("the results", [result.unsqueeze(0)], group)
                own = table[:, own_columns.start : own_columns.stop]
                found.append(self._reduction.whole(own, 0))
            else:
                found.append(result)
        return tuple(found), dtype, {0: own_rows.total, 1: own_columns.total}

    def _whole(self, x: Rows, y: Rows, shared: Shared) -> tuple[Results, torch.dtype]:
        """The results from the whole matrix, under autograd; and the dtype of the values."""
        matrix = values_of_pairs(self.pair_fn(x, y, **shared), _sizes(x, y))
        self._check_dtype(matrix.dtype)
        return tuple(self._reduction.whole(matrix, dim) for dim in self._dims), matrix.dtype

    def _in_blocks(self, x: Rows, y: Rows, shared: Shared) -> tuple[Results, torch.dtype]:
        """The same in blocks, unless there is no more than one, or nothing may hide the matrix."""
        sizes = _sizes(x, y)
        parts = (*rows("x", x), *rows("y", y))
        others = [one for one in shared.values() if isinstance(one, Tensor)]
        if 0 in sizes or observed([*parts, *others]):
            return self._whole(x, y, shared)
        call, tensors = taken(self.pair_fn, x, y, shared)
        if not self._tried:
            refuse_coupled_pairs(call, tensors)
            self._tried = True
        if self.block_size is None and sizes[0] * sizes[1] <= FEW_PAIRS:
            return self._whole(x, y, shared)
        seen = look(call, tensors)
        block = block_of(sizes, seen.bytes, parts[0].device, self.block_size)
        if block == sizes:
            return self._whole(x, y, shared)
        self._check_dtype(seen.dtype)
        sweep = Sweep(call, self._reduction, self._dims, sizes, block, seen.dtype)
        differentiable = seen.differentiable and torch.is_grad_enabled()
        results = swept(sweep, [*tensors, *seen.captured], differentiable=differentiable)
        return results, seen.dtype

    def _is_small(self, x: Rows, y: Rows) -> bool:
        """Whether the matrix may stand in a compiled graph: it is no larger than a block."""
        if self.across_ranks is not False:
            return False
        (n, m), device = _sizes(x, y), rows("x", x)[0].device
        return block_of((n, m), 2 * rows("x", x)[0].element_size(), device, self.block_size) == (
            n,
            m,
        )

    def _check_dtype(self, dtype: torch.dtype) -> None:
        if self.reduce in {"mean", "logsumexp"} and not dtype.is_floating_point:
            raise TypeError(
                f"`pair_fn` must return floating-point values for reduce={self.reduce!r}, "
                f"got {dtype}"
            )


def _usable_dims(dim: Any) -> tuple[int, ...]:
    dims = dim if isinstance(dim, tuple) else (dim,)
    if dims not in {(0,), (1,), (0, 1), (1, 0)} or any(isinstance(one, bool) for one in dims):
        raise ValueError(
            "`dim` must be 1 (reduce over `y`), 0 (reduce over `x`) or both, as (1, 0), "
            f"got {dim!r}"
        )
    return dims


def _sizes(x: Rows, y: Rows) -> tuple[int, int]:
    return rows("x", x)[0].shape[0], rows("y", y)[0].shape[0]


def _in_form(like: Rows, parts: list[Tensor]) -> Rows:
    """Tensors in the form of others: one, a tuple, a named tuple."""
    if not isinstance(like, tuple):
        return parts[0]
    named: Callable[[list[Tensor]], Rows] = getattr(like, "_make", tuple)
    return named(parts)


def pairs(
    pair_fn: Callable[..., Tensor],
    reduce: str,
    *,
    dim: int | tuple[int, ...] = 1,
    block_size: int | None = None,
    across_ranks: AcrossRanks = False,
) -> PairReduction:
    r"""Reduce the values of all pairs, row by row, without the matrix of all pairs."""
    return PairReduction(pair_fn, reduce, dim=dim, block_size=block_size, across_ranks=across_ranks)
