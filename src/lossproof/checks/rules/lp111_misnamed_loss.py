"""The loss is called like a known one, and is not that loss.

## What it does
Compares the loss in float64, at fresh draws of its inputs, with the definitions of known losses
from the literature: with every way in which they are rightly written down (mean or sum, logits or
probabilities, log-variance or standard deviation, with or without the factor 1/2), and with the
slips that people make. A known loss is a sum of terms, so the values are also fitted by these
terms: an exact fit says which term has the wrong coefficient or sign, or is missing.

## Why it matters
A wrong formula trains. It has a gradient, it falls, and what it leads to is a worse model that
nobody can explain.

## Example
```python
def kl_loss(mu, log_sigma):  # of N(mu, sigma) from N(0, 1)
    return (mu**2 + torch.exp(log_sigma) ** 2 - log_sigma - 0.5).sum(1).mean()
```

## Use instead
```python
def kl_loss(mu, log_sigma):
    return (0.5 * (mu**2 + torch.exp(log_sigma) ** 2) - log_sigma - 0.5).sum(1).mean()
```

## Not reported
A loss that claims nothing by its name, the names of its arguments or the torch losses it calls
(where it equals a loss of torch, that is still proved). A loss that differs from the one it is
named after in a way that is no known slip and no wrong coefficient (it is unproved). One factor on
the whole loss and one constant, which are conventions. A coefficient that equals an option of the
loss: it is meant. Coefficients that the literature leaves open, such as class weights. A reverse
divergence or a decoupled contrast that is called so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lossproof.checks.likeness.fit import Deviation
from lossproof.checks.likeness.matching import Likeness, Match
from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP111"]


def examine(case: Examination) -> Iterable[Verdict]:
    """Look for the known loss that this one is, or claims to be."""
    likeness = Likeness(case)
    if not likeness.usable:
        yield RULE.unproved("the loss could not be evaluated at fresh draws of its inputs")
        return
    matches: list[Match] = []
    for match in likeness.matches():
        if matches and match.claim is not matches[0].claim:
            break  # what a stronger claim convicts, a weaker one does not acquit
        if match.right:
            yield _same(case, likeness, match)
            return
        matches.append(match)
    if matches:
        best = min(matches, key=lambda m: (bool(m.wrong), len(m.wrong), m.negated))
        yield _finding(case, best)
        return
    claims = likeness.claims()
    if claims:
        names = " or ".join(dict.fromkeys(known.name for known in claims))
        yield RULE.unproved(f"called like {names}, and equal to no known way of writing it")
    else:
        yield RULE.not_applicable("neither its name nor what it computes is a known loss")


def _same(case: Examination, likeness: Likeness, match: Match) -> Verdict:
    options = ", ".join(
        f"{name.removeprefix('made_with_')}={_text(value)}" for name, value in match.options.items()
    )
    said = (
        f"{_share(match)}{match.known.name}{f' ({options})' if options else ''} "
        f"at {match.points} points"
    )
    if not likeness.same_gradient(match):
        return RULE.unproved(f"its value is {said}; its gradient is not")
    case.notes["known-loss"] = match.known.key
    return RULE.proved(f"equals {said}, and so does its gradient")


def _share(match: Match) -> str:
    """What the loss is of the sum of the terms."""
    factor, count = match.factor, match.elements
    for share, said in ((1.0, "the sum of "), (1 / max(count, 1), "the mean of ")):
        if count > 1 and abs(factor / share - 1) < 1e-6:
            return said
    return "" if abs(factor - 1) < 1e-6 else f"{factor:.6g} times the sum of "


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _finding(case: Examination, match: Match) -> Verdict:
    message, cause = _what(match)
    return RULE.finding(
        message,
        severity=Severity.WARNING if match.unbalanced is not None else Severity.ERROR,
        location=case.subject.location,
        cause=cause,
        evidence={
            "points": match.points,
            "residual": match.fit.residual,
            **{f"found[{d.term}]": d.found for d in match.wrong},
            **{f"wanted[{d.term}]": d.wanted for d in match.wrong},
        },
        notes=(
            f"it equals this at {match.points} points, to {match.fit.residual:.1g} of the spread",
            f"compared with {match.known.source}",
        ),
        help=match.reading.mend or match.known.mend,
    )


def _what(match: Match) -> tuple[str, str]:
    name = match.known.name
    if match.reading.wrong is not None:
        return f"this is not {name}: it {match.reading.wrong}", "slip"
    if match.swapped:
        one, other = match.binding["input"].name, match.binding["target"].name
        return f"this is {name} with `{one}` and `{other}` in each other's place", "swapped"
    if match.negated:
        return f"this is {name} with the opposite sign", "sign"
    if match.unbalanced is not None:
        return f"this is not {name}: it {match.unbalanced}", "balance"
    return f"this is not {name}: {', and '.join(map(_deviation, match.wrong[:3]))}", "coefficient"


def _deviation(deviation: Deviation) -> str:
    term, found, wanted = deviation.term, deviation.found, deviation.wanted
    if wanted == 0:
        return f"it has a term `{term}` (coefficient {found:.6g}) that does not belong there"
    if abs(found) < 1e-3 * abs(wanted):
        return f"the term `{term}` is missing"
    if abs(found + wanted) < 1e-3 * abs(wanted):
        return f"the term `{term}` has the opposite sign"
    return f"the term `{term}` has the coefficient {found:.6g} instead of {wanted:.6g}"
