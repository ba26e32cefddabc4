"""What a loss does with the positions that a mask, lengths or an ignored label leave out.

They must get no gradient, and the loss must not change when more of them are added. Where a mask
is counted but never applied, moving it about changes nothing: that tells the mistake from a mask
that means something else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.batch import Batch, Values, batch_of
from lossproof.checks.report import Location, Severity
from lossproof.checks.roles import role_by_name, roles_of
from lossproof.checks.terms import PRODUCTS, maker, quotient
from lossproof.checks.trace import Operation, Recorder

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination

Tensor = torch.Tensor

PADDING = re.compile(r"pad|attention|token|seq|valid|response|ignore", re.I)
"""Masks with such names say what is no data at all, not what is of another kind."""
LABELS = ("ignore_index", "ignore_label", "ignore_value", "pad_idx", "padding_idx", "pad_index",
          "pad_token_id", "pad_id", "padding_index")  # fmt: skip
"""What people call the option that holds the label of what does not count."""
ALIKE = 1e-9
ROUNDING = 1e-4
"""How far an epsilon in a denominator may move a ratio."""


@dataclass(frozen=True)
class Leftover:
    """What was found out about one argument that selects positions."""

    message: str
    cause: str | None = None
    """``None`` where there is no fault."""
    holds: bool = False
    severity: Severity = Severity.ERROR
    location: Location | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    help: str | None = None


@dataclass(frozen=True)
class Selection:
    """Two ways to leave out equally many positions, and which ones each keeps.

    ``first`` and ``second`` are arguments of a call; ``kept_first`` and ``kept_second`` mark the
    elements of the prediction that count (or, for a mask, those marked 1: what is kept is told by
    the gradient).
    """

    name: str
    position: int
    first: Values
    second: Values
    kept_first: Tensor
    kept_second: Tensor
    either: bool = False
    """Whether the mask may as well mark what does not count."""


def leftovers(case: Examination) -> Iterator[Leftover]:
    """Probe every mask and all lengths among the arguments, and an ignored label."""
    batch = batch_of(case)
    for selection in _selections(case, batch):
        yield from _probe(case, selection, batch)
    yield from _smaller_masks(case)


# ---------------------------------------------------------------------------- selections
def _selections(case: Examination, batch: Batch | None) -> Iterator[Selection]:
    inputs = case.small
    wanted = inputs.differentiable
    if len(wanted) != 1:
        return
    prediction = inputs.values[wanted[0]]
    for position, argument in enumerate(inputs.arguments):
        # By name: a mask without a target beside it may be what is predicted, and may be not.
        role, value = role_by_name(argument.name), argument.value
        if role == "mask" and isinstance(value, Tensor):
            yield from _of_mask(case, position, value, prediction)
        elif role == "length" and isinstance(value, Tensor) and batch is not None:
            if batch.axes[position] == 0 == batch.axes[wanted[0]]:
                yield from _of_lengths(case, position, value, prediction)
    yield from _of_ignored_label(case, prediction)


def _of_mask(
    case: Examination, position: int, mask: Tensor, prediction: Tensor
) -> Iterator[Selection]:
    spread = _spread(mask, prediction)
    zero_one = mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all())
    if spread is None or not zero_one or mask.numel() < 2:
        return
    marks = _marks(mask, 1)
    # As many marks in every row, so that what only counts them sees no difference.
    others = marks.roll(1, _longest(mask))
    if bool((marks == others).all()):
        return
    yield Selection(
        case.inputs.arguments[position].name,
        position,
        _with(case, position, marks.to(mask)),
        _with(case, position, others.to(mask)),
        _over(marks, spread, prediction),
        _over(others, spread, prediction),
        either=True,
    )


def _longest(mask: Tensor) -> int:
    """The last axis along which there is something to choose."""
    return max((i for i, size in enumerate(mask.shape) if size > 1), default=0)


def _marks(mask: Tensor, offset: int) -> Tensor:
    """Marks for about two thirds of the positions, in a pattern that every row repeats."""
    axis = _longest(mask)
    length = mask.shape[axis]
    row = torch.arange(length, device=mask.device) % min(3, length) != offset
    shape = [1] * mask.dim()
    shape[axis] = length
    return row.reshape(shape).expand(mask.shape).contiguous()


def _spread(mask: Tensor, prediction: Tensor) -> int | None:
    """How many axes of size 1 the mask lacks at its end to fit the prediction."""
    for missing in range(prediction.dim() - mask.dim() + 1):
        shape = (*mask.shape, *([1] * missing))
        if len(shape) == prediction.dim() and all(
            size in (1, length) for size, length in zip(shape, prediction.shape, strict=True)
        ):
            return missing
    return None


def _over(marks: Tensor, missing: int, prediction: Tensor) -> Tensor:
    shape = (*marks.shape, *([1] * missing))
    return marks.reshape(shape).expand(prediction.shape).to(prediction.device)


def _of_lengths(
    case: Examination, position: int, lengths: Tensor, prediction: Tensor
) -> Iterator[Selection]:
    if lengths.dim() != 1 or lengths.is_floating_point() or prediction.dim() < 2:
        return
    count, longest = len(lengths), int(prediction.shape[1])
    if count < 2 or longest < 3 or int(lengths.max()) > longest:
        return
    one = torch.tensor([longest - 1 - (i % 2) for i in range(count)], device=lengths.device)
    two = one.roll(1)
    if bool((one == two).all()):
        return
    yield Selection(
        case.inputs.arguments[position].name,
        position,
        _with(case, position, one.to(lengths)),
        _with(case, position, two.to(lengths)),
        _before(one, prediction),
        _before(two, prediction),
    )


def _before(lengths: Tensor, prediction: Tensor) -> Tensor:
    steps = torch.arange(prediction.shape[1], device=prediction.device)
    marks = steps[None, :] < lengths.to(prediction.device)[:, None]
    return _over(marks, prediction.dim() - 2, prediction)


def _of_ignored_label(case: Examination, prediction: Tensor) -> Iterator[Selection]:
    name, label = _ignored_label(case)
    roles = roles_of(case.small)
    if label is None or "target" not in roles:
        return
    position = roles.index("target")
    target = case.small.values[position]
    if not isinstance(target, Tensor) or target.is_floating_point() or target.numel() < 4:
        return
    flat = torch.arange(target.numel(), device=target.device).reshape(target.shape)
    # As many labels are left out in both.
    left_out = 3 if target.numel() % 4 < 2 else 0
    first, second = flat % 4 != 1, flat % 4 != left_out
    spreads = [_class_axis(first, prediction), _class_axis(second, prediction)]
    # Where there are as many of each label, the labels themselves make no difference.
    other = target.clone()
    other[target == label] = 0 if label != 0 else 1
    if spreads[0] is None or spreads[1] is None or int(first.sum()) != int(second.sum()):
        return
    yield Selection(
        name,
        position,
        _with(case, position, torch.where(first, other, label)),
        _with(case, position, torch.where(second, other, label)),
        spreads[0],
        spreads[1],
    )


def _ignored_label(case: Examination) -> tuple[str, int | None]:
    """The option that says which label does not count, and the label."""
    for name in LABELS:
        label = case.subject.option(name)
        if isinstance(label, int) and not isinstance(label, bool):
            return name, label
    return "", None


def _class_axis(marks: Tensor, prediction: Tensor) -> Tensor | None:
    """Marks for labels, spread over the axis of the classes: the second, or else the last."""
    for axis in (1, prediction.dim() - 1):
        shape = [n for i, n in enumerate(prediction.shape) if i != axis]
        if prediction.dim() > 1 and list(marks.shape) == shape:
            return marks.unsqueeze(axis).expand(prediction.shape)
    return marks if marks.shape == prediction.shape else None


def _with(case: Examination, position: int, value: Any) -> Values:
    values = list(case.small.values)
    values[position] = value
    return tuple(values)


# ---------------------------------------------------------------------------- the probe
def _probe(case: Examination, selection: Selection, batch: Batch | None) -> Iterator[Leftover]:
    first, second = (
        case.evaluate(values, dtype=torch.float64, upstream=torch.ones_like)
        for values in (selection.first, selection.second)
    )
    if not (_usable(first) and _usable(second)):
        yield Leftover(f"the loss takes no other `{selection.name}`, or is not finite for it")
        return
    one, two = first.gradient(0).detach(), second.gradient(0).detach()
    if not float(one.norm()) or not bool(torch.isfinite(one).all()):
        yield Leftover(f"there is no gradient beside `{selection.name}`")
        return
    kept = _is_zero(one, ~selection.kept_first) and _is_zero(two, ~selection.kept_second)
    dropped = selection.either and (
        _is_zero(one, selection.kept_first) and _is_zero(two, selection.kept_second)
    )
    if kept or dropped:
        yield from _applied(case, selection, first, batch, out=0 if kept else 1)
        return
    if selection.name in LABELS or _only_counted(case, selection, first, second):
        yield from _unmasked(case, selection, first, one)
    else:
        yield Leftover(f"`{selection.name}` selects in a part of the loss only, if at all")


def _applied(
    case: Examination, selection: Selection, found: Evaluation, batch: Batch | None, out: int
) -> Iterator[Leftover]:
    """More positions that do not count must leave the loss as it is."""
    name = selection.name
    ratio = _with_more_padding(case, selection, found, batch, out)
    if ratio is not None and abs(ratio - _of_what_is_left_out(selection, out)) < ROUNDING:
        yield Leftover(
            f"what `{name}` leaves out is what the sum of the rest is divided by",
            cause="denominator-left-out",
            location=_division(case),
            evidence={"with_twice_the_length": ratio},
            help="divide by the number of positions that count: by the sum of the same mask that "
            "the loss is multiplied with",
        )
        return
    padding = PADDING.search(name) or _is_prefix(case, selection)
    if ratio is None or abs(ratio - 0.5) > 1e-6 or not padding:
        yield Leftover(f"what `{name}` leaves out gets no gradient", holds=True)
        return
    yield Leftover(
        f"what `{name}` leaves out counts in the denominator: as much padding again halves the "
        "loss and its gradient",
        cause="padding-in-denominator",
        severity=Severity.WARNING,
        location=_last_mean(case),
        evidence={"with_twice_the_length": ratio},
        help="divide by the number of positions that count: `(loss * mask).sum() / mask.sum()`",
    )


def _of_what_is_left_out(selection: Selection, out: int) -> float:
    """What the value becomes where it is divided by the number of positions that do not count."""
    if selection.name in LABELS or not selection.either:
        return math.nan
    marks: Tensor = selection.first[selection.position]
    left_out = int((marks == out).sum())
    return left_out / (left_out + int(marks.numel()))


def _is_prefix(case: Examination, selection: Selection) -> bool:
    """Whether a mask tells the lengths of sequences: ones, then zeros, and not as many in each."""
    if selection.name in LABELS or not selection.either:
        return False
    mask: Tensor = case.inputs.values[selection.position]
    if mask.dim() < 2 or mask.shape[0] < 2 or mask.shape[1] < 3:
        return False
    rows = mask.reshape(mask.shape[0], mask.shape[1], -1)
    if bool((rows != rows[..., :1]).any()):
        return False
    row = rows[..., 0].long()
    lengths = row.sum(1)
    falls = bool((row[:, :-1] >= row[:, 1:]).all())
    return falls and bool((lengths > 0).all()) and bool((lengths != lengths[0]).any())


def _with_more_padding(
    case: Examination, selection: Selection, found: Evaluation, batch: Batch | None, out: int
) -> float | None:
    """What the value becomes when as many positions are added again, none of which counts."""
    values = selection.first
    marks = values[selection.position]
    lengths = not selection.either and selection.name not in LABELS
    axis = 0 if marks.dim() == 1 and not lengths else 1
    if batch is None or batch.axes[selection.position] != 0 or not found.scalar:
        return None
    _, label = _ignored_label(case)
    filling = label if selection.name in LABELS and label is not None else out
    padding = torch.full_like(marks, filling)
    length = case.small.values[case.small.differentiable[0]].shape[axis]
    longer = []
    for position, (value, counted) in enumerate(zip(values, batch.axes, strict=True)):
        if position == selection.position:
            longer.append(marks if lengths else torch.cat((marks, padding), axis))
        elif isinstance(value, Tensor) and counted == 0 and _has(value, axis, length):
            longer.append(torch.cat((value.detach(), value.detach()), axis))
        else:
            longer.append(value)
    more = case.evaluate(longer, dtype=torch.float64, backward=False)
    if more.error is not None or more.value is None or more.value.numel() != 1:
        return None
    return more.scalar / found.scalar


def _has(value: Tensor, axis: int, length: int) -> bool:
    return value.dim() > axis and value.shape[axis] == length


def _last_mean(case: Examination) -> Location | None:
    for operation in reversed(case.trace.operations):
        if operation.inside is None and (
            operation.name == "mean" or quotient(operation) is not None
        ):
            return operation.site.location
    return None


def _usable(found: Evaluation) -> bool:
    if found.failed or found.value is None or not found.gradients:
        return False
    return bool(torch.isfinite(found.value.detach()).all()) and found.gradients[0] is not None


def _is_zero(gradient: Tensor, where: Tensor) -> bool:
    rest = gradient[where.to(gradient.device)]
    return not rest.numel() or float(rest.abs().max()) <= ALIKE * float(gradient.abs().max())


def _only_counted(
    case: Examination, selection: Selection, first: Evaluation, second: Evaluation
) -> bool:
    """Whether only the number of marks matters: moving them changes nothing, but more of them do.

    A loss that applies the marks in any way sees that they moved. Lengths may move from one sample
    to another, if all that changes is what each sample is divided by.
    """
    one, two = first.gradient(0).detach(), second.gradient(0).detach()
    given = selection.first[selection.position]
    if selection.either:
        if float((one - two).norm()) > ALIKE * float(one.norm()):
            return False
        if abs(first.scalar - second.scalar) > ALIKE * abs(first.scalar):
            return False
        more = torch.ones_like(given)
    else:
        # Each sample may be divided by its own length, which scales its gradient as a whole.
        if not _same_rows(one, two):
            return False
        if float((one - two).norm()) > 1e-6 * float(one.norm()):
            return True
        more = torch.full_like(given, one.shape[1])
    found = case.evaluate(
        _with(case, selection.position, more), dtype=torch.float64, upstream=torch.ones_like
    )
    return _usable(found) and abs(found.scalar - first.scalar) > 1e-6 * abs(first.scalar)


def _same_rows(one: Tensor, two: Tensor) -> bool:
    """Whether the gradient of each sample is the same but for a factor."""
    one, two = one.flatten(1), two.flatten(1)
    factors = (one * two).sum(1, keepdim=True) / one.square().sum(1, keepdim=True).clamp(1e-300)
    return float((two - factors * one).norm()) <= ALIKE * float(two.norm())


def _unmasked(
    case: Examination, selection: Selection, first: Evaluation, gradient: Tensor
) -> Iterator[Leftover]:
    out = ~selection.kept_first.to(gradient.device)
    name = selection.name
    if name in LABELS and not _reads_label(case):
        yield Leftover(f"`{name}` is given, and nothing is compared with it")
        return
    share = float(gradient[out].norm()) / float(gradient.norm())
    yield Leftover(
        f"what `{name}` leaves out still gets a gradient: it is counted in the denominator, but "
        "the numerator adds up everything",
        cause="unmasked-numerator",
        location=_division(case),
        evidence={"share_of_gradient_left_out": share},
        notes=(f"{share:.0%} of the gradient's norm falls on what should not count",),
        help="leave it out of the numerator as well: `(loss * mask).sum() / mask.sum()`",
    )


def _reads_label(case: Examination) -> bool:
    """Whether the loss compares its target with something: the label is not simply forgotten."""
    names = ("ne", "eq", "__ne__", "__eq__", "not_equal")
    _, label = _ignored_label(case)
    return any(
        operation.name in names and label in operation.args[1:]
        for operation in case.trace.operations
        if not any(isinstance(value, Tensor) for value in operation.args[1:])
    )


def _division(case: Examination) -> Location | None:
    for operation in reversed(case.trace.operations):
        parts = quotient(operation)
        if parts is not None and operation.inside is None:
            return operation.site.location
    return None


# ---------------------------------------------------------------------------- masks too small
def _smaller_masks(case: Examination) -> Iterator[Leftover]:
    """`(loss * mask).sum() / mask.sum()` where the mask spreads over an axis of the loss."""
    trace = case.trace
    for operation in trace.operations:
        found = _spread_mask(trace, operation, case)
        if found is None:
            continue
        elements, marks, place = found
        times = elements // marks
        yield Leftover(
            f"the sum over {elements} elements is divided by the sum of a mask of {marks}: the "
            f"result is {times} times the mean",
            cause="mask-of-other-size",
            severity=Severity.WARNING,
            location=place,
            evidence={"elements": elements, "mask": marks, "too_large_by": times},
            notes=("where every element is 1 and nothing is masked, the loss is not 1",),
            help="divide by `mask.expand_as(loss).sum()`, or sum or average over the other axis "
            "before the mask is applied",
        )
        return


def _spread_mask(
    trace: Recorder, operation: Operation, case: Examination
) -> tuple[int, int, Location | None] | None:
    parts = quotient(operation)
    if parts is None or operation.inside is not None:
        return None
    numerator, denominator = parts
    if not (_is_number(numerator) and _is_number(denominator)):
        return None
    product = _summed(trace, numerator)
    counted = _summed(trace, _bare(trace, denominator))
    if product is None or counted is None:
        return None
    made = maker(trace, product)
    if made is None or made.name not in PRODUCTS or len(made.args) != 2:
        return None
    masks = [value for value in made.args if _comes_from_mask(trace, value, case)]
    if len(masks) != 1 or not _comes_from_mask(trace, counted, case):
        return None
    mask = masks[0]
    elements, marks = int(product.numel()), int(counted.numel())
    spread = int(mask.numel()) == marks < elements
    same = abs(float(mask.double().sum()) - float(counted.double().sum())) < 1e-9
    if spread and same and elements % marks == 0 and min(mask.shape, default=0) >= 1:
        return elements, marks, operation.site.location
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _bare(trace: Recorder, value: Any) -> Any:
    """A denominator without what keeps it from being 0."""
    for _ in range(4):
        made = maker(trace, value)
        if made is None or made.name not in (
            "clamp", "clamp_min", "clip", "add", "__add__", "__radd__", "maximum", "max", "float",
            "double", "to", "type",
        ):  # fmt: skip
            break
        value = next((a for a in made.args if isinstance(a, Tensor)), None)
    return value


def _summed(trace: Recorder, value: Any) -> Tensor | None:
    """What a number is the sum of all elements of."""
    made = maker(trace, value)
    if made is None or not made.args:
        return None
    if made.name not in ("sum", "count_nonzero") and made.kwargs.get("reduction") != "sum":
        return None
    whole = made.args[0]
    return whole if isinstance(whole, Tensor) else None


def _comes_from_mask(trace: Recorder, value: Any, case: Examination) -> bool:
    """Whether a tensor holds zeros and ones and is made of no prediction."""
    if not isinstance(value, Tensor) or value.requires_grad:
        return False
    made = maker(trace, value)
    passed = [i for i, given in enumerate(case.base.passed) if given is value]
    origin = frozenset(passed) if made is None else made.inputs
    if not origin or origin & set(case.inputs.differentiable):
        return False
    return bool(((value == 0) | (value == 1)).all())
