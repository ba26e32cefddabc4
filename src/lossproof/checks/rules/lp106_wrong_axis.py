"""An operation works along the wrong axis: over the batch, over time, or across mixed-up axes.

## What it does
Calls the loss with every sample twice and sees which axes inside grow: those are the batch. It
reports a softmax, a normalisation or a norm along such an axis where each sample has classes or
features of its own; log-probabilities that are picked along one axis and normalised along another;
and a `view` that stands where a `permute` was needed.

## Why it matters
Every shape fits, the loss falls, and the accuracy stays poor: the probabilities of one sample
depend on which others happen to be in its batch, and a batch of one has no gradient at all. A
`view` that mixes pixels and channels compares numbers that have nothing to do with each other.

## Example
```python
def loss(logits, target):
    return F.nll_loss(F.log_softmax(logits, dim=0), target)
```

## Use instead
```python
def loss(logits, target):
    return F.nll_loss(F.log_softmax(logits, dim=1), target)
```

## Not reported
- Losses over pairs of samples: a softmax over a matrix of similarities, both of whose axes are the
  batch (InfoNCE, CLIP, supervised contrastive), and its two directions; a matrix of matches.
- A softmax over one number per sample: weights of samples, listwise ranking, partial likelihoods.
- A softmax over the batch beside one over the classes (Sinkhorn, optimal transport, matching).
- Standardising and normalising features over the batch for a correlation (Pearson, concordance,
  Barlow Twins, VICReg): what follows sums over the batch.
- A norm over the whole batch that does not matter: a relative error, a squared norm divided by the
  batch size.
- A `view` of mixed-up axes that changes nothing, because every element is treated alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.axes import NORMALISATIONS, SOFTMAXES, Counted, counted, dimension
from lossproof.checks.batch import batch_of
from lossproof.checks.coupling import ALIKE, coupling_of, is_coupled
from lossproof.checks.report import Finding, Location, Severity
from lossproof.checks.reshaping import SPATIAL, mixing, permuted_positions
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.scaling import scaling_of
from lossproof.checks.terms import QUOTIENTS
from lossproof.checks.trace import Operation, tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP106"]
Tensor = torch.Tensor

NORMS = frozenset({"norm", "vector_norm", "linalg_norm", "linalg_vector_norm", "dist", "sqrt"})
PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "einsum", "tensordot"})
STATISTICS = frozenset({"std", "var", "mean", "std_mean", "var_mean", "corrcoef", "cov"})


def examine(case: Examination) -> Iterable[Verdict]:
    """Look at what works along the batch, at normalised axes, and at views."""
    if case.trace.random:
        yield RULE.unproved("the loss draws random numbers, other ones for another batch")
        return
    found = list(_findings(case))
    if found:
        yield found[0]
        return
    if not case.affordable(6):
        yield RULE.unproved("the loss is too slow to see whether samples depend on each other")
    elif batch_of(case) is None:
        yield RULE.not_applicable("no argument is counted in samples, or it cannot be told")
    elif coupling_of(case) is None:
        yield RULE.unproved("whether samples depend on each other could not be measured")
    elif is_coupled(case):
        yield RULE.not_applicable("the loss couples its samples, as contrastive losses do")
    else:
        yield RULE.proved(
            f"the gradient of each sample is its own, to a relative {ALIKE:g}, and nothing is "
            "normalised along an axis that it is not read along"
        )


def _findings(case: Examination) -> Iterator[Finding]:
    yield from _mixed_axes(case)
    yield from _other_axis_read(case)
    operations = counted(case) if case.affordable(14) else None
    if operations:
        yield from _softmax_over_batch(case, operations)
        yield from _normalised_over_batch(case, operations)
        yield from _norm_of_batch(case, operations)


# ---------------------------------------------------------------------------- views
def _mixed_axes(case: Examination) -> Iterator[Finding]:
    found = mixing(case)
    if found is None:
        return
    operation, axis = found
    values = permuted_positions(case, axis)
    names = {other.name for other in case.trace.operations}
    if values is None or not names.isdisjoint(SPATIAL):
        return
    one, two = (
        case.evaluate(v, dtype=torch.float64, backward=False) for v in (case.small.values, values)
    )
    if one.value is None or two.value is None or one.error or two.error:
        return
    if abs(one.scalar - two.scalar) <= 1e-9 * max(abs(one.scalar), abs(two.scalar)):
        return
    before = list(next(tensors_in(operation.args)).shape)
    after = list(operation.out.shape)
    yield RULE.finding(
        f"`{operation.name}` from {before} to {after} mixes axes: it does not move axis {axis}, it "
        "cuts the memory into other pieces",
        location=_place(case, operation),
        cause="view-for-permute",
        evidence={"value": one.scalar, "positions_permuted": two.scalar},
        notes=(
            "with the positions of all inputs permuted alike, the value is "
            f"{two.scalar:.6g} instead of {one.scalar:.6g}",
        ),
        help=f"move the axis first: `{_order(len(before), axis, after)}`",
    )


def _order(dims: int, axis: int, after: list[int]) -> str:
    if len(after) == dims == 3:
        return "x.transpose(1, 2)"
    order = ", ".join(str(i) for i in (*(i for i in range(dims) if i != axis), axis))
    return f"x.permute({order}).reshape({', '.join(['-1', *map(str, after[1:])])})"


# ---------------------------------------------------------------------------- normalised and read
@dataclass(frozen=True)
class Normaliser:
    """An operation whose result sums to 1 along one axis, or over all elements."""

    operation: Operation
    axis: int | None
    logarithm: bool

    @property
    def along(self) -> str:
        """The axis in words."""
        return "over all elements" if self.axis is None else f"along axis {self.axis}"


def _other_axis_read(case: Examination) -> Iterator[Finding]:
    """Log-probabilities that are picked along an axis along which they do not sum to 1."""
    outer = [operation for operation in case.trace.operations if operation.inside is None]
    normalisers = [made for operation in outer if (made := _normaliser(case, operation))]
    for operation in outer:
        read = _read_along(operation) if normalisers else None
        if read is None:
            continue
        tensor, axis = read
        if tensor.dim() < 2 or _normalised(tensor, axis):
            continue
        for made in reversed(normalisers):
            if _is_made_by(tensor, made, axis):
                yield _read_finding(case, operation, made, tensor, axis)
                return


def _normaliser(case: Examination, operation: Operation) -> Normaliser | None:
    out = operation.out
    if not isinstance(out, Tensor) or not operation.inputs & set(case.inputs.differentiable):
        return None
    if operation.name in SOFTMAXES:
        axis = dimension(operation)
        logarithm = operation.name == "log_softmax"
        return None if axis is None else Normaliser(operation, axis, logarithm)
    # `e / e.sum(0)`, written by hand.
    if operation.name in QUOTIENTS and out.dim() > 1 and out.requires_grad:
        axes = [i for i in range(out.dim()) if _sums_to_one(out, i)]
        if len(axes) == 1:
            return Normaliser(operation, axes[0], False)
        if not axes and _is_distribution(out):
            return Normaliser(operation, None, False)
    return None


def _is_distribution(tensor: Tensor) -> bool:
    """Whether all elements together are probabilities."""
    values = tensor.detach().double()
    return bool((values > 0).all()) and abs(float(values.sum()) - 1) < 1e-6


def _read_along(operation: Operation) -> tuple[Tensor, int] | None:
    """The log-probabilities that an operation picks classes from, and along which axis."""
    first = operation.args[0] if operation.args else None
    if not isinstance(first, Tensor) or first.dim() == 0:
        return None
    if operation.name in ("nll_loss", "nll_loss2d"):
        return first, min(1, first.dim() - 1)
    if operation.name == "ctc_loss":
        return first, first.dim() - 1
    if operation.name == "gather" and len(operation.args) > 1:
        dim = operation.args[1]
        return (first, dim % first.dim()) if isinstance(dim, int) else None
    if operation.name == "gather" and isinstance(operation.kwargs.get("dim"), int):
        return first, int(operation.kwargs["dim"]) % first.dim()
    if operation.name == "kl_div" or operation.name in ("mul", "__mul__", "__rmul__", "multiply"):
        second = operation.args[1] if len(operation.args) > 1 else None
        return _beside_distribution(first, second)
    return None


def _beside_distribution(first: Tensor, second: Any) -> tuple[Tensor, int] | None:
    """Log-probabilities times probabilities: the axis along which the latter sum to 1."""
    if not isinstance(second, Tensor) or first.shape != second.shape:
        return None
    for logs, weights in ((first, second), (second, first)):
        axes = [i for i in range(weights.dim()) if _sums_to_one(weights, i)]
        if logs.requires_grad and not weights.requires_grad and len(axes) == 1:
            return logs, axes[0]
    return None


def _sums_to_one(tensor: Tensor, axis: int) -> bool:
    values = tensor.detach().double()
    total = values.sum(axis)
    return tensor.shape[axis] > 1 and bool((values >= 0).all() and ((total - 1).abs() < 1e-3).all())


def _normalised(tensor: Tensor, axis: int) -> bool:
    """Whether probabilities, or their logarithms of either sign, sum to 1 along an axis."""
    values = tensor.detach().double()
    for logs in (values, -values):
        if bool((torch.logsumexp(logs, axis).abs() < 1e-3).all()):
            return True
    return _sums_to_one(tensor, axis)


def _is_made_by(tensor: Tensor, made: Normaliser, axis: int) -> bool:
    """Whether a tensor holds the probabilities or logarithms that an operation normalised.

    They may have been reshaped since.
    """
    out = made.operation.out
    if out.numel() != tensor.numel() or (out.shape == tensor.shape and made.axis == axis):
        return False
    given = tensor.detach().double().reshape(-1).sort()[0]
    probabilities = out.detach().double().reshape(-1).sort()[0]
    if torch.equal(given, probabilities):
        return True
    logs = probabilities if made.logarithm else probabilities.log()
    return torch.allclose(given, logs, atol=1e-5)


def _read_finding(
    case: Examination, reader: Operation, made: Normaliser, tensor: Tensor, axis: int
) -> Finding:
    values = tensor.detach().double()
    sums = (values.exp() if bool((values <= 0).all()) else values).sum(axis)
    off = float((sums - 1).abs().max())
    place = reader.site.location
    return RULE.finding(
        f"`{made.operation.name}` normalises {made.along}, and `{reader.name}` picks along axis "
        f"{axis} of {list(tensor.shape)}: what it picks are no probabilities",
        location=_place(case, made.operation),
        cause="normalised-along-other-axis",
        evidence={"largest_deviation_of_a_sum_from_1": off},
        notes=(f"the sums over the picked axis differ from 1 by up to {off:.3g}",),
        help="normalise along the classes: `torch.log_softmax(x, dim=-1)` or `dim=1`, wherever "
        "the classes lie",
        related=() if place is None else (("picked here", place),),
    )


# ---------------------------------------------------------------------------- along the batch
def _softmax_over_batch(case: Examination, operations: list[Counted]) -> Iterator[Finding]:
    wanted = set(case.inputs.differentiable)
    softmaxes = [one for one in operations if one.operation.name in SOFTMAXES]
    for one in softmaxes:
        axis = dimension(one.operation)
        if one.operation.inside is not None or not one.operation.inputs & wanted:
            continue
        if axis is None or axis not in one.axes or not _has_classes(case, one):
            continue
        if any(_over_classes(other, one) for other in softmaxes) or not is_coupled(case):
            continue
        alone = _gradient_of_one_sample(case)
        flattened = one.operand.dim() == 1
        if alone is None or (alone > 1e-12 and not flattened):
            continue
        yield RULE.finding(
            f"`{one.operation.name}` works along axis {axis} of {list(one.operand.shape)}, which "
            "is the batch" + (" and its classes" if flattened else ""),
            location=_place(case, one.operation),
            cause="softmax-over-batch",
            evidence={
                "coupling": coupling_of(case),
                "gradient_of_a_batch_of_one": alone,
            },
            notes=(
                "what is predicted for one sample changes the gradient of the others",
                *(() if flattened else ("with a batch of one there is no gradient at all",)),
            ),
            help=f"`{one.operation.name}(x, dim=-1)`, or whichever axis holds the classes",
        )
        return


def _has_classes(case: Examination, one: Counted) -> bool:
    """Whether each sample has several numbers there, and a target says which is right."""
    operand = one.operand
    if len(one.axes) != 1:
        return False
    shapes = [case.small.values[i].shape for i in case.small.differentiable]
    if operand.dim() == 1:
        if not any(len(s) > 1 and s.numel() == operand.numel() != s[0] for s in shapes):
            return False
    elif not one.others:
        return False
    for i, value in enumerate(case.small.values):
        if i in case.small.differentiable or not isinstance(value, Tensor) or value.dim() == 0:
            continue
        if value.is_floating_point() and any(value.shape == shape for shape in shapes):
            # A matrix of matches says of its columns, too, which row is the right one.
            return value.shape != operand.shape or not _sums_to_one(value, next(iter(one.axes)))
        classes = max((operand.shape[i] for i in one.others), default=shapes[0][-1])
        if not value.is_floating_point() and int(value.max()) < classes:
            return True
    return False


def _over_classes(other: Counted, one: Counted) -> bool:
    """Whether the same is normalised over its classes, too."""
    axis = dimension(other.operation)
    return other is not one and other.operand.shape == one.operand.shape and axis not in other.axes


def _gradient_of_one_sample(case: Examination) -> float | None:
    """How large the gradient of a batch of one sample is, next to that of the whole batch."""
    batch = batch_of(case)
    if batch is None:
        return None
    one = case.evaluate(batch.rows(case.small.values, [0]), dtype=torch.float64)
    all_of_them = case.evaluate(case.small.values, dtype=torch.float64)
    if one.failed or all_of_them.failed:
        return None
    leaves = range(len(case.inputs.differentiable))
    size = max((float(all_of_them.gradient(leaf).norm()) for leaf in leaves), default=0.0)
    own = max((float(one.gradient(leaf).norm()) for leaf in leaves), default=0.0)
    return own / size if size > 0 and own < float("inf") else None


def _normalised_over_batch(case: Examination, operations: list[Counted]) -> Iterator[Finding]:
    wanted = set(case.inputs.differentiable)
    if any(_sums_over_batch(one) for one in operations):
        return
    for one in operations:
        operation = one.operation
        if operation.name in NORMALISATIONS:
            axis = dimension(operation)
        else:
            axis = _axis_of_norms(one)
        if axis is None or axis not in one.axes or len(one.axes) != 1 or not one.others:
            continue
        if operation.inside is not None or not operation.inputs & wanted or not is_coupled(case):
            continue
        scaled = _scaled(case, axis)
        if scaled is None or scaled[0] <= 1e-6 or scaled[1] > 1e-9:
            continue
        yield RULE.finding(
            f"`{operation.name}` works along axis {axis} of {list(one.operand.shape)}, which is "
            "the batch: it is the features that are normalised, not the samples",
            location=_place(case, operation),
            cause="normalised-over-batch",
            evidence={"change_when_a_sample_is_scaled": scaled[0], "a_feature": scaled[1]},
            notes=(
                "the loss changes with the length of one sample's vector, and not when one "
                "feature is scaled in all samples",
            ),
            help=f"`{operation.name}(..., dim=-1)`",
        )
        return


def _axis_of_norms(one: Counted) -> int | None:
    """The batch, where norms of the features are taken along it: `x.norm(dim=0)`."""
    result = one.result
    if one.operation.name not in NORMS or not isinstance(result, Tensor) or one.grows:
        return None
    return next(iter(one.axes)) if len(one.axes) == 1 and result.numel() > 1 else None


def _sums_over_batch(one: Counted) -> bool:
    """A product or a statistic that takes the batch away again, as a correlation does."""
    name = one.operation.name
    if name in PRODUCTS:
        return bool(one.axes) and not one.grows
    if name in STATISTICS:
        result = next(tensors_in(one.result), None)
        return bool(one.axes) and result is not None and result.numel() > 1 and not one.grows
    return False


def _scaled(case: Examination, axis: int) -> tuple[float, float] | None:
    """The relative change of the value when a sample, and when a feature, is twice as large."""
    position = case.small.differentiable[0]
    value = case.small.values[position].detach()
    if value.dim() != 2 or axis != 0 or len(case.small.differentiable) != 1:
        return None
    base = case.evaluate(case.small.values, dtype=torch.float64, backward=False)
    changes = []
    for index in ((slice(0, 1), slice(None)), (slice(None), slice(0, 1))):
        larger = value.clone()
        larger[index] *= 2
        values = list(case.small.values)
        values[position] = larger
        found = case.evaluate(values, dtype=torch.float64, backward=False)
        if found.value is None or found.error or base.value is None or not base.scalar:
            return None
        changes.append(abs(found.scalar / base.scalar - 1))
    return changes[0], changes[1]


def _norm_of_batch(case: Examination, operations: list[Counted]) -> Iterator[Finding]:
    """A norm of all samples at once that goes into the loss as if it were that of one."""
    scaling = scaling_of(case)
    if scaling is None or scaling.is_only("constant", "linear", "inverse"):
        return
    if scaling.value.power is not None:
        return
    for one in operations:
        whole = _samples_in_norm(one, operations)
        if whole is None or one.operation.inside is not None:
            continue
        yield RULE.finding(
            f"the norm is taken over the whole batch, {whole} samples at once: it grows with the "
            "square root of the batch size",
            severity=Severity.WARNING,
            location=_place(case, one.operation),
            cause="norm-over-batch",
            evidence={"value_of_twice_the_batch": scaling.ratio, "batch": whole},
            notes=(
                "with every sample twice, the norm is 1.41 times as large, and the loss is "
                f"{scaling.ratio:.4g} times what it was",
            ),
            help="take the norm of each sample, then the mean: `x.flatten(1).norm(dim=1)`",
        )
        return


def _samples_in_norm(one: Counted, operations: list[Counted]) -> int | None:
    """How many vectors a single norm holds, if it is one and grows as norms do."""
    result, twice = one.result, one.twice_result
    if one.operation.name not in NORMS or not isinstance(result, Tensor) or result.numel() != 1:
        return None
    if not isinstance(twice, Tensor) or not float(result.detach()):
        return None
    if abs(float(twice.detach() / result.detach()) - 2**0.5) > 1e-6:
        return None
    whole = one
    if one.operation.name == "sqrt":
        summed = _summed(one.operand, operations)
        if summed is None:
            return None
        whole = summed
    if len(whole.axes) != 1 or not whole.others:
        return None
    return int(whole.operand.shape[next(iter(whole.axes))])


def _summed(tensor: Tensor, operations: list[Counted]) -> Counted | None:
    """The sum that a number is, but for a small constant that keeps it from 0."""
    for _ in range(3):
        made = next((other for other in operations if other.result is tensor), None)
        if made is None or made.operation.name == "sum":
            return made
        if made.operation.name not in ("add", "__add__", "__radd__", "clamp", "clamp_min"):
            return None
        tensor = made.operand
    return None


def _place(case: Examination, operation: Operation) -> Location | None:
    return operation.site.location or case.subject.location
