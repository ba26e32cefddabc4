"""Risks and times: a partial likelihood is a probability, and a high risk means an early event.

A Cox loss is known by what leaves it the same: adding one number to all risks. Each of its terms
is minus the logarithm of one risk's share among those still at risk, itself included: at least 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch

from lossproof.checks.conventions import Call, Fault

Tensor = torch.Tensor

_RISK = re.compile(r"risk|hazard|(^|_)hz($|_)|(^|_)(log_?h|eta|theta|lp)($|_)", re.I)
_TIME = re.compile(r"^(t|y|times?|durations?|surv\w*|survival_?times?|obs\w*|os|T|tte)$", re.I)
_EVENT = re.compile(r"^(e|events?|status|delta|d|censor\w*|observed|indicator|c)$", re.I)
SLOPES = (0.5, 2.0, 8.0)


def partial_likelihood_is_wrong(call: Call) -> Iterator[Fault]:
    """Losses of a risk, a time and an event."""
    found = _arguments(call)
    if found is None:
        return
    risk, _, event = found
    values = call.case.inputs.values
    given = values[risk].detach().double()
    here, shifted = _value(call, risk, given), _value(call, risk, given + 1.7)
    scale = max(abs(here or 0.0), 1.0)
    if here is None or shifted is None or abs(here - shifted) > 1e-7 * scale:
        return
    if not bool((values[event] > 0).any()):
        return
    right, wrong = _ordered(call, found, None)
    if right is None or wrong is None:
        return
    lowest = min(here, *right, *wrong)
    if lowest < -1e-6 * max(map(abs, (*right, *wrong))):
        yield Fault(
            f"the negative log partial likelihood goes down to {lowest:.4g}: a probability is at "
            "most 1, so its negative logarithm is at least 0",
            call.case.subject.location,
            "negative-likelihood",
            "sum over the risk set, each subject's own risk included: "
            "`torch.logsumexp(risk.masked_fill(~at_risk, -inf), 1)`",
            {"lowest": lowest, "given": here},
        )
    elif all(_is_reversed(call, found, descending) for descending in (None, False, True)):
        yield Fault(
            "the loss is lower where a late event has a high risk than where an early one has",
            call.case.subject.location,
            "risk-reversed",
            "at risk at an event are those whose time is as late or later: `time[None] >= time[:, "
            "None]`",
            {"early_high": right[-1], "late_high": wrong[-1]},
            ("in the given order of the samples, and in order of time, both ways",),
        )


def _ordered(
    call: Call, found: tuple[int, int, int], descending: bool | None
) -> tuple[list[float] | None, list[float] | None]:
    """The values where risk falls with time, and where it grows: several slopes of each.

    Ranks count, not times, and ties stay tied. ``descending`` puts the samples in order of time.
    """
    risk, time, event = found
    values = list(call.case.inputs.values)
    flat = values[time].detach().double().reshape(-1)
    if descending is not None:
        order = flat.argsort(descending=descending)
        for position in (time, event):
            shape = values[position].shape
            values[position] = values[position].detach().reshape(-1)[order].reshape(shape)
        flat = flat[order]
    ranks = torch.unique(flat, return_inverse=True)[1].double().reshape(values[risk].shape)
    right = [_value(call, risk, -slope * ranks, values) for slope in SLOPES]
    wrong = [_value(call, risk, slope * ranks, values) for slope in SLOPES]
    return _all_known(right), _all_known(wrong)


def _all_known(values: list[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _is_reversed(call: Call, found: tuple[int, int, int], descending: bool | None) -> bool:
    right, wrong = _ordered(call, found, descending)
    if right is None or wrong is None:
        return False
    return all(one > other + 1e-6 for one, other in zip(right, wrong, strict=True))


def _arguments(call: Call) -> tuple[int, int, int] | None:
    """Where the call takes risk, time and event."""
    arguments = call.case.inputs.arguments
    tensors = [i for i, a in enumerate(arguments) if isinstance(a.value, Tensor)]
    if len(tensors) != 3 or len(call.predictions) != 1:
        return None
    (risk,) = call.predictions
    if risk not in tensors or not _RISK.search(arguments[risk].name):
        return None
    rest = [i for i in tensors if i != risk]
    time = [i for i in rest if _TIME.match(arguments[i].name)]
    event = [i for i in rest if _EVENT.match(arguments[i].name)]
    if len(time) != 1 or len(event) != 1 or time == event:
        return None
    sizes = {arguments[i].value.numel() for i in tensors}
    return (risk, time[0], event[0]) if len(sizes) == 1 and sizes != {1} else None


def _value(
    call: Call, position: int, value: Tensor, values: list[Any] | None = None
) -> float | None:
    values = list(call.case.inputs.values if values is None else values)
    values[position] = value
    found = call.case.evaluate(values, dtype=torch.float64, backward=False)
    if found.error is not None or found.value is None:
        return None
    return found.scalar
