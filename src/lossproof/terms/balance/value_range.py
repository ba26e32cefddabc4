"""Which values of the terms a method is defined for, and ratios of values that may be zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lossproof.write.arguments import visible

Tensor = torch.Tensor


def nonnegative(method: str, names: Sequence[str], values: Tensor, bound: str = "0") -> None:
    """No value is below zero, for a method that takes logarithms or ratios; NaN passes.

    Args:
        method: the name of the method.
        names: the names of the terms.
        values: the values of the terms, from which a lower bound has been subtracted.
        bound: the lower bound in words.

    Raises:
        ValueError: a value is negative. On an accelerator this is asserted on the device, which
            costs no synchronisation, but cannot say which term it is.
    """
    wrong = values < 0
    if not visible(values):
        torch._assert_async(~wrong.any(), f"{method} needs values of at least {bound}")
        return
    if not wrong.any():
        return
    k = int(wrong.nonzero()[0, 0])
    raise ValueError(
        f"{method} needs values of at least {bound}, but that of term {names[k]!r} is "
        f"{values[k].item():g}" + ("" if bound == "0" else " below it")
    )


def change(now: Tensor, before: Tensor) -> Tensor:
    """The ratio of nonnegative values; 1 where there was nothing to compare with.

    A ratio with a value that was zero says nothing of how a term trains (it was switched off, or
    it is solved), so such a term counts as unchanged.
    """
    comparable = before > 0
    ratio = now / torch.where(comparable, before, 1.0)
    largest = torch.finfo(now.dtype).max  # a ratio of infinity would make a softmax NaN
    return torch.where(comparable, ratio.clamp(max=largest), 1.0)
