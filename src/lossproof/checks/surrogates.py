"""Losses whose gradient is declared not to be the derivative of their value.

A call that goes through :func:`lossproof.write.straight_through` is examined twice: as it is, by
the rules on its value, and with the soft value in place of the hard one by the rules on its
gradient, so that a mistake beside the surrogate is still seen. Through
:func:`lossproof.write.perturbed` the gradient is an estimate from random numbers; there is no
derivative to compare it with.
"""

from __future__ import annotations

from collections.abc import Sequence

from lossproof.checks.examination import Examination
from lossproof.checks.rules import Rule, Verdict
from lossproof.write.surrogate import Surrogate, surrogates_met

KEY = "declared-surrogates"
NONDETERMINISTIC = "LP404"
NOT_MINIMAL = "LP107"
"""It also looks for jumps of the value, which a hard metric has."""


def first_call(case: Examination) -> None:
    """Call the loss for the first time, and note the declared surrogates it goes through."""
    with surrogates_met() as met:
        _ = case.base
    case.notes[KEY] = tuple(met.surrogates)


def verdicts_on_declared(rule: Rule, case: Examination) -> list[Verdict] | None:
    """What the rule says of a declared gradient; ``None`` where it is asked as ever."""
    surrogates: Sequence[Surrogate] = case.notes[KEY]
    if not surrogates:
        return None
    random = [s for s in surrogates if s.kind == "perturbed"]
    if rule.code == NONDETERMINISTIC and random:
        return [rule.not_applicable(f"random by declaration: {random[0]}")]
    if not rule.code.startswith("LP2") and rule.code != NOT_MINIMAL:
        return None
    if random:
        return [rule.not_applicable(f"declared surrogate: {random[0]}")]
    with surrogates_met(soft=True):
        return rule.examine(_soft_case(case))


def _soft_case(case: Examination) -> Examination:
    """The same examination for calls that give the soft value; its recorded calls are its own."""
    if "soft-case" not in case.notes:
        case.notes["soft-case"] = Examination(case.subject, case.inputs, case.seed, case.reference)
    soft: Examination = case.notes["soft-case"]
    return soft


def declared(case: Examination) -> tuple[str, ...]:
    """What the report says of the surrogates."""
    return tuple(f"declared surrogate: {surrogate}" for surrogate in case.notes.get(KEY, ()))
