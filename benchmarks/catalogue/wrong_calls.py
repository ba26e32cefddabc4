"""Wrong calls by the thousand: each must raise a clear error, or compute a number that is right.

Clear is a ``TypeError`` or ``ValueError`` that names an argument in backquotes. What may not happen
is a broadcast, a NaN, or an error from deep inside torch.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.catalogue.subject import Call, Subject, kinds

Tensor = torch.Tensor


@dataclass(frozen=True)
class WrongCall:
    """A call that is wrong in one way."""

    what: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    must_raise: bool = True
    """Otherwise a finite number will do: the call may be an unusual one."""


def verdict(subject: Subject, wrong: WrongCall) -> str | None:
    """What is wrong with how the loss took it; nothing where it did right."""
    try:
        value = subject.call(*wrong.arguments, **wrong.options)
    except (ValueError, TypeError) as error:
        clear = "`" in str(error) or re.search(r"'\w+'", str(error))  # the latter is Python's own
        return None if clear else f"{wrong.what}: {type(error).__name__}: {error}"
    except Exception as error:
        line = str(error).partition("\n")[0]
        return f"{wrong.what}: {type(error).__name__}: {line[:120]}"
    if wrong.must_raise:
        return f"{wrong.what}: taken, and gives {_brief(value)}"
    return None if bool(torch.isfinite(value).all()) else f"{wrong.what}: gives {_brief(value)}"


def _brief(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() > 1:
        return f"a tensor of shape {list(value.shape)}"
    return str(value.item() if isinstance(value, Tensor) and not value.is_meta else value)


def wrong_calls(subject: Subject) -> Iterator[WrongCall]:
    """All wrong calls of a loss."""
    given = subject.draw()
    for i in range(len(given.tensors)):
        yield from _wrong_shapes(subject, given, i)
        yield from _wrong_types(subject, given, i)
        yield from _wrong_values(subject, given, i)
    yield WrongCall("no arguments", (), {})
    yield WrongCall("an unknown option", given.tensors, {"no_such_option": 1})
    for name in sorted(subject.options):
        yield from _wrong_options(subject, given, name)


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "a sample less": lambda t: t[:-1],
    "one sample": lambda t: t[:1],
    "no samples": lambda t: t[:0],
    "a sample more": lambda t: torch.cat([t, t[:1]]),
    "a last axis of 1": lambda t: t.unsqueeze(-1),
    "a first axis of 1": lambda t: t.unsqueeze(0),
    "flattened": lambda t: t.flatten(),
    "turned": lambda t: t.transpose(0, -1),
    "a scalar": lambda t: t.flatten()[0],
    "a column less": lambda t: t[..., :-1],
    "one column": lambda t: t[..., :1],
    "one column more": lambda t: torch.cat([t, t[..., :1]], -1),
}


def _wrong_shapes(subject: Subject, given: Call, i: int) -> Iterator[WrongCall]:
    """Another shape of one input; the only one, and one of free length, may have any."""
    tensor = given.tensors[i]
    if not isinstance(tensor, Tensor) or not tensor.ndim:
        return
    alone = len(given.tensors) == 1
    for what, change in SHAPES.items():
        changed = change(tensor)
        if changed.shape == tensor.shape:
            continue
        yield WrongCall(
            f"`{given.names[i]}`, {what} ({list(tensor.shape)} -> {list(changed.shape)})",
            given.replaced(i, changed).tensors,
            {},
            must_raise=not alone and not _free(subject, given, i, changed),
        )


def _free(subject: Subject, given: Call, i: int, changed: Tensor) -> bool:
    """Whether the shape may be another one: a length of its own, or an axis it has alone.

    Samples are shared where there is more than one input; features, and classes that no label
    belongs to, are not.
    """
    tensor = given.tensors[i]
    others = [t for j, t in enumerate(given.tensors) if j != i and isinstance(t, Tensor) and t.ndim]
    own_length = all(len(other) != len(tensor) for other in others)
    if own_length and changed.shape[1:] == tensor.shape[1:]:
        return True
    return all(
        other.ndim < changed.ndim and other.shape == changed.shape[: other.ndim] for other in others
    )


def _wrong_types(subject: Subject, given: Call, i: int) -> Iterator[WrongCall]:
    tensor = given.tensors[i]
    if not isinstance(tensor, Tensor):
        return
    name = given.names[i]
    for what, value in (
        ("None", None),
        ("a number", 1.0),
        ("a word", "input"),
        ("a list", tensor.tolist()),
        ("an array", np.asarray(tensor)),
    ):
        # A scale for all items may be a number, and what has a default may be left out.
        taken = (what == "a number" and i > 0) or (what == "None" and _may_be_none(subject, name))
        yield WrongCall(f"`{name}`, {what}", _replaced(given, i, value), {}, not taken)
    if tensor.numel():
        meta = torch.empty_like(tensor, device="meta")
        alone = len(given.tensors) == 1
        if not alone:
            yield WrongCall(f"`{name}`, another device", _replaced(given, i, meta), {})
    dtypes = [torch.complex64]
    if tensor.is_floating_point() and i == 0:
        dtypes += [torch.int64, torch.bool]
    elif not tensor.is_floating_point() and tensor.dtype != torch.bool:
        dtypes += [torch.float32, torch.bool]
    for dtype in dtypes:
        two = not tensor.is_floating_point() and int(tensor.max()) < 2  # 0 and 1 in any dtype
        yield WrongCall(f"`{name}`, {dtype}", _replaced(given, i, tensor.to(dtype)), {}, not two)


def _may_be_none(subject: Subject, name: str) -> bool:
    parameters = inspect.signature(subject.entry.function or subject.entry.module).parameters
    return name in parameters and parameters[name].default is None


def _replaced(given: Call, i: int, value: Any) -> tuple[Any, ...]:
    return (*given.tensors[:i], value, *given.tensors[i + 1 :])


def _wrong_values(subject: Subject, given: Call, i: int) -> Iterator[WrongCall]:
    """Values outside of what the specification draws from."""
    tensor = given.tensors[i]
    kind = kinds(subject)[i]
    if not isinstance(tensor, Tensor) or not tensor.numel():
        return
    values: list[float] = []
    classes = given.tensors[0].shape[1] if given.tensors[0].ndim > 1 else None
    if kind == "int" and subject.specification.rstrip().endswith(f"<{classes}"):
        values = [-1, 10_000, -101]
    elif kind == "binary":
        values = [1.5, -0.5]
    for value in values:
        changed = tensor.clone()
        changed.view(-1)[0] = value
        yield WrongCall(f"`{given.names[i]}` with {value}", _replaced(given, i, changed), {})


WORDS = ("", "no-such-word", 3, None)
NUMBERS = (float("nan"), float("inf"), -1e9, 10**30, "1", None, True, 1j, [1.0], np.ones(3))


def _wrong_options(subject: Subject, given: Call, name: str) -> Iterator[WrongCall]:
    default = _default(subject, name)
    if name in {"weight", "mask", "normalizer", "reduction", "ignore_index"}:
        yield from _wrong_common(subject, given, name)
    elif isinstance(default, bool):
        for value in ("yes", 2, None, float("nan")):
            yield WrongCall(f"{name}={value!r}", given.tensors, {name: value})
    elif isinstance(default, int | float):
        for number in NUMBERS:
            negative = isinstance(number, float) and number < 0
            takes = negative or number is None or isinstance(number, bool | list)
            yield WrongCall(f"{name}={number!r}", given.tensors, {name: number}, not takes)
    elif isinstance(default, str):
        for word in WORDS:
            yield WrongCall(f"{name}={word!r}", given.tensors, {name: word})
    else:
        for value in ("no-such-word", float("nan"), object(), torch.ones(3, 7, 2)):
            yield WrongCall(f"{name}={value!r}", given.tensors, {name: value})


def _default(subject: Subject, name: str) -> Any:
    function = subject.entry.function or subject.entry.module
    return inspect.signature(function).parameters[name].default


def _wrong_common(subject: Subject, given: Call, name: str) -> Iterator[WrongCall]:
    """The options that most losses have."""
    options: dict[str, list[Any]] = {
        "reduction": ["average", "Mean", "", None, 1],
        "normalizer": [-1.0, float("nan"), "3", torch.ones(2), [3.0]],
        "ignore_index": ["x", 1.5, torch.tensor(1), float("nan")],
        "weight": [
            "balanced", 2.0, torch.ones(17), torch.ones(2, 3, 19), torch.ones(7, dtype=torch.cfloat)
        ],
        "mask": [
            1, torch.ones(given.tensors[0].shape), torch.ones(17, dtype=torch.bool),
            torch.ones(2, 3, 19, dtype=torch.bool), [True],
        ],
    }  # fmt: skip
    for value in options[name]:
        shown = f"tensor{list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        yield WrongCall(f"{name}={shown}", given.tensors, {name: value})
