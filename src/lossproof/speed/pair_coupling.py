"""Whether the value of a pair depends on that pair alone, and not on the block it is computed in.

Asked once, of a few pairs: what the function says of them by themselves, and in company.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress

import torch

from lossproof.errors import UsageError
from lossproof.speed.pair_function import PairFunction, Pieces, pieces
from lossproof.speed.pair_probe import drawn_between
from lossproof.speed.surroundings import surroundings

Tensor = torch.Tensor

COMPANY = 12
"""Rows of ``x`` and of ``y`` that are computed together; as many of both, where there are."""
APART = ((1, 2), (3, 0))
"""From which row and which column on each fourth is computed once more without the others.

A row and a column of the same number do not stand beside each other there, and what is the largest
of the company is in one of the two at most."""


class CoupledPairsError(UsageError):
    """The value of a pair depends on the other pairs it is computed with.

    Such a function of pairs cannot be computed in blocks.
    """


def refuse_coupled_pairs(call: PairFunction, tensors: Sequence[Tensor]) -> None:
    """Compare a few pairs by themselves with the same pairs in company.

    Raises:
        CoupledPairsError: they differ.
    """
    sizes = call.sizes(tensors)
    if max(sizes) == 1 or any(tensor.is_meta for tensor in tensors):
        return
    rows, columns = (_spread(size, tensors[0].device) for size in sizes)
    before = surroundings(tensors)
    with before.again(), torch.no_grad():
        together, *apart = _computed(call, tensors, rows, columns)
        drawn = drawn_between(before, surroundings(tensors))
    if drawn:
        warnings.warn(
            "`pair_fn` draws random numbers, so it could not be tried whether the value of a pair "
            "depends on the block that it is computed in",
            RuntimeWarning,
            stacklevel=7,  # whoever calls the Module
        )
        return
    for alone, (some_rows, some_columns) in zip(apart, _apart(rows, columns), strict=True):
        in_company = together[some_rows][:, some_columns]
        wrong = ~_near(alone, in_company, together)
        if wrong.any():
            raise CoupledPairsError(
                f"`pair_fn` gives {alone[wrong][0].item():g} for a pair in a block of "
                f"{list(alone.shape)} and {in_company[wrong][0].item():g} for the same pair in one "
                f"of {list(together.shape)}: it depends on the rest of the block (by a softmax, a "
                "mean, the number or the place of rows?), so that it cannot be computed in blocks; "
                "what belongs to a row can be given with it, as in `x=(rows, torch.arange(N))`"
            )


def _spread(size: int, device: torch.device) -> Tensor:
    """Some numbers of rows, from the first to the last."""
    numbers = torch.linspace(0, size - 1, min(COMPANY, size), dtype=torch.float64)
    return numbers.round().long().to(device)


def _apart(rows: Tensor, columns: Tensor) -> list[tuple[slice, slice]]:
    return [
        (slice(min(row, len(rows) - 1), None, 4), slice(min(column, len(columns) - 1), None, 4))
        for row, column in APART
    ]


def _computed(
    call: PairFunction, tensors: Sequence[Tensor], rows: Tensor, columns: Tensor
) -> list[Tensor]:
    """The values of all these pairs, and then of some of them without the others.

    In float64 where the function takes it: a distance from a difference of squares is rounded by
    far more than one ulp, and differently in blocks of other sizes.
    """
    blocks = [
        pieces(call, tensors, rows[some], columns[others])
        for some, others in [(slice(None), slice(None)), *_apart(rows, columns)]
    ]
    with suppress(TypeError, ValueError, RuntimeError):  # a Module of float32, no float64 at all
        return [call(_in_float64(block)) for block in blocks]
    try:
        return [call(block) for block in blocks]
    except (RuntimeError, IndexError) as error:
        raise CoupledPairsError(
            f"`pair_fn` failed in a block of {len(rows)} rows of `x` and {len(columns)} of `y`, or "
            "in a smaller one; what belongs to the rows must be given with them, as in "
            f"`x=(rows, torch.arange(N))`, and not have the size of the batch: {error}"
        ) from error


def _in_float64(arguments: Pieces) -> Pieces:
    def wide(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    return Pieces(
        tuple(map(wide, arguments.x)),
        tuple(map(wide, arguments.y)),
        {name: wide(tensor) for name, tensor in arguments.shared.items()},
        (),
    )


def _near(one: Tensor, other: Tensor, company: Tensor) -> Tensor:
    """Equal but for rounding, which goes with the size of ordinary values."""
    if not one.is_floating_point():
        return one == other
    sizes = company[company.isfinite() & (company != 0)].abs().float()
    # Not the largest: a mask is often written as -1e9.
    scale = sizes.quantile(0.25).item() if sizes.numel() else 0.0
    eps = torch.finfo(one.dtype).eps ** 0.4
    return torch.isclose(one, other, rtol=eps, atol=eps * scale, equal_nan=True)
