"""Whether one sample changes the gradient of another.

In a mean over samples it does not. In a contrastive loss it does on purpose, and where a softmax
was taken over the wrong axis, by mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lossproof.checks.agreement import variations
from lossproof.checks.batch import Batch, Values, batch_of
from lossproof.checks.roles import role_by_name

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Tensor = torch.Tensor

NOTE = "coupling"
ALIKE = 1e-6
"""Relative change of the other samples' gradient up to which they count as untouched."""


def coupling_of(case: Examination) -> float | None:
    """The largest relative change of the other samples' gradient when one sample changes.

    ``None`` where it cannot be measured: the batch is not known, there is no gradient for it, or
    a call failed.
    """
    if NOTE not in case.notes:
        case.notes[NOTE] = _measured(case)
    found: float | None = case.notes[NOTE]
    return found


def is_coupled(case: Examination) -> bool:
    """Whether samples depend on each other. What cannot be measured counts as coupled."""
    found = coupling_of(case)
    return found is None or found > ALIKE


def several_samples(case: Examination, batch: Batch) -> Values | None:
    """The inputs, with more samples that differ where there are fewer than three."""
    values: Values = case.small.values
    others = variations(case)
    next(others)  # the given inputs themselves
    while batch.count(values) < 3:
        more = next(others, None)
        if more is None:
            return None
        rows = range(batch.size)
        values = batch.joined(values, batch.rows(more, rows))
    return values


def _moved(case: Examination, batch: Batch) -> list[int]:
    """Predictions, and what is compared with them element by element or pair by pair.

    Labels, masks and weights stay: their sum may well be the denominator.
    """
    wanted = [i for i in case.inputs.differentiable if batch.axes[i] is not None]
    shapes = {case.inputs.values[i].shape for i in wanted}
    beside = [
        i
        for i, value in enumerate(case.inputs.values)
        if i not in wanted and isinstance(value, Tensor) and value.is_floating_point()
        if batch.axes[i] is not None and value.shape in shapes
        if not bool(((value == 0) | (value == 1)).all())
        if role_by_name(case.inputs.arguments[i].name) not in ("weight", "mask")
    ]
    return wanted + beside if wanted else []


def _measured(case: Examination) -> float | None:
    batch = batch_of(case)
    if batch is None:
        return None
    moved = _moved(case, batch)
    values = several_samples(case, batch) if moved else None
    if values is None:
        return None
    # The first sample gets the numbers of the second, which are surely ones that may occur.
    count = batch.count(values)
    order = [1, *range(1, count)]
    taken = batch.rows(values, order)
    changed = tuple(taken[i] if i in moved else value for i, value in enumerate(values))
    before = case.evaluate(values, dtype=torch.float64, upstream=torch.ones_like)
    after = case.evaluate(changed, dtype=torch.float64, upstream=torch.ones_like)
    if before.failed or after.failed:
        return None
    largest = 0.0
    for leaf, position in enumerate(case.inputs.differentiable):
        axis = batch.axes[position]
        if axis is None:
            continue
        one, two = (
            found.gradient(leaf).detach().narrow(axis, 1, count - 1) for found in (before, after)
        )
        size = max(float(one.norm()), float(two.norm()))
        if not size < float("inf"):
            return None
        if size:
            largest = max(largest, float((one - two).norm()) / size)
    return largest
