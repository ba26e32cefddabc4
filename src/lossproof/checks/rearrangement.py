"""Whether a loss is the same when its samples come in another order or another shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.agreement import Pair
from lossproof.checks.comparison import Reaction, Rearrangement
from lossproof.checks.examination import Evaluation, Examination

Tensor = torch.Tensor
Move = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Layout:
    """Where the samples and the classes of the inputs lie."""

    prediction: Tensor
    batched: tuple[int, ...]
    """The positions of the tensors that hold one entry per sample."""
    labels: tuple[int, ...] | None
    """Those that have no axis of classes, where the prediction has one; else ``None``."""


def compare_rearrangements(pair: Pair) -> tuple[Rearrangement, ...]:
    """Call both losses on the same numbers, rearranged.

    The sum of what a loss returns, and the gradient of that sum put back in the old order, should
    be what they were. A loss need not accept every arrangement; to accept one and give another
    value is worth knowing.
    """
    layout = _layout(pair.a)
    if layout is None:
        return ()
    before = [_evaluated(case, case.inputs.values, pair) for case in (pair.a, pair.b)]
    found = []
    for words, moves in _arrangements(pair.a, layout):
        values = tuple(
            moves[position](value) if position in moves else value
            for position, value in enumerate(pair.a.inputs.values)
        )
        reactions = [
            _reaction(case, values, moves, old, pair)
            for case, old in zip((pair.a, pair.b), before, strict=True)
        ]
        found.append(Rearrangement(words, *reactions))
    return tuple(found)


def _evaluated(case: Examination, values: tuple[Any, ...], pair: Pair) -> Evaluation:
    return case.evaluate(values, dtype=pair.precision, upstream=torch.ones_like)


def _reaction(
    case: Examination,
    values: tuple[Any, ...],
    moves: dict[int, Move],
    old: Evaluation,
    pair: Pair,
) -> Reaction:
    new = _evaluated(case, values, pair)
    error = new.error or new.backward_error
    if error is not None or new.value is None or old.value is None:
        told = f"{type(error).__name__}: {error}" if error is not None else "returned no tensor"
        return Reaction(False, error=told.partition("\n")[0])
    differences = [_difference(new.value.detach().sum(), old.value.detach().sum())]
    for leaf, position in enumerate(case.inputs.differentiable):
        wanted = old.gradient(leaf)
        if position in moves:
            wanted = moves[position](wanted)
        differences.append(_difference(new.gradient(leaf), wanted))
    difference = max(differences)
    rounding = 1e4 * torch.finfo(pair.precision or pair.dtype).eps
    return Reaction(difference <= rounding, difference)


def _difference(one: Tensor, other: Tensor) -> float:
    one, other = one.double(), other.double()
    gap = float((one - other).norm())
    if gap == 0:
        return 0.0
    size = max(float(one.norm()), float(other.norm()))
    return gap / size if math.isfinite(gap) else math.inf


# ---------------------------------------------------------------------------- arrangements
def _layout(case: Examination) -> _Layout | None:
    values = case.inputs.values
    first = next((values[i] for i in case.inputs.differentiable if values[i].dim() > 0), None)
    if first is None or first.shape[0] < 2:
        return None
    tensors = {i: v for i, v in enumerate(values) if isinstance(v, Tensor) and v.dim() > 0}
    batched = {i: v for i, v in tensors.items() if v.shape[0] == first.shape[0]}
    # A floating vector as long as both the batch and the classes may be weights of either.
    if any(
        v.dim() == 1 and v.is_floating_point() and v.shape[0] in first.shape[1:]
        for v in batched.values()
    ):
        return None
    without_classes = (first.shape[0], *first.shape[2:])
    labels = None
    if first.dim() > 1 and {tuple(v.shape) for v in batched.values()} == {
        tuple(first.shape),
        without_classes,
    }:
        labels = tuple(i for i, v in batched.items() if tuple(v.shape) == without_classes)
    return _Layout(first, tuple(batched), labels)


def _arrangements(case: Examination, layout: _Layout) -> Iterator[tuple[str, dict[int, Move]]]:
    """What to do to which tensor, in words and as functions."""
    yield "samples in another order", _all(layout.batched, _permutation(case, layout))
    shapes = {tuple(case.inputs.values[i].shape) for i in layout.batched}
    if layout.labels is not None:
        yield from _with_classes(layout)
    elif len(shapes) == 1:
        yield from _elementwise(layout)


def _permutation(case: Examination, layout: _Layout) -> Move:
    count = layout.prediction.shape[0]
    generator = torch.Generator().manual_seed(case.seed + 31_415)
    order = torch.randperm(count, generator=generator)
    if bool((order == torch.arange(count)).all()):
        order = order.flip(0)
    return lambda tensor: tensor[order.to(tensor.device)]


def _all(positions: tuple[int, ...], move: Move) -> dict[int, Move]:
    return dict.fromkeys(positions, move)


def _elementwise(layout: _Layout) -> Iterator[tuple[str, dict[int, Move]]]:
    shape = layout.prediction.shape
    if len(shape) > 1:
        yield "flattened to one axis", _all(layout.batched, lambda t: t.reshape(-1))
    yield "an axis of size 1 added", _all(layout.batched, lambda t: t.unsqueeze(-1))
    if shape[0] % 2 == 0:
        split = (2, shape[0] // 2, *shape[1:])
        yield "samples split over two axes", _all(layout.batched, lambda t: t.reshape(split))


def _with_classes(layout: _Layout) -> Iterator[tuple[str, dict[int, Move]]]:
    """Arrangements that keep the classes on the second axis, as torch's losses want them."""
    assert layout.labels is not None
    count, classes, *rest = layout.prediction.shape
    others = tuple(i for i in layout.batched if i not in layout.labels)
    if rest:
        yield (
            "positions flattened into samples",
            {
                **_all(others, lambda t: t.movedim(1, -1).reshape(-1, classes)),
                **_all(layout.labels, lambda t: t.reshape(-1)),
            },
        )
    yield "an axis of size 1 added", _all(layout.batched, lambda t: t.unsqueeze(-1))
    if count % 2 == 0:
        half = count // 2
        yield (
            "samples split over two axes",
            {
                **_all(others, lambda t: t.reshape(half, 2, classes, *rest).movedim(1, 2)),
                **_all(layout.labels, lambda t: t.reshape(half, 2, *rest)),
            },
        )
