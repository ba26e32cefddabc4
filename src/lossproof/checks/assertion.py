"""``assert_right``: a check as an assertion, for test suites."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lossproof.checks.report import Report, Severity
from lossproof.checks.run import check
from lossproof.errors import FindingsError


def assert_right(
    loss: Any,
    *inputs: Any,
    reference: Any = None,
    seed: int = 0,
    time_limit: float | None = 60.0,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> Report:
    """Assert that a check finds no mistake in a loss.

    A finding of severity ``error`` or ``warning`` fails the assertion. What is only slow
    (``performance``) does not: it is in the report that comes back.

    Args:
        loss: as for :func:`lossproof.check`.
        inputs: as for :func:`lossproof.check`.
        reference: a loss known to be right, to compare with.
        seed: makes every random choice of the check reproducible.
        time_limit: seconds after which a loss that is still running is a finding.
        select: codes, names or beginnings of codes of the rules to run; all by default.
        ignore: rules to leave out.

    Returns:
        The report, for what was proved and what was not.

    Raises:
        FindingsError: an ``AssertionError`` with the report as its text.
        UsageError: the request itself is wrong.

    Example:
        >>> import torch
        >>> from lossproof import assert_right
        >>> report = assert_right(torch.nn.HuberLoss(), "float[8,3]", "float[8,3]")
        >>> assert_right(lambda x: x.round().sum(), "float[8]")
        Traceback (most recent call last):
            ...
        lossproof.errors.FindingsError: ...
    """
    __tracebackhide__ = True
    report = check(
        loss, *inputs, reference=reference, seed=seed, time_limit=time_limit,
        select=select, ignore=ignore,
    )  # fmt: skip
    if any(finding.severity is not Severity.PERFORMANCE for finding in report):
        raise FindingsError(f"\n{report}")
    return report
