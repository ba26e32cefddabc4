"""Checks of what a loss is called with: each names the argument, what it got and what it wanted.

A loss checks its arguments first and computes after, so that nothing is broadcast by accident and
no wrong option turns into a number. A type that does not fit is a ``TypeError``, all else a
``ValueError``.

What can be told from shapes and dtypes is always checked. The *values* of a tensor (a label that is
no class, a negative variance) are looked at on the CPU; on an accelerator, and in a compiled
graph, they are asserted on the device, which costs no synchronisation; inside ``torch.func``'s
transforms nobody can look at them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch._subclasses import FakeTensor

Tensor = torch.Tensor

REDUCTIONS = ("none", "mean", "sum")
_LARGEST = sys.float_info.max
"""An ``int`` may be larger than any float, and then is no number to torch."""
_LARGEST_INTEGER = 2**63 - 1
"""The largest ``int`` that torch takes."""
Kind = Literal["floating", "integer", "bool", "number", "any"]
_KINDS = {
    "floating": "a floating-point tensor",
    "integer": "a tensor of integers",
    "bool": "a bool tensor",
    "number": "a tensor of real numbers",
    "any": "a tensor",
}


def tensor(name: str, value: Any, kind: Kind = "floating") -> Tensor:
    """The value, which must be a tensor of this kind.

    Args:
        name: what the argument is called.
        value: what was given.
        kind: ``"floating"``, ``"integer"``, ``"bool"``, ``"number"`` (floating or integer) or
            ``"any"``.

    Raises:
        TypeError: it is no tensor, or one of another kind.

    Example:
        >>> import torch
        >>> from lossproof.write.arguments import tensor
        >>> tensor("input", torch.arange(3))
        Traceback (most recent call last):
        ...
        TypeError: `input` must be a floating-point tensor, got torch.int64
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be {_KINDS[kind]}, got {type(value).__name__}")
    floating = value.is_floating_point()
    integer = not floating and not value.is_complex() and value.dtype != torch.bool
    right = {
        "floating": floating,
        "integer": integer,
        "bool": value.dtype == torch.bool,
        "number": floating or integer,
        "any": True,
    }[kind]
    if not right:
        raise TypeError(f"`{name}` must be {_KINDS[kind]}, got {value.dtype}")
    return value


def same_shape(input: Tensor, target: Tensor, names: Sequence[str] = ("input", "target")) -> None:
    """Two tensors of the same shape on one device; no broadcasting.

    Raises:
        ValueError: the shapes or the devices differ.
    """
    if input.shape != target.shape:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must have the same shape, "
            f"got {list(input.shape)} and {list(target.shape)}"
        )
    same_device(input, target, names)


def same_device(input: Tensor, other: Tensor, names: Sequence[str]) -> None:
    """Two tensors on one device.

    Raises:
        ValueError: the devices differ.
    """
    if input.device != other.device:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must be on one device, "
            f"got {input.device} and {other.device}"
        )


def pair(
    input: Any,
    target: Any,
    names: Sequence[str] = ("input", "target"),
    *,
    target_kind: Kind = "floating",
) -> tuple[Tensor, Tensor]:
    """A prediction and a target of the same shape: what most losses take.

    Raises:
        TypeError: one is no tensor, or not of its kind.
        ValueError: the shapes or the devices differ.
    """
    input, target = tensor(names[0], input), tensor(names[1], target, target_kind)
    same_shape(input, target, names)
    return input, target


def fits(name: str, weight: Any, values: Tensor, *, kind: Kind = "number") -> Tensor:
    """A weight or a mask for the items of ``values``.

    It has their shape, or one with as many axes and a 1 where it is the same for all. What has
    fewer axes is refused: which axis it was meant for cannot be told.

    Raises:
        TypeError: it is no tensor of this kind.
        ValueError: it does not fit.
    """
    given = tensor(name, weight, kind)
    same_device(given, values, (name, "values"))
    if given.shape != values.shape and (
        given.ndim != values.ndim
        or any(
            size not in (1, wanted) for size, wanted in zip(given.shape, values.shape, strict=True)
        )
    ):
        raise ValueError(
            f"`{name}` must have the shape of the values, {list(values.shape)}, "
            f"or 1 on an axis where it is the same for all, got {list(given.shape)}"
        )
    return given


def axes(name: str, value: Tensor, *counts: int, layout: str) -> Tensor:
    """A tensor with one of these numbers of axes.

    Args:
        name: what the argument is called.
        value: the tensor.
        counts: how many axes it may have; a single negative number is a minimum.
        layout: the shape in words, such as ``"(N, C, *)"``.

    Raises:
        ValueError: it has another number of axes.
    """
    right = value.ndim >= -counts[0] if counts[0] < 0 else value.ndim in counts
    if not right:
        raise ValueError(f"`{name}` must have the shape {layout}, got {list(value.shape)}")
    return value


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """An option that is one of some words.

    Raises:
        ValueError: it is another.
    """
    if not isinstance(value, str) or value not in allowed:
        words = ", ".join(map(repr, allowed))
        raise ValueError(f"`{name}` must be one of {words}, got {value!r}")
    return value


def number(
    name: str,
    value: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """An option that is a finite real number in a range.

    Args:
        name: what the option is called.
        value: what was given.
        minimum: the lower end, included.
        maximum: the upper end, included.
        above: the lower end, excluded.
        below: the upper end, excluded.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range, infinite or NaN, or larger than torch's integers.

    Example:
        >>> from lossproof.write.arguments import number
        >>> number("gamma", -1.0, minimum=0)
        Traceback (most recent call last):
        ...
        ValueError: `gamma` must be a number of at least 0, got -1.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`{name}` must be {_range(minimum, maximum, above, below)}, got {value!r}")
    right = (
        -_LARGEST <= value <= _LARGEST  # false for NaN, too
        and (minimum is None or value >= minimum)
        and (maximum is None or value <= maximum)
        and (above is None or value > above)
        and (below is None or value < below)
    )
    if not right:
        raise ValueError(
            f"`{name}` must be {_range(minimum, maximum, above, below)}, got {value!r}"
        )
    if isinstance(value, int) and not -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
        raise ValueError(
            f"`{name}` must be a float, or an integer of at most 64 bits, got {value!r}"
        )
    return value


def _range(
    minimum: float | None, maximum: float | None, above: float | None, below: float | None
) -> str:
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (
            ("of at least", minimum), ("above", above), ("of at most", maximum), ("below", below)
        )
        if bound is not None
    ]  # fmt: skip
    return " ".join(["a number", " and ".join(bounds)]) if bounds else "a finite number"


def integer(name: str, value: Any, *, minimum: int | None = None) -> int:
    """An option that is a whole number.

    Raises:
        TypeError: it is no integer.
        ValueError: it is too small, or larger than torch's integers.
    """
    wanted = "an integer" if minimum is None else f"an integer of at least {minimum}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be {wanted}, got {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"`{name}` must be {wanted}, got {value!r}")
    if not -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
        raise ValueError(f"`{name}` must be {wanted}, of at most 64 bits, got {value!r}")
    return value


def flag(name: str, value: Any) -> bool:
    """An option that is ``True`` or ``False``.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {value!r}")
    return value


def within(
    name: str,
    value: Tensor,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    above: float | None = None,
    where: Tensor | None = None,
) -> None:
    """The values of a tensor lie in a range; NaN passes, for it shows by itself in the loss.

    Args:
        name: what the argument is called.
        value: the tensor.
        minimum: the lower end, included.
        maximum: the upper end, included.
        above: the lower end, excluded.
        where: the items that count, bool, shaped so that it broadcasts to ``value``.

    Raises:
        ValueError: a value lies outside.
    """
    if where is None and _seen_within(value, minimum, maximum, above):
        return
    wrong = torch.zeros_like(value, dtype=torch.bool)
    if minimum is not None:
        wrong = wrong | (value < minimum)
    if above is not None:
        wrong = wrong | (value <= above)
    if maximum is not None:
        wrong = wrong | (value > maximum)
    if where is not None:
        wrong = wrong & _mask_of(value, where)
    wanted = f"`{name}` must hold {_numbers(minimum, maximum, above)}"
    _refuse(wrong, value, wanted)


def _mask_of(value: Tensor, where: Any) -> Tensor:
    """The mask of the items of a tensor, which fits them."""
    mask = tensor("mask", where, "bool")
    short = value.ndim - mask.ndim
    fits = (
        short >= 0
        and all(  # a set would fix symbolic sizes
            m in (1, n) for m, n in zip(mask.shape, value.shape[short:], strict=True)
        )
    )
    if not fits:
        raise ValueError(
            f"`mask` must have the shape of the values, got {list(mask.shape)} "
            f"for {list(value.shape)}"
        )
    same_device(mask, value, ("mask", "values"))
    return mask


def _seen_within(
    value: Tensor, minimum: float | None, maximum: float | None, above: float | None
) -> bool:
    """Whether one look at the ends of the values is enough, as it nearly always is on a CPU."""
    if not visible(value):
        return False
    if not value.numel():
        return True
    low, high = torch.aminmax(value.detach())
    return bool(
        (minimum is None or low >= minimum)  # false for NaN, which is then looked at one by one
        and (above is None or low > above)
        and (maximum is None or high <= maximum)
    )


def _numbers(minimum: float | None, maximum: float | None, above: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f"numbers from {minimum} to {maximum}"  # the size of an axis may be symbolic
    return _range(minimum, maximum, above, None).replace("a number", "numbers")


def among(name: str, value: Any, allowed: Sequence[int], *, where: Tensor | None = None) -> Tensor:
    """A tensor, bool or of real numbers, that holds nothing but some numbers.

    Args:
        name: what the argument is called.
        value: what was given.
        allowed: the numbers; ``True`` and ``False`` are 1 and 0.
        where: the items that count, bool, shaped so that it broadcasts to ``value``.

    Raises:
        TypeError: it is no such tensor.
        ValueError: it holds another number.

    Example:
        >>> import torch
        >>> from lossproof.write.arguments import among
        >>> among("event", torch.tensor([0, 2, 1]), (0, 1))
        Traceback (most recent call last):
        ...
        ValueError: `event` must hold 0 or 1, got 2
    """
    is_bool = isinstance(value, Tensor) and value.dtype == torch.bool
    checked = tensor(name, value, "bool" if is_bool else "number")
    wrong = torch.ones_like(checked, dtype=torch.bool)
    for one in allowed:
        wrong = wrong & (checked != one)
    if where is not None:
        wrong = wrong & _mask_of(value, where)
    _refuse(wrong, checked, f"`{name}` must hold {' or '.join(map(str, allowed))}")
    return checked


def finite(name: str, value: Tensor, *, where: Tensor | None = None) -> None:
    """No value is NaN or infinite; for what decides an order, where NaN would not show.

    Raises:
        ValueError: one is.
    """
    if not value.is_floating_point():
        return
    limits = torch.finfo(value.dtype)
    if where is None and _seen_within(value, limits.min, limits.max, None):
        return
    wrong = ~torch.isfinite(value)
    _refuse(wrong if where is None else wrong & where, value, f"`{name}` must hold finite numbers")


def class_indices(
    name: str, value: Any, classes: int, *, ignore_index: int | None = None
) -> Tensor:
    """Labels: integers from 0 to ``classes - 1``, and ``ignore_index``.

    Returns:
        The labels as int64; in a compiled graph as int32. There each is compared with all classes,
        in a loop over logits of 32 bits, which numbers of 64 bits make three times as long.

    Raises:
        TypeError: it is no tensor of integers.
        ValueError: a label is no class.
    """
    labels = tensor(name, value, "integer").long()  # uint8 takes an `ignore_index` of -100 for 156
    wrong = (labels < 0) | (labels >= classes)
    wanted = f"`{name}` must hold classes from 0 to {classes - 1}"
    if ignore_index is not None:
        wrong = wrong & (labels != ignore_index)
        wanted += f" or ignore_index={int(ignore_index)}"  # no symbol, as a message cannot hold it
    _refuse(wrong, labels, wanted)
    if torch.compiler.is_compiling() and abs(ignore_index or 0) < 2**31:
        return labels.int()
    return labels


def one_for_each_class(
    name: str,
    value: Any,
    classes: int,
    like: Tensor,
    *,
    kind: Kind = "floating",
    above: float | None = None,
) -> Tensor:
    """A number for each class, in the dtype of another tensor.

    Args:
        name: what the argument is called.
        value: what was given.
        classes: how many there are.
        like: the tensor it goes with.
        kind: which tensors are taken, as for :func:`tensor`.
        above: a lower end that is excluded; without it the numbers are at least 0.

    Raises:
        TypeError: it is no tensor of this kind.
        ValueError: it has another shape, lies on another device, or a number is too small.
    """
    given = tensor(name, value, kind)
    if given.shape != (classes,):
        raise ValueError(
            f"`{name}` must hold one number for each of the {classes} classes, the shape "
            f"[{classes}], got {list(given.shape)}"
        )
    same_device(like, given, ("input", name))
    within(name, given, 0 if above is None else None, above=above)
    return given.to(like.dtype)


def _refuse(wrong: Tensor, value: Tensor, wanted: str) -> None:
    """Raise if any element of ``wrong`` is true, without waiting for a device."""
    if torch.compiler.is_compiling():
        if not transformed():  # the assertion has no batching rule
            torch._assert_async(~wrong.any(), wanted)  # the only one that a graph can hold
    elif _without_values(value):
        return
    elif value.device.type != "cpu":
        torch._assert_async(~wrong.any(), wanted)
    elif wrong.any():
        raise ValueError(f"{wanted}, got {value[wrong][0].item():g}")


def visible(value: Tensor) -> bool:
    """Whether code may branch on its values: on a CPU, in no graph, trace or transform."""
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return not (traced or _without_values(value)) and value.device.type == "cpu"


def _without_values(value: Tensor) -> bool:
    """Whether this tensor has a shape and a dtype alone."""
    return transformed() or value.is_meta or isinstance(value, FakeTensor)


def transformed() -> bool:
    """Whether this runs inside a transform of ``torch.func``, where tensors have no values."""
    return torch._C._are_functorch_transforms_active()
