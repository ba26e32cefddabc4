"""Losses over all pairs of two batches without the matrix of all pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.autograd import forward_ad

from lossproof.speed.blocks import FEW_PAIRS, UNCUT, UNCUT_EXTREMES, block_of
from lossproof.speed.pair_autograd import swept
from lossproof.speed.pair_coupling import refuse_coupled_pairs
from lossproof.speed.pair_function import Rows, rows, taken, values_of_pairs
from lossproof.speed.pair_probe import look
from lossproof.speed.pair_sweep import Sweep
from lossproof.speed.ranks import AcrossRanks, gathered, group_of, share_of_rank, usable_ranks
from lossproof.speed.row_reductions import REDUCTIONS, Extreme
from lossproof.write.accelerated import Accelerated
from lossproof.write.arguments import choice, integer, same_device
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
        _check_shared(shared)
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
        sizes = _sizes(x, y)
        matrix = values_of_pairs(self.pair_fn(x, y, **shared), sizes)
        self._check_dtype(matrix.dtype)
        return tuple(self._reduction.whole(matrix, dim) for dim in self._dims), matrix.dtype

    def _in_blocks(self, x: Rows, y: Rows, shared: Shared) -> tuple[Results, torch.dtype]:
        """The same in blocks, unless there is no more than one, or nothing may hide the matrix."""
        sizes = _sizes(x, y)
        parts = (*rows("x", x), *rows("y", y))
        others = [one for one in shared.values() if isinstance(one, Tensor)]
        # In forward mode the function may close over what has a tangent.
        forward_mode = forward_ad._current_level >= 0
        if 0 in sizes or forward_mode or observed([*parts, *others]):
            return self._whole(x, y, shared)
        call, tensors = taken(self.pair_fn, x, y, shared)
        if not self._tried:
            refuse_coupled_pairs(call, tensors)
            self._tried = max(sizes) > 1  # a pair that is alone tells nothing
        if self.block_size is None and sizes[0] * sizes[1] <= FEW_PAIRS:
            return self._whole(x, y, shared)
        seen = look(call, tensors)
        block = self._block(sizes, seen.bytes, parts[0].device)
        if block is None:
            return self._whole(x, y, shared)
        self._check_dtype(seen.dtype)
        sweep = Sweep(call, self._reduction, self._dims, sizes, block, seen.dtype)
        differentiable = seen.differentiable and torch.is_grad_enabled()
        results = swept(sweep, [*tensors, *seen.captured], differentiable=differentiable)
        return results, seen.dtype

    def _is_small(self, x: Rows, y: Rows) -> bool:
        """Whether the matrix may stand in a compiled graph: it would not be cut."""
        if self.across_ranks is not False:
            return False
        one = rows("x", x)[0]
        return self._block(_sizes(x, y), 2 * one.element_size(), one.device) is None

    def _block(
        self, sizes: tuple[int, int], pair_bytes: int, device: torch.device
    ) -> tuple[int, int] | None:
        extreme = isinstance(self._reduction, Extreme)
        uncut = UNCUT_EXTREMES if extreme else UNCUT
        return block_of(sizes, pair_bytes, device, self.block_size, uncut=uncut)

    def _check_dtype(self, dtype: torch.dtype) -> None:
        if self.reduce in {"mean", "logsumexp"} and not dtype.is_floating_point:
            raise TypeError(
                f"`pair_fn` must return floating-point values for reduce={self.reduce!r}, "
                f"got {dtype}"
            )


def _check_shared(shared: Shared) -> None:
    for name, one in shared.items():
        if isinstance(one, torch.Generator):
            raise TypeError(
                f"`{name}` must not be a torch.Generator: the gradient computes each block once "
                "more and would draw other numbers; draw from torch's own, after torch.manual_seed"
            )


def _usable_dims(dim: Any) -> tuple[int, ...]:
    dims = dim if isinstance(dim, tuple) else (dim,)
    whole = all(isinstance(one, int) and not isinstance(one, bool) for one in dims)
    if not whole or dims not in ((0,), (1,), (0, 1), (1, 0)):
        raise ValueError(
            "`dim` must be 1 (reduce over `y`), 0 (reduce over `x`) or both, as (1, 0), "
            f"got {dim!r}"
        )
    return dims


def _sizes(x: Rows, y: Rows) -> tuple[int, int]:
    one, other = rows("x", x)[0], rows("y", y)[0]
    same_device(one, other, ("x", "y"))
    return one.shape[0], other.shape[0]


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
    r"""Reduce the values of all pairs, row by row, without the matrix of all pairs.

    .. math::
        r_i = \operatorname{reduce}_{j=1}^{M} f(x_i, y_j) \quad (\text{dim} = 1), \qquad
        c_j = \operatorname{reduce}_{i=1}^{N} f(x_i, y_j) \quad (\text{dim} = 0)

    Contrastive losses, kernel distances, optimal transport and mined triplets are an outer function
    of such rows. Pairs are computed in blocks and once more in the backward pass, so memory grows
    with N + M instead of N x M; most such losses also become faster. Values and gradients are those
    of the matrix but for rounding, for ``x``, ``y``, every tensor in ``shared``, and every
    parameter that ``pair_fn`` holds or closes over. Second derivatives have the same memory bound;
    from the third on all blocks are kept.

    ``pair_fn`` must treat each pair by itself, and what belongs to a row goes with it: labels, or
    the numbers of the rows, by which the diagonal can be left out. The first call tries that on a
    few pairs and refuses a function that looks at the rest of the block. It does not see what
    happens in rare blocks only (a parameter that only these close over is an error in the backward
    pass), and cannot tell where random numbers are drawn; these are drawn block by block, and are
    the same in the backward pass, but for those of a ``torch.Generator`` that ``pair_fn`` closes
    over.

    The reductions are those of ``torch``: among equal elements the first is the largest or the
    smallest, and takes the gradient; NaN counts as both. ``"max"`` and ``"min"`` compute only the
    winning pairs once more. A ``"logsumexp"`` of nothing but ``-inf`` is ``-inf`` with a gradient
    of 0. Of no rows the sum and the mean are 0. A mean over some of the pairs is a sum of the
    masked values over a sum of the mask. Half precision is accumulated in float32 and returned in
    its own dtype, under autocast in float32.

    Inside ``torch.func``'s transforms, in forward mode, for subclasses of tensors and for batches
    of upstream gradients (``is_grads_batched``) the whole matrix is computed, as by
    :meth:`PairReduction.plain`. So it is in a compiled graph where the matrix would not be cut
    into blocks; a larger one breaks the graph, and ``pair_fn`` may itself be compiled.

    Args:
        pair_fn: a function or Module, called as ``pair_fn(x_block, y_block, **shared)``, that
            returns the values of n x m pairs, shape (n, m). Blocks have the form of ``x`` and
            ``y``.
        reduce: ``"sum"``, ``"mean"``, ``"logsumexp"``, ``"max"`` or ``"min"``.
        dim: 1 reduces over ``y`` and gives (N,); 0 reduces over ``x`` and gives (M,); ``(1, 0)``
            gives a tuple of both, from one computation of each pair.
        block_size: rows of ``x`` and of ``y`` in a block. By default as many as fit into 8 MiB (64
            MiB on an accelerator) with what ``pair_fn`` keeps for its gradient, at least 32; a
            matrix of four such blocks is not cut.
        across_ranks: ``True`` or a process group: ``y`` is put together from all ranks, and
            gradients go back to the rank they belong to; the ranks may have different numbers of
            rows. Each rank gets the results of its own rows of ``x``, and with ``dim=0`` those of
            its own rows of ``y`` over all ranks' ``x``. ``DistributedDataParallel`` then trains as
            one process would with the mean of the ranks' losses. Shared tensors are each rank's
            own. :func:`lossproof.speed.share_of_rank` tells where a rank's rows stand.

    Returns:
        A Module, to be called as ``reduction(x, y=None, **shared)``. ``x`` and ``y`` are tensors
        (N, ...) and (M, ...) or tuples of tensors with the same first axis; without ``y`` the rows
        of ``x`` are compared with each other. It returns a tensor for one ``dim`` and a tuple for a
        tuple.

    Raises:
        TypeError: an argument is not of the type above, or ``pair_fn`` returns something else.
        ValueError: an option or a shape does not fit, or there is nothing to take the largest of.
        CoupledPairsError: the value of a pair depends on the pairs it is computed with.
        UnsupportedGraphError: ``pair_fn`` closes over a tensor that was computed from parameters.

    Example:
        >>> import torch
        >>> from lossproof import pairs
        >>> logits = pairs(lambda a, b, scale: scale * a @ b.T, "logsumexp", dim=(1, 0))
        >>> image, text = torch.eye(3), torch.eye(3)
        >>> of_images, of_texts = logits(image, text, scale=torch.tensor(2.0))
        >>> positive = 2.0 * (image * text).sum(1)
        >>> (of_images + of_texts - 2 * positive).mean() / 2
        tensor(0.2395)

        The nearest other row; the numbers of the rows leave out the diagonal:

        >>> def distance(a, b):
        ...     (rows, i), (others, j) = a, b
        ...     return torch.cdist(rows, others).masked_fill(i[:, None] == j, torch.inf)
        >>> points = torch.tensor([[0.0], [1.0], [3.0]])
        >>> pairs(distance, "min")((points, torch.arange(3)))
        tensor([1., 1., 2.])

        With the rows of all ranks, each has its number among them:

        >>> from lossproof.speed import share_of_rank
        >>> share = share_of_rank(len(points))
        >>> nearest = pairs(distance, "min", across_ranks=True)((points, share.numbers()))
        >>> nearest.sum() * len(share.counts) / share.total  # DDP takes the mean over the ranks
        tensor(1.3333)

    Source:
        Rabe, Staats (2021), Self-attention does not need O(n^2) memory (a log-sum-exp in blocks).
    """
    return PairReduction(pair_fn, reduce, dim=dim, block_size=block_size, across_ranks=across_ranks)
