"""The errors lossproof raises, each documented by when it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lossproof.watcher.alarm import Alarm


class LossproofError(Exception):
    """Base of every error of this library."""


class UsageError(LossproofError, ValueError):
    """The request cannot be carried out as it was made.

    Raised for a loss that cannot be imported, a specification with a typo, inputs that do not fit
    the loss's signature, a rule that does not exist. It says nothing about the loss itself; the
    command line turns it into exit code 2.
    """


class ImportFailedError(UsageError):
    """The module that a loss is defined in could not be imported.

    Every other loss of that module will fail alike.
    """


class FindingsError(LossproofError, AssertionError):
    """A check found something and the caller asked to be told by an exception.

    Raised by :meth:`lossproof.checks.report.Report.raise_for_findings`.
    """


class TimeLimitError(LossproofError):
    """The user's code was still running when its time limit ended.

    ``location`` is the ``(file, line, function)`` that was running then.
    """

    def __init__(self, message: str, location: tuple[str, int, str] | None = None) -> None:
        super().__init__(message)
        self.location = location


class NonFiniteTermError(LossproofError, FloatingPointError):
    """The value or the gradient of a term of a composite loss holds NaN or an infinity.

    Raised by ``balancer.backward`` before anything was filled or learned; ``names`` says which
    terms these are.
    """

    def __init__(self, message: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names


class UnsupportedGraphError(LossproofError, RuntimeError):
    """The graph of the terms holds an operation through which single terms have no gradients.

    Raised by ``term_gradients`` and ``balancer.backward`` where a plain ``backward()`` would work,
    and the message says what to change.
    """


class TrainingAlarmError(LossproofError, RuntimeError):
    """A watched training went wrong, and the caller asked to be told by an exception.

    Raised by a guard of ``lossproof.watch(..., on_alarm="raise")`` within the call of the loss or
    of ``optimizer.step()``, before the parameters are updated; ``alarm`` says what went wrong.
    """

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(str(alarm))
        self.alarm = alarm


class TrainingAlarmWarning(UserWarning):
    """A watched training went wrong: what ``lossproof.watch`` says by default."""


class GuardRetiredWarning(UserWarning):
    """The guard of ``lossproof.watch`` failed itself. The training goes on without it."""
