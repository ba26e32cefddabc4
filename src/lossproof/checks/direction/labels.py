"""Scores for labels: more for the right class must not cost more.

The prediction is read as a score, a logit, a probability or its logarithm for each label; what is
right is the same for all of them: the entry of the label itself upward, the others downward.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from lossproof.checks.conventions import Fault, distinct
from lossproof.checks.direction import Comparison, Point, is_rising
from lossproof.checks.domain import Kind

Tensor = torch.Tensor

FEWEST = 6
"""So many entries have to agree at each prediction: 2 ** -18 by chance at all three."""
STEPS = (0.0, 0.3, 0.6, 0.9)
DISTANCE_LOSSES = frozenset({"hinge_embedding_loss", "cosine_embedding_loss"})


def better_scores_cost_more(comparison: Comparison) -> Iterator[Fault]:
    """Classes as whole numbers, and labels for each entry."""
    if any(o.name in DISTANCE_LOSSES for o in comparison.call.operations):
        return
    axis = _class_axis(comparison)
    if axis is not None:
        yield from _classes(comparison, axis)
    elif _is_labelled(comparison):
        yield from _entries(comparison)


def _turned(point: Point) -> Point:
    return replace(point, gradient=-point.gradient)


def is_scored(comparison: Comparison) -> bool:
    """Whether the prediction can be read as scores for labels."""
    return _class_axis(comparison) is not None or _is_labelled(comparison)


def right_entries(comparison: Comparison, target: Tensor | None = None) -> Tensor | None:
    """1 for the entries that the labels ask for, 0 for the others, in the prediction's shape."""
    target = comparison.target if target is None else target
    axis = _class_axis(comparison)
    if axis is not None:
        index = target.clamp(min=0).long().unsqueeze(axis)
        return torch.zeros_like(comparison.prediction).scatter_(axis, index, 1.0)
    if _is_labelled(comparison):
        return (target > 0).double().reshape(comparison.prediction.shape)
    return None


def other_labels(comparison: Comparison) -> Tensor:
    """Labels that are right nowhere: the next class, or the opposite label."""
    axis, target = _class_axis(comparison), comparison.target
    if axis is not None:
        return (target + 1) % comparison.prediction.shape[axis]
    return ~target if target.dtype is torch.bool else target.max() + target.min() - target


def _class_axis(comparison: Comparison) -> int | None:
    """The axis along which the prediction holds one score per class of a whole-number target."""
    prediction, target = comparison.prediction, comparison.target
    if target.is_floating_point() or prediction.dim() != target.dim() + 1:
        return None
    highest = int(target.max()) if target.numel() else 0
    for axis in dict.fromkeys((min(1, prediction.dim() - 1), prediction.dim() - 1)):
        rest = (*prediction.shape[:axis], *prediction.shape[axis + 1 :])
        if rest == tuple(target.shape) and prediction.shape[axis] > max(highest, 1):
            return axis
    return None


def _classes(comparison: Comparison, axis: int) -> Iterator[Fault]:
    counted = (comparison.target >= 0).unsqueeze(axis)
    right = right_entries(comparison)
    assert right is not None
    wanted = right * counted
    wrong = (1 - right) * counted
    # The others together go the other way; else the target may be a rank (ordinal losses).
    if comparison.starts and all(
        _all_upward(point, wanted)
        and bool(((point.gradient * wrong).sum(axis) <= 0).all())
        and not _ends_at_the_label(point, right, axis)
        for point in comparison.starts
    ):
        values = _path(comparison, comparison.starts[0].prediction, right, wanted)
        if values is not None and is_rising(values) and _is_read_in_place(comparison, axis):
            yield _fault(
                comparison,
                f"the loss grows as `{comparison.name}` gives the right class more",
                "right-class-punished",
                values,
            )


def _ends_at_the_label(point: Point, right: Tensor, axis: int) -> bool:
    """Whether no entry behind the label's own counts.

    The label is then a step in an order, and the entries say whether one goes on from there: past
    the label's own step nothing is asked (CORN, hazards of discrete times).
    """
    behind = (right.cumsum(axis) - right).bool()
    gradient = point.gradient.abs()
    return bool(behind.any()) and float(gradient[behind].max()) <= 1e-9 * float(gradient.max())


def _is_read_in_place(comparison: Comparison, axis: int) -> bool:
    """Whether each label is what its own place is to predict.

    A language model predicts the next token: another label changes the gradient one place earlier.
    """
    start, labels = comparison.starts[0], comparison.target.reshape(-1)
    classes = comparison.prediction.shape[axis]
    for number in {1, len(labels) // 2, len(labels) - 1} & set(range(len(labels))):
        if labels[number] < 0:
            continue
        other = labels.clone()
        other[number] = (labels[number] + 1) % classes
        there = comparison.at(start.prediction, other.reshape(comparison.target.shape))
        if there is None:
            return False
        changes = (there.gradient - start.gradient).abs().sum(axis).reshape(-1)
        if float(changes[number]) < 0.5 * float(changes.max()):
            return False
    return True


def _all_upward(point: Point, entries: Tensor) -> bool:
    """Whether the loss grows with each of these entries, as far as it depends on them at all."""
    gradient = point.gradient[entries != 0]
    floor = 1e-9 * float(point.gradient.abs().max())
    said = gradient[gradient.abs() > floor]
    return len(said) >= FEWEST and bool((said > 0).all())


def _is_labelled(comparison: Comparison) -> bool:
    """Whether there is a label of two kinds for every entry, and the entries are scores.

    Numbers of at least 0 that go beyond 1 may be distances, which fall where labels agree.
    """
    target, domain = comparison.target, comparison.domain
    levels = distinct(target)
    kinds = (Kind.REAL, Kind.UNIT, Kind.PROBABILITY)
    return (
        levels in ((0.0, 1.0), (-1.0, 1.0))
        and target.numel() == comparison.prediction.numel()
        and domain.kind in kinds
        and comparison.prediction.numel() >= FEWEST
    )


def _entries(comparison: Comparison) -> Iterator[Fault]:
    labels = comparison.target.double().reshape(comparison.prediction.shape)
    positive, negative = (labels > 0).double(), (labels <= 0).double()
    points = comparison.starts
    if not points:
        return
    up = all(_all_upward(point, positive) for point in points)
    down = all(_all_upward(_turned(point), negative) for point in points)
    if not (up or down):
        return
    moved = positive * up + negative * down
    values = _path(comparison, points[0].prediction, positive, moved)
    if values is None or not is_rising(values):
        return
    name, target = comparison.name, comparison.target_name
    if up and down:
        message = f"the loss is largest where `{name}` equals `{target}`, and falls away from it"
        cause = "maximal-at-target"
    else:
        which, low, high = ("1", "falls", "rises") if up else ("0", "rises", "falls")
        if float(labels.min()) < 0 and not up:
            which = "-1"
        message = (
            f"where `{target}` is {which}, the loss falls as `{name}` {low}: it should as it {high}"
        )
        cause = "one-label-punished"
    yield _fault(comparison, message, cause, values)


def _path(
    comparison: Comparison, start: Tensor, right: Tensor, entries: Tensor
) -> list[float] | None:
    """The values on the way from a prediction to the right one, in the given entries only."""
    kind = comparison.domain.kind
    moved = entries != 0
    path = []
    for step in STEPS:
        if kind is Kind.REAL:
            going = start + 4 * step * (2 * right - 1)
        elif kind is Kind.LOG_PROBABILITY:
            going = ((1 - step) * start.exp() + step * right).clamp_min(1e-12).log()
        elif kind is Kind.PROBABILITY:
            path.append((1 - step) * start + step * right)
            continue
        else:
            going = (1 - step) * start + step * right
        path.append(torch.where(moved, going, start))
    return comparison.values(path)


def _fault(comparison: Comparison, message: str, cause: str, values: list[float]) -> Fault:
    return Fault(
        message,
        comparison.case.subject.location,
        cause,
        "check the sign of this term; a coefficient or a likelihood becomes a loss as `1 - value` "
        "or `-value`",
        {"random_prediction": values[0], "better_prediction": values[-1]},
        (
            "value on the way from a random prediction to a right one: "
            + ", ".join(f"{value:.4g}" for value in values),
            f"the gradient points away from the labels at all of {len(comparison.starts)} random "
            "predictions",
        ),
    )
