"""The loss divides by the wrong number: too often, not at all, or by what it does not add up.

## What it does
Calls the loss with every sample two, three and four times and takes value and gradient apart into
what stays (a mean), what grows (a sum) and what shrinks (divided by the batch size twice). It
reports terms of one sum that go different ways, a division too many, and a value that grows with
the batch although the loss averages elsewhere or measures a distance.

Where there is a mask, lengths or an `ignore_index`, it looks at what is left out: a position that
does not count must get no gradient, and a masked mean of equal numbers must be that number.

## Why it matters
A wrong normaliser is another learning rate and another weight between the terms, which changes
whenever the batch size, the padding or the resolution does. Nothing crashes: the last, smaller
batch of an epoch just counts for more, and hyper-parameters found with one batch size are wrong
for the next.

## Example
```python
def masked_loss(input, target, mask):
    loss = (input - target) ** 2
    return loss.sum() / mask.sum()
```

## Use instead
```python
def masked_loss(input, target, mask):
    loss = (input - target) ** 2
    return (loss * mask).sum() / mask.sum()
```

## Not reported
- A sum that is declared as one: an option `reduction` or `size_average`, an inner
  `reduction="sum"`, a name or docstring that says sum, total, likelihood or energy.
- A sum over the batch of anything but a distance between tensors of the same shape, unless the
  loss averages over another axis: a summed log-likelihood is right.
- A sum over the samples plus a penalty on parameters that all of them share.
- Losses that couple their samples (contrastive losses, losses over pairs, batch statistics): how
  they grow with the batch says nothing about their normaliser.
- A mask that selects in some terms and not in others, such as the hole and the rest of an image.
- A weighted mean that is divided by the number of items instead of by the sum of the weights, and
  a masked mean over all positions where the mask is no padding, by its name or by its values
  (ones, then zeros): both are in use.
- A sum that is divided by an argument, such as `num_boxes`: the caller knows the number.
- A divergence that is averaged where the other term of the loss is averaged, too.
- Sums over the first axis where the source says that it is time (`T, B, C = x.shape`,
  `batch_first=False`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.coupling import is_coupled
from lossproof.checks.masked_positions import leftovers
from lossproof.checks.report import Finding, Location, Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.scaling import Scaling, scaling_of
from lossproof.checks.terms import maker, quotient, terms
from lossproof.checks.trace import Operation
from lossproof.checks.variational import divergence_of, summed_beside
from lossproof.checks.wording import source_of, wording

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP105"]
Tensor = torch.Tensor

OPTIONS = ("reduction", "size_average", "reduce", "normalize", "average", "normalizer")
SAYS_SUM = re.compile(
    r"(?<![a-z])(sum|sums|summed|summing|total|sse|rss|nll|elbo|energy|likelihood|log_?prob)"
    r"(?![a-z])",
    re.I,
)
TIME_FIRST = re.compile(
    r"\b(t|seq\w*|time\w*|steps?|length|l)\s*,\s*(b|n|bs|batch\w*|bsz)\b|batch_first\s*=\s*False|"
    r"time_major|time_first|seq_first",
    re.I,
)
NUMBER = re.compile(r"(^|_)(num|n|count|norm\w*|factor|total|batch_?size|bsz?)(_|$)", re.I)
"""Arguments with such names are the number to divide by, which the caller knows best."""
BATCH_SIZES = ("batch_size", "batchsize", "batch", "bs", "bsz", "n_samples", "num_samples")


def examine(case: Examination) -> Iterable[Verdict]:
    """Look at the growth with the batch, then at what a mask leaves out."""
    verdicts = [*_batch_verdicts(case), *_selection_verdicts(case), *_divergence_verdicts(case)]
    findings = [verdict for verdict in verdicts if isinstance(verdict, Finding)]
    return findings or verdicts


# ---------------------------------------------------------------------------- the batch
def _batch_verdicts(case: Examination) -> Iterator[Verdict]:
    if case.trace.random:
        yield RULE.unproved("the loss draws random numbers, other ones for another batch")
        return
    if not case.affordable(14):
        yield RULE.unproved("the loss is too slow to be called with larger batches")
        return
    scaling = scaling_of(case)
    if scaling is None:
        yield RULE.unproved("the loss takes no other batch, or gives no finite value for it")
    elif scaling.is_only("constant"):
        yield RULE.proved("the same value and gradient when every sample comes up to 4 times")
    elif _spreads_by_mistake(case):
        yield RULE.unproved("tensors broadcast against each other, which changes every sum")
    elif is_coupled(case):
        yield _coupled(case, scaling)
    elif "inverse" in scaling.parts and scaling.is_only("constant", "linear", "inverse"):
        yield _twice(case, scaling)
    elif {"constant", "linear"} <= scaling.parts_by_sample and scaling.is_only(
        "constant", "linear"
    ):
        if "linear" in scaling.value.parts:
            yield _mixed(case, scaling)
        else:
            # The nearest of two copies is the first one: it gets the gradient of both.
            yield RULE.unproved("the gradient grows with copies of the samples, the value does not")
    elif scaling.is_only("linear"):
        yield _growing(case, scaling)
    else:
        yield RULE.unproved("value and gradient follow no rule when samples are repeated")


def _coupled(case: Examination, scaling: Scaling) -> Verdict:
    power = scaling.value.power
    if power is None or not power % 1:
        return RULE.not_applicable("the loss couples its samples")
    if abs(power + 0.5) < 1e-6 and _is_distance(case):
        return RULE.finding(
            "the norm of the whole batch is divided by the batch size: the value shrinks with its "
            "square root",
            severity=Severity.WARNING,
            location=_last_sum(case) or case.subject.location,
            cause="norm-divided",
            evidence=_numbers(scaling),
            help="take the mean inside the root (`(x**2).mean().sqrt()`), or the mean of the "
            "norms of the samples",
        )
    return RULE.unproved(
        f"the value goes with the batch size to the power {power:.3g}, as a norm of the whole "
        "batch does"
    )


def _spreads_by_mistake(case: Examination) -> bool:
    return any(not broadcast.intended for broadcast in case.trace.broadcasts)


def _numbers(scaling: Scaling) -> dict[str, Any]:
    return {"value_of_twice_the_batch": scaling.ratio, "batch": scaling.batch.size}


def _twice(case: Examination, scaling: Scaling) -> Verdict:
    leaves = [name for name, growth in scaling.gradients if "inverse" in growth.parts]
    where = _term_that(case, lambda ratio: ratio < 0.9)
    return RULE.finding(
        f"the gradient for `{leaves[0]}` is divided by the batch size twice",
        location=where or case.subject.location,
        cause="divided-twice",
        evidence=_numbers(scaling),
        notes=("with every sample twice, its gradient per sample is a quarter, not a half",),
        help="divide by the batch size once: a mean is divided already",
    )


def _mixed(case: Examination, scaling: Scaling) -> Verdict:
    where = _term_that(case, lambda ratio: ratio > 1.1)
    return RULE.finding(
        "one term is a sum over the batch and another one a mean: their relative weight changes "
        "with the batch size",
        severity=Severity.WARNING,
        location=where or case.subject.location,
        cause="mixed-reductions",
        evidence=_numbers(scaling),
        help="divide the summed term by the batch size, or take `mean` in both",
    )


def _term_that(case: Examination, odd: Any) -> Location | None:
    """The term that changes so when every sample comes twice."""
    scaling = scaling_of(case)
    assert scaling is not None
    values = scaling.batch.repeated(case.small.values, 2)
    once = terms(case.evaluate(case.small.values, dtype=torch.float64, record=True))
    twice = terms(case.evaluate(values, dtype=torch.float64, record=True))
    if len(once) != len(twice):
        return None
    for one, two in zip(once, twice, strict=True):
        if one.value and odd(two.value / one.value):
            return one.operation.site.location
    return None


# ---------------------------------------------------------------------------- sums
def _growing(case: Examination, scaling: Scaling) -> Verdict:
    if _takes_option(case):
        return RULE.proved("a sum by its option: value and gradient grow with the batch")
    if any(NUMBER.search(name) for name in case.subject.parameter_names):
        return RULE.unproved("the number to divide by is an argument, and was not changed with it")
    found = _wrong_divisor(case, scaling)
    if found is None and _declares_sum(case):
        return RULE.proved("a declared sum: value and gradient grow with the batch")
    found = found or _undeclared_sum(case)
    if found is None:
        return RULE.unproved(
            "value and gradient grow with the batch size: right for a sum, not for a mean"
        )
    why, cause, place, mend = found
    return RULE.finding(
        f"value and gradient grow with the batch size: {why}",
        severity=Severity.WARNING,
        location=place or case.subject.location,
        cause=cause,
        evidence=_numbers(scaling),
        notes=("twice the batch is twice the learning rate, and the last batch counts for less",),
        help=mend,
    )


def _takes_option(case: Examination) -> bool:
    subject = case.subject
    return any(
        subject.option(name) is not None or name in subject.parameter_names for name in OPTIONS
    )


def _declares_sum(case: Examination) -> bool:
    subject = case.subject
    for operation in case.trace.operations:
        if "sum" in operation.kwargs.values() or "sum" in [
            value for value in operation.args if isinstance(value, str)
        ]:
            return True
    return SAYS_SUM.search(wording(subject)) is not None


Reason = tuple[str, str, "Location | None", "str | None"]


def _wrong_divisor(case: Examination, scaling: Scaling) -> Reason | None:
    """A division by what is no number of samples."""
    size = scaling.batch.size
    fixed = next((n for n in BATCH_SIZES if type(case.subject.option(n)) is int), None)
    if fixed is not None:
        return (
            f"it divides by the fixed `{fixed}`, not by the number of samples at hand",
            "fixed-batch-size",
            None,
            "divide by `len(input)`",
        )
    constant = _divided_by_constant_sum(case, scaling)
    if constant is not None:
        return (
            "what it is divided by is a sum that has nothing to do with the samples at hand",
            "constant-divisor",
            constant,
            "divide by the sum over the samples: `weight[target].sum()`",
        )
    divided = None if _has_time_first(case) else _divided_by_other_axis(case, size)
    if divided is None:
        return None
    length, place = divided
    return (
        f"the sum over the batch is divided by {length}, the length of another axis",
        "other-axis",
        place,
        f"divide by `.size(0)`, which is {size} here, or take the mean over both",
    )


def _has_time_first(case: Examination) -> bool:
    return TIME_FIRST.search(source_of(case.subject)) is not None


def _undeclared_sum(case: Examination) -> Reason | None:
    """A sum over the batch beside a mean, or of distances."""
    mean = None if _has_time_first(case) else _mean_inside(case)
    if mean is not None:
        return (
            "it averages within each sample but sums over the samples",
            "summed-over-batch",
            mean,
            "divide by the number of samples",
        )
    if _is_distance(case):
        return (
            "the distance is summed over the batch and divided by nothing",
            "summed-over-batch",
            _last_sum(case),
            "divide by the number of samples (`/ input.shape[0]`) or use `.mean()`",
        )
    return None


def _divided_by_constant_sum(case: Examination, scaling: Scaling) -> Location | None:
    """A division by, say, the sum of all class weights, where that of the samples' was meant."""
    batched = {i for i, axis in enumerate(scaling.batch.axes) if axis is not None}
    for operation in reversed(case.trace.operations):
        parts = quotient(operation)
        if parts is None or not operation.inputs & set(case.inputs.differentiable):
            continue
        made = maker(case.trace, parts[1])
        if made is None or made.name != "sum" or made.inputs & batched:
            continue
        whole = made.args[0] if made.args else None
        if isinstance(whole, Tensor) and whole.numel() > 1 == parts[1].numel():
            return operation.site.location
    return None


def _divided_by_other_axis(case: Examination, size: int) -> tuple[int, Location | None] | None:
    shapes = [case.inputs.values[i].shape for i in case.inputs.differentiable]
    others = {int(n) for shape in shapes for n in shape[1:] if n not in (1, size)}
    others |= {math.prod(shape[2:]) for shape in shapes if len(shape) > 3}
    for operation in reversed(case.trace.operations):
        parts = quotient(operation)
        if parts is None or isinstance(parts[1], float):
            continue
        if isinstance(parts[1], int) and parts[1] in others:
            return parts[1], operation.site.location
    return None


def _mean_inside(case: Examination) -> Location | None:
    """A mean of what the prediction gave: over another axis, as the loss grows with the batch."""
    wanted = set(case.inputs.differentiable)
    for operation in case.trace.operations:
        if operation.inside is None and operation.inputs & wanted:
            if _reduces(operation) or _is_mean_loss(operation):
                return operation.site.location
    return None


def _reduces(operation: Operation) -> bool:
    """Whether it is a mean that takes an axis away: with `keepdim` it is there to be subtracted."""
    operand = operation.args[0] if operation.args else None
    if operation.name != "mean" or not isinstance(operand, Tensor):
        return False
    return isinstance(operation.out, Tensor) and operation.out.dim() < operand.dim()


def _is_mean_loss(operation: Operation) -> bool:
    named = operation.name.endswith("_loss") or operation.name in (
        "cross_entropy",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
    )
    return named and operation.kwargs.get("reduction", "mean") == "mean"


def _is_distance(case: Examination) -> bool:
    """Whether prediction and target have one shape, of several axes, and give 0 when equal."""
    inputs = case.small
    wanted = inputs.differentiable
    if case.subject.kind == "autograd.Function" or len(wanted) != 1:
        return False
    prediction = inputs.values[wanted[0]]
    tensors = [i for i, v in enumerate(inputs.values) if isinstance(v, Tensor) and i != wanted[0]]
    if len(tensors) != 1 or prediction.dim() < 2:
        return False
    target = inputs.values[tensors[0]]
    if target.shape != prediction.shape or not target.is_floating_point():
        return False
    values = list(inputs.values)
    values[wanted[0]] = target
    perfect = case.evaluate(values, dtype=torch.float64, backward=False)
    base = case.evaluate(inputs.values, dtype=torch.float64, backward=False)
    if perfect.error is not None or perfect.value is None or base.value is None:
        return False
    return abs(perfect.scalar) <= 1e-9 * abs(base.scalar)


def _last_sum(case: Examination) -> Location | None:
    for operation in reversed(case.trace.operations):
        if operation.name in ("sum", "norm") and operation.inside is None:
            return operation.site.location
    return None


# ---------------------------------------------------------------------------- masks
def _selection_verdicts(case: Examination) -> Iterator[Verdict]:
    if case.trace.random or not case.affordable(10):
        return
    for left in leftovers(case):
        if left.cause is None:
            yield RULE.proved(left.message) if left.holds else RULE.unproved(left.message)
            continue
        yield RULE.finding(
            left.message,
            severity=left.severity,
            location=left.location or case.subject.location,
            cause=left.cause,
            evidence=left.evidence,
            notes=left.notes,
            help=left.help,
        )


# ---------------------------------------------------------------------------- divergences
def _divergence_verdicts(case: Examination) -> Iterator[Verdict]:
    yield from _averaged_divergence(case)
    yield from _latent_divergence(case)


def _latent_divergence(case: Examination) -> Iterator[Verdict]:
    """A variational autoencoder whose two terms are reduced differently."""
    found = divergence_of(case)
    if found is None or not found.averages_dimensions:
        return
    beside = summed_beside(case, found)
    if beside is None:
        return
    mean = case.leaf_names[found.mean]
    yield RULE.finding(
        f"the divergence is averaged over the {found.dimensions} latent dimensions, while the "
        f"term of `{beside}` is summed over its features",
        severity=Severity.WARNING,
        location=_last_mean_of(case, found.mean) or case.subject.location,
        cause="mean-over-latents",
        evidence={"too_small_by": found.dimensions},
        notes=(
            f"the gradient for `{mean}` is that of the evidence lower bound, divided by "
            f"{found.dimensions}",
        ),
        help="sum over the latent dimensions and average over the samples: "
        "`-0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()`",
    )


def _last_mean_of(case: Examination, leaf: int) -> Location | None:
    position = case.inputs.differentiable[leaf]
    for operation in reversed(case.trace.operations):
        if operation.name == "mean" and position in operation.inputs:
            return operation.site.location
    return None


def _averaged_divergence(case: Examination) -> Iterator[Verdict]:
    """`kl_div` with the mean over all elements is no divergence of anything."""
    for operation in case.trace.operations:
        if operation.name != "kl_div" or operation.inside is not None:
            continue
        first = operation.args[0] if operation.args else None
        reduction = operation.kwargs.get("reduction", "mean")
        if reduction != "mean" or not isinstance(first, Tensor) or first.dim() < 2:
            continue
        if operation.site.own is None or case.subject.option("reduction") is not None:
            continue
        classes = int(first.shape[-1])
        if classes < 2 or not _log_normalised(first):
            continue
        yield RULE.finding(
            f'`kl_div` with `reduction="mean"` divides by all {first.numel()} elements, the '
            "classes included: the divergence of a sample is its sum over the classes",
            severity=Severity.WARNING,
            location=operation.site.location,
            cause="mean-over-classes",
            evidence={"too_small_by": classes},
            help='use `reduction="batchmean"`',
        )
        return


def _log_normalised(tensor: Tensor) -> bool:
    """Whether the last axis holds log-probabilities."""
    total = torch.logsumexp(tensor.detach().double(), -1)
    return bool((total.abs() < 1e-3).all())
