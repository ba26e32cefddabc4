"""Whether the value of a pair depends on that pair alone, and not on the block it is computed in.

Asked once, of a few pairs: what the function says of them by themselves, and in company.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from lossproof.errors import UsageError
from lossproof.speed.pair_function import PairFunction, Pieces, pieces
from lossproof.speed.surroundings import drawn_between, surroundings

Tensor = torch.Tensor

COMPANY = 12
"""Rows of ``x`` and of ``y`` that are computed together; as many of both, where there are."""
APART = ((1, 2), (3, 0))
"""From which row and which column on each fourth is computed once more without the others.

A row and a column of the same number do not stand beside each other there, and what is the largest
of the company is in one of the two at most."""
ROUNDINGS = 64
"""What a value changes by where its arguments change by so many units of rounding is rounding."""
SHAKES = 8
"""How often the arguments are changed, at random."""


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
        blocks, (together, *apart) = _computed(call, tensors, rows, columns)
        drawn = drawn_between(before, surroundings(tensors))
    if drawn:
        warnings.warn(
            "`pair_fn` draws random numbers, so it could not be tried whether the value of a pair "
            "depends on the block that it is computed in",
            RuntimeWarning,
            stacklevel=7,  # whoever calls the Module
        )
        return
    places = _apart(rows, columns)
    for block, alone, (some_rows, some_columns) in zip(blocks[1:], apart, places, strict=True):
        in_company = together[some_rows][:, some_columns]
        wrong = ~_near(alone, in_company, together)
        if wrong.any():
            with before.again(), torch.no_grad():
                shaking = _shaking(call, blocks[0], together)[some_rows][:, some_columns]
                shaking = shaking.maximum(_shaking(call, block, alone))
            wrong = wrong.cpu() & (_apart_by(alone, in_company) > 4 * shaking)
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
) -> tuple[list[Pieces], list[Tensor]]:
    """The values of all these pairs, and then of some of them without the others; and of what.

    In float64 where the function takes it: a distance from a difference of squares is rounded by
    far more than one ulp, and differently in blocks of other sizes.
    """
    blocks = [
        pieces(call, tensors, rows[some], columns[others])
        for some, others in [(slice(None), slice(None)), *_apart(rows, columns)]
    ]
    with suppress(TypeError, ValueError, RuntimeError):  # a Module of float32, no float64 at all
        wide = [_in_float64(block) for block in blocks]
        return wide, [call(block) for block in wide]
    try:
        return blocks, [call(block) for block in blocks]
    except (RuntimeError, IndexError) as error:
        raise CoupledPairsError(
            f"`pair_fn` failed in a block of {len(rows)} rows of `x` and {len(columns)} of `y`, or "
            "in a smaller one; what belongs to the rows must be given with them, as in "
            f"`x=(rows, torch.arange(N))`, and not have the size of the batch: {error}"
        ) from error


def _in_float64(arguments: Pieces) -> Pieces:
    return _changed(arguments, torch.Tensor.double)


def _changed(arguments: Pieces, change: Callable[[Tensor], Tensor]) -> Pieces:
    """Arguments of which the floating-point tensors are changed."""

    def changed(tensor: Tensor) -> Tensor:
        return change(tensor) if tensor.is_floating_point() else tensor

    return Pieces(
        tuple(map(changed, arguments.x)),
        tuple(map(changed, arguments.y)),
        {name: changed(tensor) for name, tensor in arguments.shared.items()},
        (),
    )


def _shaking(call: PairFunction, arguments: Pieces, values: Tensor) -> Tensor:
    """By how much values change where what they are computed from changes in its last digits.

    It is far more than theirs where large numbers cancel, and a whole value where two are equal and
    the larger is picked.
    """
    generator = torch.Generator().manual_seed(0)

    def shaken(tensor: Tensor) -> Tensor:
        signs = torch.randint(-1, 2, tensor.shape, generator=generator).to(tensor)
        return tensor * (1 + ROUNDINGS * torch.finfo(tensor.dtype).eps * signs)

    changes = [_apart_by(call(_changed(arguments, shaken)), values) for _ in range(SHAKES)]
    return torch.stack(changes).amax(0)


def _apart_by(one: Tensor, other: Tensor) -> Tensor:
    """The absolute difference of values, 0 between two that are infinite or NaN alike."""
    one, other = one.cpu().double(), other.cpu().double()
    alike = (one == other) | (one.isnan() & other.isnan())
    return torch.where(alike, 0.0, (one - other).abs()).nan_to_num(nan=torch.inf)


def _near(one: Tensor, other: Tensor, company: Tensor) -> Tensor:
    """Equal but for rounding, which goes with the size of ordinary values."""
    if not one.is_floating_point():
        return one == other
    sizes = company[company.isfinite() & (company != 0)].abs().cpu().double()
    # Not the largest: a mask is often written as -1e9.
    scale = sizes.quantile(0.25).item() if sizes.numel() else 0.0
    eps = torch.finfo(one.dtype).eps ** 0.4
    return torch.isclose(one, other, rtol=eps, atol=eps * scale, equal_nan=True)
