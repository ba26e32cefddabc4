"""The loss and its reference are not the same function.

## What it does
Evaluates both in float64 on the given inputs and on variations of them (other draws of the
prediction, larger and smaller ones), and compares values and gradients. It says how they differ: by
a constant factor, by a constant, in the gradient only, or only at some of the points.

## Why it matters
Equal values do not mean equal training: a gradient that is off by a factor is another learning
rate, one that stops a path is another optimum.

## Example
```python
lossproof.check(my_cross_entropy, logits, target, reference=torch.nn.functional.cross_entropy)
```

## Use instead
The mend depends on the difference; the finding says which it is.

What `lossproof.fuse`, `lossproof.chunk` and `lossproof.pairs` make knows the loss as it was
written, and is compared with that: every output, the gradients of the inputs and of its own
parameters, and the second derivative, cut into parts however small the inputs are.

## Not reported
Differences below a relative 1e-5 in the value and 1e-4 in the gradient: another stabiliser, such as
`eps=1e-8`, is no other loss. (Beside the way it was written, a loss may differ by 1e-6.) Points
where the reference itself is not finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.agreement import (
    GRADIENT_TOLERANCE,
    VALUE_TOLERANCE,
    agreement,
    constant_offset,
    constant_ratio,
    tensors_agree,
    variations,
)
from lossproof.checks.as_written import (
    SAID,
    Difference,
    compared,
    stands_for_the_plain,
)
from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination

RULE = RULES["LP103"]


def examine(case: Examination) -> Iterable[Verdict]:
    """Compare with the reference at several points."""
    if case.reference is None:
        yield RULE.not_applicable("no reference was given")
        return
    if stands_for_the_plain(case):
        yield _beside_the_plain(case)
        return
    pairs = list(_pairs(case))
    if not pairs:
        yield RULE.unproved(_why_not(case))
        return
    shapes = _shapes(pairs)
    if shapes is not None:
        yield _finding(case, f"returns shape {shapes[0]}, the reference {shapes[1]}", "shape")
        return
    wrong = [pair for pair in pairs if not _same_value(pair)]
    if wrong:
        yield _value_finding(case, pairs, wrong)
        return
    for leaf, name in enumerate(case.leaf_names[: len(case.inputs.differentiable)]):
        off = [pair for pair in pairs if not _same_gradient(pair, leaf)]
        if off:
            yield _gradient_finding(case, off[0], leaf, name)
            return
    yield RULE.proved(
        f"value to {VALUE_TOLERANCE:g} and gradient to {GRADIENT_TOLERANCE:g} "
        f"at {len(pairs)} points"
    )


Pair = tuple["Evaluation", "Evaluation"]


def _pairs(case: Examination) -> Iterator[Pair]:
    for values in variations(case):
        own = case.evaluate(values, dtype=torch.float64)
        other = case.evaluate(values, dtype=torch.float64, subject=case.reference)
        if other.failed or other.value is None or not bool(torch.isfinite(other.value).all()):
            continue
        if own.value is not None and own.error is None:
            yield own, other


def _why_not(case: Examination) -> str:
    other = case.evaluate(dtype=torch.float64, subject=case.reference)
    error = other.error or other.backward_error
    if error is not None:
        return f"the reference raised {type(error).__name__}: {error}"
    return "the reference gave no finite value"


def _shapes(pairs: list[Pair]) -> tuple[list[int], list[int]] | None:
    for own, other in pairs:
        assert own.value is not None and other.value is not None
        if own.value.numel() != other.value.numel():
            return list(own.value.shape), list(other.value.shape)
    return None


def _same_value(pair: Pair) -> bool:
    own, other = pair[0].value, pair[1].value
    assert own is not None and other is not None
    return agreement(own, other, VALUE_TOLERANCE).same


def _same_gradient(pair: Pair, leaf: int) -> bool:
    return tensors_agree(pair[0].gradient(leaf), pair[1].gradient(leaf))


def _value_finding(case: Examination, pairs: list[Pair], wrong: list[Pair]) -> Verdict:
    own, other = wrong[0][0].scalar, wrong[0][1].scalar
    relation, cause = _relation([(p[0].scalar, p[1].scalar) for p in pairs])
    return RULE.finding(
        f"gives {own:.6g} where the reference gives {other:.6g}{relation}",
        location=case.subject.location,
        cause=cause,
        evidence={"value": own, "reference": other, "points": len(pairs), "differ": len(wrong)},
        notes=(f"{len(wrong)} of {len(pairs)} points differ",),
    )


def _relation(values: list[tuple[float, float]]) -> tuple[str, str | None]:
    """Whether all points differ by one factor, or by one constant."""
    ratio = constant_ratio(values)
    if ratio is not None:
        return f": always {ratio:.6g} times as much", "constant-factor"
    offset = constant_offset(values)
    if offset is not None:
        return f": always {offset:+.6g}", "constant-offset"
    return "", None


def _gradient_finding(case: Examination, pair: Pair, leaf: int, name: str) -> Verdict:
    own, other = pair[0].gradient(leaf), pair[1].gradient(leaf)
    share = float((own - other).norm() / other.norm().clamp_min(1e-300))
    return _finding(
        case,
        f"equals the reference in value, but its gradient for `{name}` differs by "
        f"{share:.2g} of the reference's norm",
        "gradient",
        {"relative_difference": share},
    )


def _finding(
    case: Examination, message: str, cause: str, evidence: dict[str, Any] | None = None
) -> Verdict:
    return RULE.finding(
        f"`{case.subject.name}` {message}",
        location=case.subject.location,
        cause=cause,
        evidence=evidence,
    )


# ---------------------------------------------------------------------- as it was written
def _beside_the_plain(case: Examination) -> Verdict:
    found = compared(case)
    if found.difference is not None:
        return _differs(case, found.difference)
    if found.undecided is not None:
        return RULE.unproved(f"{SAID}: {found.undecided}")
    leaves = ", ".join(f"`{name}`" for name in found.leaves)
    second = f"; {found.second}" if found.second else ""
    compiled = ""
    if found.dtype is not torch.float64:
        compiled = f", compiled for {str(found.dtype).removeprefix('torch.')}"
    return RULE.proved(
        f"{SAID}{compiled}: value and gradients ({leaves}) to {found.equal:.0e} at {found.points} "
        f"points{second}"
    )


def _differs(case: Examination, gap: Difference) -> Verdict:
    of = f" of `{gap.leaf}`" if gap.leaf is not None else ""
    rows = f" in rows {', '.join(map(str, gap.rows[:8]))}" if gap.rows else ""
    if gap.what == "shape":
        message = "returns other shapes than the loss as it was written"
    elif not gap.reaches:
        message = f"has no {gap.what}{of}, which the loss as it was written has"
    else:
        message = f"differs from the loss as it was written in the {gap.what}{of}{rows}"
        if gap.times is not None:
            message += f": {gap.times:.6g} times as much"
    return RULE.finding(
        f"`{case.subject.name}` {message}",
        severity=Severity.WARNING if gap.what == "second derivative" else Severity.ERROR,
        location=case.subject.location,
        cause=f"as-written-{gap.what.replace(' ', '-')}",
        evidence={
            "relative difference": gap.relative,
            "accelerated": gap.own,
            "as written": gap.plain,
            "differ": gap.differing,
            "elements": gap.elements,
        },
        notes=(SAID,),
        help="until that is mended, train with the loss as it was written: its `.plain`",
    )
