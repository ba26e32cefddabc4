"""Where a gradient is wrong, element by element, as a heat map.

The truth is the reference's gradient where the loss was compared with one, else finite differences
of the loss in float64, one element at a time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch

from lossproof.checks.chart import Chart, HeatMap, Number, Unmeasured
from lossproof.checks.examination import ALLOWANCE, Evaluation, Examination
from lossproof.checks.finite_differences import direction
from lossproof.checks.trace import Stop

Tensor = torch.Tensor

TITLE = "Where the gradient is wrong"
BY_DIFFERENCES = ("LP201", "LP202", "LP203", "LP206")
"""The rules whose finding says that a gradient is not the derivative of the loss."""
BY_REFERENCE = "LP103"
MOST = 32
"""Rows and columns that are shown at most."""
STEP = 1e-4
AGREES = 1e-6
"""A relative difference up to this is rounding."""
SENT = 2.0
"""What is sent backward: a backward that ignores it is right for 1."""


def gradient_map(case: Examination, codes: Collection[str]) -> Chart | None:
    """The elements in which the gradient is wrong; ``None`` where no rule says that it is.

    Args:
        case: the loss and its inputs.
        codes: the codes of what was found.
    """
    by_differences = any(code in codes for code in BY_DIFFERENCES)
    if not by_differences and (BY_REFERENCE not in codes or case.reference is None):
        return None
    twin = case.evaluate(dtype=torch.float64, upstream=_sent, record=True)
    if twin.failed or twin.value is None:
        return None
    # What the loss detaches moves along only where that is the fault.
    stops = None if "LP201" in codes or twin.trace is None else twin.trace.stops
    leaf = _worst_leaf(case, twin, stops) if by_differences else 0
    if twin.leaves[leaf].numel() == 0:
        return None
    places = _view(twin.leaves[leaf].shape)
    if by_differences:
        affordable = int(ALLOWANCE / max(case.call_seconds, 1e-9)) // 2
        places = places[: max(affordable // places.shape[1], 1)]
        if not case.affordable(2 * places.numel()):
            return Unmeasured(TITLE, f"one call of the loss takes {case.call_seconds:.2g} s")
        truth: Tensor | None = _by_differences(case, leaf, stops, places)
    else:
        truth = _by_reference(case, leaf, places)
    return None if truth is None else _chart(case, twin, leaf, places, truth, by_differences)


def _sent(value: Tensor) -> Tensor:
    return torch.full_like(value, SENT)


def _by_differences(
    case: Examination, leaf: int, stops: Sequence[Stop] | None, places: Tensor
) -> Tensor:
    """The derivative for each element shown, by central differences."""
    shape = case.point[leaf].shape
    slopes = []
    for place in places.reshape(-1).tolist():
        along = torch.zeros(shape, dtype=torch.float64)
        along.view(-1)[place] = 1.0
        slopes.append(_slope(case, leaf, along, stops))
    return torch.tensor(slopes, dtype=torch.float64).reshape(places.shape)


def _slope(case: Examination, leaf: int, along: Tensor, stops: Sequence[Stop] | None) -> float:
    """A directional derivative of what is sent backward; NaN where the loss refuses a step."""
    sides = []
    for step in (STEP, -STEP):
        moved = [x + step * along if k == leaf else x for k, x in enumerate(case.point)]
        found = case.evaluate_at(moved, replay=stops, backward=False)
        if found.error is not None or found.value is None:
            return math.nan
        sides.append(SENT * float(found.value.detach().sum()))
    return (sides[0] - sides[1]) / (2 * STEP)


def _worst_leaf(case: Examination, twin: Evaluation, stops: Sequence[Stop] | None) -> int:
    """The input, or parameter of the loss, whose gradient is wrong the most."""
    if len(twin.leaves) == 1:
        return 0
    errors = []
    for leaf, tensor in enumerate(case.point):
        along = direction(tensor, case.seed, leaf)
        promised = float((twin.gradient(leaf) * along).sum())
        true = _slope(case, leaf, along, stops)
        error = abs(promised - true) / max(abs(promised), abs(true), 1e-300)
        errors.append(error if math.isfinite(error) else 0.0)
    return errors.index(max(errors))


def _by_reference(case: Examination, leaf: int, places: Tensor) -> Tensor | None:
    other = case.evaluate(dtype=torch.float64, subject=case.reference, upstream=_sent)
    if other.failed or other.value is None or leaf >= len(other.leaves):
        return None
    return other.gradient(leaf).detach().reshape(-1)[places]


def _view(shape: Sequence[int]) -> Tensor:
    """Which elements are shown, as a matrix of positions in the flattened tensor."""
    places = torch.arange(math.prod(shape))
    if len(shape) < 2:
        columns = min(len(places), MOST)
        rows = len(places) // columns
        return places[: rows * columns].reshape(rows, columns)[:MOST]
    matrix = places.reshape(-1, shape[-2], shape[-1])
    if 1 in shape[-2:]:
        return places.reshape(shape[0], -1)[:MOST, :MOST]
    return matrix[0, :MOST, :MOST]


def _chart(
    case: Examination, twin: Evaluation, leaf: int, places: Tensor, truth: Tensor, measured: bool
) -> Chart | None:
    claim = twin.gradient(leaf).detach().reshape(-1)[places]
    size = float(truth.abs().nan_to_num(0.0, 0.0, 0.0).max())
    size = size or float(claim.abs().nan_to_num(0.0, 0.0, 0.0).max()) or 1.0
    gaps = (claim - truth).abs() / size
    differs = ~(gaps <= AGREES)
    if not bool(differs.any()):
        return None
    rows = tuple(
        tuple(_cell(gap, differ) for gap, differ in zip(line, flags, strict=True))
        for line, flags in zip(gaps.tolist(), differs.tolist(), strict=True)
    )
    name, shape = case.leaf_names[leaf], tuple(twin.leaves[leaf].shape)
    truth_words = "finite differences" if measured else "the gradient of the reference"
    caption = (
        f"{int(differs.sum())} of {differs.numel()} elements shown differ from {truth_words}; 1 is "
        f"as much as the largest of the true gradient ({size / SENT:.3g})."
    )
    gone = int((~torch.isfinite(gaps)).sum())
    if gone:
        caption += f" Red: not finite ({gone})."
    if places.numel() < math.prod(shape):
        caption += f" `{name}` has {math.prod(shape)} elements: the first block is shown."
    return HeatMap(TITLE, *_axes(name, shape), "relative difference", rows, caption)


def _cell(gap: float, differs: bool) -> Number:
    """The number of one cell: nothing where it is not finite, zero where it is rounding."""
    if not math.isfinite(gap):
        return None
    return gap if differs else 0.0


def _axes(name: str, shape: tuple[int, ...]) -> tuple[str, str]:
    if len(shape) < 2:
        return "", f"element of {name}"
    if 1 in shape[-2:] and len(shape) > 2:
        return f"sample of {name}", "its elements"
    before = "".join("0, " for _ in shape[:-2])
    return f"i of {name}[{before}i, j]", "j"
