"""What a guard says when a training goes wrong: plain data, no drawing."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from lossproof.checks.report import Finding, Location, Number


class AlarmKind(str, enum.Enum):
    """What went wrong. The names are public and do not change."""

    NON_FINITE_LOSS = "non-finite-loss"
    NON_FINITE_GRADIENT = "non-finite-gradient"
    EXPLODING_LOSS = "exploding-loss"
    EXPLODING_GRADIENT = "exploding-gradient"
    VANISHED_GRADIENT = "vanished-gradient"
    DEAD_TERM = "dead-term"
    UNREACHED_PARAMETER = "unreached-parameter"
    WRONG_BACKWARD = "wrong-backward"


@dataclass(frozen=True)
class StepFigures:
    """What the guard keeps of one step.

    Attributes:
        step: the number of the step, from 1.
        values: the value of each term.
        norm: the norm of the gradient over all parameters, where this step measured it.
        norms: the norm of the gradient of each term, where this step measured it.
    """

    step: int
    values: Mapping[str, float]
    norm: float | None = None
    norms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """What the replay of a step found.

    Attributes:
        part: where the fault was made: ``"loss"``, ``"model"``, or ``"between"`` (code between the
            model and the loss that the guard cannot call again); ``None`` where it was not found.
        phase: whether it was made in the forward or in the backward pass.
        operation: the operation at fault as torch knows it, such as ``log``.
        location: its line. For a backward pass, of the forward operation whose derivative it is.
        text: the expression at the location.
        samples: the indices along the first dimension of the batch that it was made from, the
            worst first, at most eight.
        evidence: numbers, by name.
        notes: what the evidence says in words, one line each.
        help: the mend, as code where it can be derived.
        findings: what a check of the loss with this batch convicted.
        caveat: why the replay may differ from the step, where it may.
    """

    part: str | None = None
    phase: str | None = None
    operation: str | None = None
    location: Location | None = None
    text: str = ""
    samples: tuple[int, ...] = ()
    evidence: Mapping[str, Number] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    help: str | None = None
    findings: tuple[Finding, ...] = ()
    caveat: str | None = None


@dataclass(frozen=True)
class Alarm:
    """One thing that went wrong in a training.

    Attributes:
        step: the number of the step, from 1.
        kind: what went wrong.
        message: one sentence fragment: lower case, no full stop, code in backticks.
        term: the term of the loss that it is about, where it is about one.
        parameters: the names of the parameters that it is about.
        diagnosis: what the replay of the step found.
        history: what led to it: the figures of the last steps, this one the last.
        help: what to do, where the diagnosis does not say it.
    """

    step: int
    kind: AlarmKind
    message: str
    term: str | None = None
    parameters: tuple[str, ...] = ()
    diagnosis: Diagnosis | None = None
    history: tuple[StepFigures, ...] = ()
    help: str | None = None

    def __str__(self) -> str:
        from lossproof.show.alarm import render_alarm

        return render_alarm(self)
