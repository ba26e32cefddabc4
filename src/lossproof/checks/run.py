"""``check``: run every rule over a loss and gather the verdicts."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from lossproof.checks.as_written import cut, plain_of
from lossproof.checks.charts import charts_later
from lossproof.checks.examination import Examination
from lossproof.checks.global_state import globals_restored
from lossproof.checks.inputs import KINDS, Inputs, inputs_for
from lossproof.checks.report import Finding, Location, Outcome, Report, Severity
from lossproof.checks.rule_selection import asked_for, listed, selected
from lossproof.checks.rules import RULES, Rule, Verdict
from lossproof.checks.rules.lp001_unused_suppression import VERDICTS
from lossproof.checks.silence import Nowhere
from lossproof.checks.sources import is_library
from lossproof.checks.subject import Subject, subject_of
from lossproof.checks.suppressions import sorted_out
from lossproof.checks.surrogates import declared, first_call, verdicts_on_declared
from lossproof.checks.threads import threads_for
from lossproof.checks.time_limit import time_limit, usable_limit
from lossproof.errors import TimeLimitError
from lossproof.write.arguments import integer

CRASH = "LP408"
UNUSED = "LP001"
"""The rule that looks at what the others said, and is run the last."""
AFTER_A_CRASH = ("LP207", "LP401", "LP402", "LP407", CRASH)
"""The rules that can say something of a loss whose forward raises."""
AFTER_A_FAILED_BACKWARD = ("LP101", "LP102", "LP207", "LP401", "LP402", "LP403", CRASH)
"""The rules that can say something of a loss whose backward raises."""
EXPLAIN_A_CRASH = {
    "raised": ("LP207", "LP402", "LP407"),
    "backward-raised": ("LP207", "LP401", "LP402", "LP403"),
}
"""The rules whose finding says why the forward, or the backward, raised."""
AS_WRITTEN = {
    "as-written-gradient": ("LP201", "LP202", "LP203", "LP206"),
    "as-written-gradient-at-a-second-pass": ("LP201", "LP202", "LP203", "LP206"),
    "as-written-second-derivative": ("LP203", "LP205"),
}
"""The rules that say at which line the gradient of an accelerated loss goes wrong."""
CONSEQUENCES_OF_A_SWAP = ("LP107", "LP111")
"""What arguments in the wrong order look like to the rules that look at the values."""
SEEN_NEARER_BY = {
    "LP107": ("LP111",),
    "LP111": ("LP105", "LP106", "LP108", "LP110"),
}
"""Rules that say of the same fault more exactly what and where it is: a loss that is no longer the
known one because it is normalised wrongly has one mistake."""


def check(
    loss: Any,
    *inputs: Any,
    reference: Any = None,
    seed: int = 0,
    time_limit: float | None = 60.0,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> Report:
    """Find out whether a loss is right, and if not, what is wrong with it.

    The loss is called some hundred times on copies of the inputs and compared with what its own
    mathematics says: its gradient with the gradient derived from its forward pass and with finite
    differences, its values at special points with its values next to them, in float32 and in
    float64. Nothing of the caller's is changed: not the inputs, not their ``.grad``, not a
    module's state, not the random number generators. Checks in several threads of a process take
    turns, because the settings of torch belong to all of them.

    Args:
        loss: a function, an ``nn.Module`` (instance, or class that needs no arguments), or an
            ``autograd.Function`` subclass.
        inputs: what the loss is called with: tensors and other values, or specifications such as
            ``"float[8,10]"``, ``"int[8]<10"``, ``"prob[8,10]"``. Without any, they are inferred
            from names, documentation and trial, and the report says so. A gradient is wanted for
            the tensors that require one; if none does, for the prediction (told by its name, else
            the first floating tensor), and the report says so.
        reference: a loss known to be right, to compare with (rule LP103). For what
            ``lossproof.fuse``, ``chunk`` or ``pairs`` made it is the loss as it was written, where
            no other is given.
        seed: makes every random choice of the check reproducible.
        time_limit: seconds after which a loss that is still running is a finding; ``None`` waits.
        select: the rules to run, by code, prefix or name (``["LP2", "overflow"]``); nothing means
            all.
        ignore: the rules to leave out.

    Returns:
        The :class:`~lossproof.checks.report.Report`; ``bool(report)`` is true if nothing was found.
        What a comment ``# lossproof: ignore[CODE]`` silences is in ``report.suppressed``.

    Raises:
        UsageError: the request itself is wrong: nothing callable, inputs that do not fit the
            signature, a specification with a typo, a rule that does not exist.
        TypeError, ValueError: ``seed`` is no integer, or ``time_limit`` no number above 0.

    Example:
        >>> import torch, lossproof
        >>> def right(input, target):
        ...     return ((input - target) ** 2).mean()
        >>> bool(lossproof.check(right, "float[8,3]", "float[8,3]"))
        True
        >>> def wrong(input, target):
        ...     return ((input - target).abs().mean().item()) ** 2
        >>> report = lossproof.check(wrong, torch.randn(8, requires_grad=True), torch.randn(8))
        >>> [finding.code for finding in report]
        ['LP201']

    References:
        Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", 1982 (finite differences).
        Griewank and Walther, "Evaluating Derivatives", 2008 (the dot-product test).
    """
    start = time.perf_counter()
    select, ignore = listed(select), listed(ignore)
    rules = selected(select, ignore)
    integer("seed", seed)
    usable_limit(time_limit)
    # The caller may be in the middle of a validation, with gradients switched off.
    with globals_restored(), torch.inference_mode(False), torch.enable_grad():
        subject = subject_of(loss)
        given = inputs_for(subject, inputs, seed)
        cut(subject, given)
        other = plain_of(subject) if reference is None else subject_of(reference)
        case = Examination(subject, given, seed, other)
        case.asked = asked_for(select)
        verdicts = _run_rules(rules, case, time_limit)
    return _report(case, verdicts, seed, time.perf_counter() - start)


def _run_rules(rules: Sequence[Rule], case: Examination, limit: float | None) -> list[Verdict]:
    verdicts: list[Verdict] = case.notes.setdefault(VERDICTS, [])
    try:
        threads = threads_for(case.inputs.numel)
        quiet = _quiet_after_the_first_call(case)
        with case.left_as_found(), threads, time_limit(limit), quiet:
            for rule in sorted(rules, key=lambda rule: rule.code == UNUSED):
                verdicts += _run_rule(rule, case)
    except TimeLimitError as error:
        done = {verdict.code for verdict in verdicts}
        if any(rule.code == CRASH for rule in rules):
            verdicts.append(_still_running(case, error, limit))
            done.add(CRASH)
        verdicts += [
            rule.unproved("the time limit ended the check before")
            for rule in rules
            if rule.code not in done
        ]
    return _explained(verdicts)


@contextlib.contextmanager
def _quiet_after_the_first_call(case: Examination) -> Iterator[None]:
    """The first call may print; the hundreds after it would only repeat that."""
    first_call(case)
    with contextlib.redirect_stdout(Nowhere()):
        yield


def _run_rule(rule: Rule, case: Examination) -> list[Verdict]:
    base = case.base
    if base.error is not None and rule.code not in AFTER_A_CRASH:
        return [rule.unproved("the loss raised an exception")]
    if base.backward_error is not None and rule.code not in AFTER_A_FAILED_BACKWARD:
        return [rule.unproved("the backward pass raised an exception")]
    if base.value is not None and base.value.is_complex():
        if rule.code not in AFTER_A_FAILED_BACKWARD:
            return [rule.unproved("the loss is a complex number")]
    try:
        on_declared = verdicts_on_declared(rule, case)
        return rule.examine(case) if on_declared is None else on_declared
    except Exception as error:
        return [_internal_error(rule, error)]


def _internal_error(rule: Rule, error: Exception) -> Outcome:
    """A fault of ours must not take the other rules' verdicts away; it is told, not hidden."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return rule.unproved(
        f"lossproof itself failed here ({type(error).__name__}: {error}; "
        f"{os.path.basename(last.filename)}:{last.lineno}); please report it"
    )


def _still_running(case: Examination, error: TimeLimitError, limit: float | None) -> Finding:
    place = getattr(error, "location", None)
    location = case.subject.location
    if place:
        file, line, function = place
        location = Location.at(file, line, function=function)
    return RULES[CRASH].finding(
        f"`{case.subject.name}` was still running after {limit:g} s",
        location=location,
        cause="time-limit",
        evidence={"time_limit": limit},
        help="look for an endless loop at this line; if the loss is only slow, give smaller inputs "
        "or a longer time limit",
    )


def _explained(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Let a finding that another one explains step back: one fault, one finding."""
    listed = list(verdicts)
    found = [verdict for verdict in listed if isinstance(verdict, Finding)]
    kept: list[Verdict] = []
    for verdict in listed:
        nearer = [one for one in found if isinstance(verdict, Finding) and _explains(one, verdict)]
        if not nearer:
            kept.append(verdict)
        elif verdict.code != CRASH:
            kept.append(
                RULES[verdict.code].unproved(f"what it saw is explained by {nearer[0].code}")
            )
    return kept


def _explains(one: Finding, other: Finding) -> bool:
    """Whether the second finding is only what the first looks like from elsewhere."""
    if other.code == CRASH:
        return one.code in EXPLAIN_A_CRASH.get(other.cause or "", ())
    if other.cause in AS_WRITTEN:
        return one.code in AS_WRITTEN[other.cause]
    if one.cause == "swapped-arguments":
        return other.code in CONSEQUENCES_OF_A_SWAP
    nearer = other.code in SEEN_NEARER_BY and one.code in SEEN_NEARER_BY[other.code]
    return nearer and (one.severity is other.severity or one.severity is Severity.ERROR)


def _report(case: Examination, verdicts: Iterable[Verdict], seed: int, seconds: float) -> Report:
    listed = list(verdicts)
    findings, silenced = sorted_out(
        (verdict for verdict in listed if isinstance(verdict, Finding)), case.subject.location
    )
    return Report(
        subject=case.subject.name,
        location=case.subject.location,
        inputs=tuple(str(argument) for argument in case.inputs.arguments),
        findings=findings,
        outcomes=tuple(verdict for verdict in listed if isinstance(verdict, Outcome)),
        seed=seed,
        seconds=seconds,
        assumptions=(*case.inputs.assumptions, *declared(case)),
        reproduce=_reproduction(case.subject, case.inputs, seed),
        suppressed=silenced,
        inferred=case.inputs.inferred,
        measure=charts_later(case, {v.code for v in listed if isinstance(v, Finding)}),
    )


def _reproduction(subject: Subject, inputs: Inputs, seed: int) -> str | None:
    """The command that runs the check again, where the loss can be named on a command line."""
    name = getattr(subject.origin, "__qualname__", "")
    if subject.location is None or not name.isidentifier():
        return None
    file = os.path.relpath(subject.location.file)
    if is_library(subject.location.file):
        file = subject.origin.__module__
    elif file.startswith(".."):
        file = subject.location.file
    specifications = ", ".join(inputs.inferred or map(_specification, inputs.values))
    return f'lossproof check {file}:{name} --inputs "{specifications}" --seed {seed}'


def _specification(value: Any) -> str:
    """The nearest specification of an input (its shape and type, not its numbers)."""
    if not isinstance(value, torch.Tensor):
        return repr(value)
    shape = f"[{','.join(map(str, value.shape))}]"
    kind = str(value.dtype).removeprefix("torch.")
    if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
        kind = {"float32": "float", "complex64": "complex"}.get(kind, kind)
        return f"{kind if kind in KINDS else 'float16'}{shape}"
    bound = int(value.to_dense().long().max()) + 1 if value.numel() else 1
    kind = kind if kind in KINDS and kind != "int64" else "int"
    return f"{kind}{shape}<{max(bound, 1)}"
