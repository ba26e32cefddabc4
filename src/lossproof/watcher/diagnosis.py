"""``diagnose``: perform a step again and say what went wrong in it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lossproof.watcher.alarm import AlarmKind, Diagnosis
from lossproof.watcher.growth_search import exploding_gradient, exploding_value
from lossproof.watcher.kept import everything_kept
from lossproof.watcher.nonfinite_search import nonfinite_gradient, nonfinite_value
from lossproof.watcher.record import StepRecord
from lossproof.watcher.replay import in_brief, is_out_of_memory
from lossproof.watcher.silence_search import silent_terms, unreached_parameters
from lossproof.watcher.wrong_backward import (
    examine_backward,
    has_handwritten_backward,
    wrong_backward,
)

Search = Callable[[StepRecord, nn.Module, str | None], Diagnosis]

SEARCHES: dict[AlarmKind, Search] = {
    AlarmKind.NON_FINITE_LOSS: nonfinite_value,
    AlarmKind.NON_FINITE_GRADIENT: nonfinite_gradient,
    AlarmKind.EXPLODING_LOSS: exploding_value,
    AlarmKind.EXPLODING_GRADIENT: exploding_gradient,
    AlarmKind.VANISHED_GRADIENT: silent_terms,
    AlarmKind.DEAD_TERM: silent_terms,
    AlarmKind.UNREACHED_PARAMETER: unreached_parameters,
    AlarmKind.WRONG_BACKWARD: wrong_backward,
}


def diagnose(
    kind: AlarmKind, record: StepRecord, model: nn.Module, *, term: str | None = None
) -> Diagnosis:
    """Perform a step again under the trace, and say what went wrong in it.

    Random numbers are drawn as they were in the step. Afterwards everything is as before: random
    number generators, buffers, what the functions remember, ``.grad`` of every parameter, settings.
    What the step writes outside of the program, such as a log, is written once more.

    Args:
        kind: what went wrong.
        record: what was held of the step.
        model: the model, with the parameters that it had in the step.
        term: the term that the alarm is about; ``None`` for all of them.

    Returns:
        What was found. Where that is nothing, ``caveat`` says why.
    """
    try:
        with everything_kept(record.calls, model):
            return SEARCHES[kind](record, model, term)
    except Exception as error:
        # The alarm is right without a diagnosis, and must not be lost with it.
        why = "there was not enough memory" if is_out_of_memory(error) else in_brief(error)
        return Diagnosis(caveat=f"the step could not be performed again: {why}")


__all__ = ["diagnose", "examine_backward", "has_handwritten_backward"]
