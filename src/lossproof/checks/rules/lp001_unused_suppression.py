"""A `# lossproof: ignore` comment silences nothing.

## What it does
Looks at every such comment in the source of the loss, from its first decorator to its last line.
Those are reported that silenced no finding of this check although every rule they name was run and
had a verdict, and those that name a rule which does not exist.

## Why it matters
A comment that was needed once hides the next fault at the same place. One with a typo in it never
hid anything, and whoever wrote it believes that it does.

## Example
```python
def mse(input, target):
    return (input - target).square().mean()  # lossproof: ignore[LP201]
```

## Use instead
```python
def mse(input, target):
    return (input - target).square().mean()
```

## Not reported
- A comment outside the source of the loss: it may be meant for another one.
- A comment that names a rule which was not selected, or which could not decide: it may be needed
  with other inputs.
- A comment without brackets, as long as any rule was left out or could not decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lossproof.checks.report import Finding, Severity, Status
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.suppressions import Suppression, within

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP001"]
VERDICTS = "verdicts"
"""The note under which the verdicts of all other rules stand when this one is run, the last."""


def examine(case: Examination) -> Iterable[Verdict]:
    """Report the comments that silence nothing."""
    loss = case.subject.location
    comments = () if loss is None else within(loss)
    if not comments:
        yield RULE.not_applicable("no `# lossproof: ignore` in the source of the loss")
        return
    verdicts: list[Verdict] = case.notes.get(VERDICTS, [])
    findings = [verdict for verdict in verdicts if isinstance(verdict, Finding)]
    undecided = _undecided(verdicts)
    open_questions = 0
    found = False
    for comment in comments:
        for problem in comment.unknown:
            found = True
            yield _finding(comment, problem, "unknown-rule")
        if any(comment.silences(finding, loss) for finding in findings):
            continue
        if not comment.covers(RULE.code) and not comment.prefixes:
            continue
        if any(comment.covers(code) for code in undecided):
            open_questions += 1
        elif not _spares_itself(comment):
            found = True
            yield _finding(comment, "this comment silences nothing", "silences-nothing")
    if not found:
        yield _outcome(len(comments), open_questions)


def _undecided(verdicts: Iterable[Verdict]) -> set[str]:
    """The rules that were not run, or that could not decide."""
    ran = {verdict.code for verdict in verdicts}
    unproved = {
        verdict.code
        for verdict in verdicts
        if not isinstance(verdict, Finding) and verdict.status is Status.UNPROVED
    }
    return ({*RULES} - ran - {RULE.code}) | unproved


def _spares_itself(comment: Suppression) -> bool:
    """Whether the comment is there to silence this very rule."""
    return bool(comment.prefixes) and comment.covers(RULE.code)


def _finding(comment: Suppression, message: str, cause: str) -> Verdict:
    return RULE.finding(
        message,
        severity=Severity.WARNING,
        location=comment.location,
        cause=cause,
        help="take the comment away"
        if cause == "silences-nothing"
        else "`lossproof explain` lists all rules",
    )


def _outcome(comments: int, undecided: int) -> Verdict:
    if undecided:
        return RULE.unproved(f"{undecided} of {comments} comments name a rule without a verdict")
    return RULE.proved(f"every one of {comments} comments silences a finding")
