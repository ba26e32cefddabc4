"""Which arguments of a loss are counted in samples, and the same inputs with other samples.

Usually the batch is axis 0 of every tensor that is as long there as the prediction. What shapes
leave open (class weights of which there happen to be as many as samples, CTC's ``[T, N, C]``, data
beside a parameter) is settled by trial: the loss is called with every sample twice, and where an
argument was counted wrongly, its shapes no longer fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lossproof.checks.trace import tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination
    from lossproof.checks.inputs import Inputs

Tensor = torch.Tensor
Values = tuple[Any, ...]

NOTE = "batch"
"""The key under which the batch is kept among the notes of an examination."""

TRIALS = 16
"""How many readings of the shapes are tried at most."""


@dataclass(frozen=True)
class Batch:
    """Which axis of which argument counts the samples."""

    size: int
    """How many samples the small inputs of the examination (``case.small``) hold."""
    axes: tuple[int | None, ...]
    """For each argument of the call the axis of the samples; ``None`` where all samples share it.

    A list, a tuple or an array with one item per sample has axis 0.
    """
    containers: frozenset[int] = frozenset()
    """The arguments that are containers of several batches, such as outputs at three scales."""

    def count(self, values: Sequence[Any]) -> int:
        """How many samples these arguments hold."""
        for position, (value, axis) in enumerate(zip(values, self.axes, strict=True)):
            if axis is not None:
                first = next(tensors_in(value)) if position in self.containers else value
                return _length(first, axis)
        raise ValueError("no argument is counted in samples")

    def rows(self, values: Sequence[Any], index: Sequence[int]) -> Values:
        """These samples alone, in this order; one may come several times."""
        return self._mapped(values, values, lambda value, _, axis: _taken(value, axis, index))

    def repeated(self, values: Sequence[Any], times: int) -> Values:
        """The whole batch several times, one copy after the other."""
        return self.rows(values, list(range(self.count(values))) * times)

    def permuted(self, values: Sequence[Any], order: Sequence[int]) -> Values:
        """The same samples in another order.

        Raises:
            ValueError: ``order`` is no permutation of the samples.
        """
        if sorted(order) != list(range(self.count(values))):
            raise ValueError(
                f"`order` must be a permutation of {self.count(values)} samples, got {list(order)}"
            )
        return self.rows(values, order)

    def joined(self, values: Sequence[Any], others: Sequence[Any]) -> Values:
        """One batch after the other; what all samples share is taken from the first."""
        return self._mapped(values, others, _joined)

    def _mapped(self, values: Sequence[Any], others: Sequence[Any], change: Any) -> Values:
        made = []
        for position, axis in enumerate(self.axes):
            value, other = values[position], others[position]
            if axis is None:
                made.append(value)
            elif position in self.containers:
                made.append(_each(value, other, lambda one, two, a=axis: change(one, two, a)))
            else:
                made.append(change(value, other, axis))
        return tuple(made)


def batch_of(case: Examination) -> Batch | None:
    """Which arguments are counted in samples; ``None`` if none is, or it cannot be told.

    Costs one call of the loss as a rule. Some more are made where shapes leave it open.
    """
    if NOTE not in case.notes:
        case.notes[NOTE] = _settled(case)
    found: Batch | None = case.notes[NOTE]
    return found


# ---------------------------------------------------------------------------- by trial
def _settled(case: Examination) -> Batch | None:
    inputs = case.small
    for batch in itertools.islice(_readings(inputs), TRIALS):
        if _fits(case, batch):
            for other in _with_less(inputs, batch):
                if _fits(case, other) and not _keeps_value(case, batch):
                    return other if _keeps_value(case, other) else batch
            return batch
    return None


def _fits(case: Examination, batch: Batch) -> bool:
    """Whether the loss can be called with every sample twice."""
    values = batch.repeated(case.small.values, 2)
    return _usable(case.evaluate(values, backward=False))


def _usable(found: Evaluation) -> bool:
    return found.error is None and found.value is not None


def _keeps_value(case: Examination, batch: Batch) -> bool:
    """Whether the samples may come in another order: what is shared by all must not move along."""
    values = case.small.values
    turned = batch.permuted(values, list(reversed(range(batch.size))))
    one, two = (
        case.evaluate(v, dtype=torch.float64, backward=False).value for v in (values, turned)
    )
    if one is None or two is None:
        return False
    return bool(torch.isclose(one.detach().double().sum(), two.detach().double().sum(), rtol=1e-9))


# ---------------------------------------------------------------------------- by shape
def _readings(inputs: Inputs) -> Iterator[Batch]:
    """What the shapes may mean, the likeliest first."""
    values = inputs.values
    main = _main(inputs)
    if main is None:
        return
    own = [batch for size in _lengths(values[main]) if (batch := _read(values, size))]
    others = _of_other_lengths(values, main)
    time_first = [batch for batch in (_along_second(values, main),) if batch]
    if own and not _is_alone(own[0]):
        likeliest = [*own, *time_first, *others]
    elif _is_parameter(values[main], others):
        likeliest = [*time_first, *others, *own]
    else:
        likeliest = [*time_first, *own, *others]
    for batch in likeliest:
        yield batch
        yield from _with_less(inputs, batch)
        yield from _with_two_less(inputs, batch)


def _is_alone(batch: Batch) -> bool:
    return sum(axis is not None for axis in batch.axes) == 1


def _is_parameter(value: Any, others: Sequence[Batch]) -> bool:
    """Whether an argument that alone has its length is rather no prediction for samples."""
    vector = isinstance(value, Tensor) and value.dim() == 1
    return any(vector or not _is_alone(batch) for batch in others)


def _main(inputs: Inputs) -> int | None:
    """The prediction: the first argument that a gradient is wanted for, else the first tensor."""
    wanted = (*inputs.differentiable, *range(len(inputs.values)))
    return next((i for i in wanted if _counted(inputs.values[i])), None)


def _counted(value: Any) -> bool:
    """Whether an argument has a length that may be the number of samples."""
    first = next(tensors_in(value), None)
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return first is not None and first.dim() > 0 and first.shape[0] > 0


def _length(value: Any, axis: int) -> int:
    shape = getattr(value, "shape", None)
    return len(value) if shape is None else int(shape[axis])


def _lengths(value: Any) -> tuple[int, ...]:
    """The lengths of an argument that may be the number of samples, the likeliest first."""
    if isinstance(value, (Tensor, np.ndarray)):
        return (int(value.shape[0]),)
    tensors = [tensor for tensor in tensors_in(value) if tensor.dim() > 0]
    inner = {int(tensor.shape[0]) for tensor in tensors}
    return (*(inner if len(inner) == 1 else ()), len(value))


def _read(values: Sequence[Any], size: int) -> Batch | None:
    """Every argument that is so long along its axis 0 counts samples."""
    axes: list[int | None] = []
    containers = set()
    for position, value in enumerate(values):
        axes.append(0 if _has_length(value, size) else None)
        if axes[-1] == 0 and not isinstance(value, (Tensor, np.ndarray)):
            if isinstance(value, dict) or len(value) != size:
                containers.add(position)
    if all(axis is None for axis in axes):
        return None
    return Batch(size, tuple(axes), frozenset(containers))


def _has_length(value: Any, size: int) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return len(value.shape) > 0 and value.shape[0] == size
    if isinstance(value, (list, tuple)) and len(value) == size:
        return True
    if isinstance(value, (list, tuple, dict)) and value:
        tensors = list(tensors_in(value))
        items = value.values() if isinstance(value, dict) else value
        return len(tensors) == len(items) and all(_has_length(tensor, size) for tensor in tensors)
    return False


def _along_second(values: Sequence[Any], main: int) -> Batch | None:
    """Time first, as CTC has it: whole numbers, one per sample, tell that axis 1 is the batch."""
    prediction = values[main]
    if not isinstance(prediction, Tensor) or prediction.dim() < 3:
        return None
    size = int(prediction.shape[1])
    axes = [_axis_beside(value, prediction) for value in values]
    told = any(
        axis == 0 and isinstance(value, Tensor) and value.dim() == 1 and not _is_floating(value)
        for value, axis in zip(values, axes, strict=True)
    )
    return Batch(size, tuple(axes)) if told else None


def _axis_beside(value: Any, prediction: Tensor) -> int | None:
    """Where an argument beside a prediction of shape ``[T, N, ...]`` counts the samples."""
    if isinstance(value, Tensor) and value.dim() > 1 and value.shape[:2] == prediction.shape[:2]:
        return 1
    return 0 if _has_length(value, int(prediction.shape[1])) else None


def _of_other_lengths(values: Sequence[Any], main: int) -> list[Batch]:
    """Batches of the lengths that only other arguments have, the most widespread first."""
    known = set(_lengths(values[main]))
    sizes = dict.fromkeys(
        size
        for position, value in enumerate(values)
        if position != main and _counted(value)
        for size in _lengths(value)
        if size not in known
    )
    found = [batch for size in sizes if (batch := _read(values, size))]
    return sorted(found, key=lambda batch: sum(axis is None for axis in batch.axes))


def _with_less(inputs: Inputs, batch: Batch) -> Iterator[Batch]:
    """The same reading, but one argument is shared by all samples.

    That can be so where the prediction has another axis of that length, such as the classes.
    """
    for position in _sharable(inputs, batch):
        yield _without(batch, (position,))


def _with_two_less(inputs: Inputs, batch: Batch) -> Iterator[Batch]:
    for pair in itertools.combinations(_sharable(inputs, batch), 2):
        yield _without(batch, pair)


def _without(batch: Batch, shared: tuple[int, ...]) -> Batch:
    axes = tuple(None if i in shared else axis for i, axis in enumerate(batch.axes))
    return Batch(batch.size, axes, batch.containers.difference(shared))


def _sharable(inputs: Inputs, batch: Batch) -> list[int]:
    """The arguments that may only happen to be as long as the batch, the likeliest first."""
    values = inputs.values
    main = _main(inputs)
    if main is None or batch.axes[main] is None:
        return []
    shape = tuple(getattr(values[main], "shape", ()))
    found = []
    for position, (value, axis) in enumerate(zip(values, batch.axes, strict=True)):
        if axis is None or position == main:
            continue
        own = tuple(getattr(value, "shape", (len(value),) if hasattr(value, "__len__") else ()))
        alike = own == shape and len(own) > 1
        if not alike and (batch.size in shape[1:] or batch.size == 1):
            found.append(position)
    return sorted(found, key=lambda i: (not _is_floating(values[i]), i))


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


# ---------------------------------------------------------------------------- other samples
def _taken(value: Any, axis: int, index: Sequence[int]) -> Any:
    if isinstance(value, Tensor):
        places = torch.tensor(list(index), dtype=torch.long, device=value.device)
        return value.detach().index_select(axis, places)
    if isinstance(value, np.ndarray):
        return value.take(list(index), axis)
    items = [value[i] for i in index]
    return _like(value, items)


def _joined(value: Any, other: Any, axis: int) -> Any:
    if isinstance(value, Tensor):
        return torch.cat((value.detach(), other.detach()), axis)
    if isinstance(value, np.ndarray):
        return np.concatenate((value, other), axis)
    return _like(value, [*value, *other])


def _each(value: Any, other: Any, change: Any) -> Any:
    """Change every tensor of a container."""
    if isinstance(value, dict):
        return {key: _each(item, other[key], change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_each(one, two, change) for one, two in zip(value, other, strict=True)]
        return _like(value, items)
    return change(value, other)


def _like(value: Any, items: list[Any]) -> Any:
    """The items in a container of the same kind."""
    if isinstance(value, tuple):
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return items
