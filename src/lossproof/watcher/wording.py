"""What a diagnosis says in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from lossproof.checks.mends import mend
from lossproof.checks.nonfinite import Culprit
from lossproof.checks.nonfinite_watch import size_of
from lossproof.checks.trace import tensors_in
from lossproof.watcher.alarm import Diagnosis
from lossproof.watcher.record import Call, StepRecord
from lossproof.watcher.replay import Replay
from lossproof.watcher.step_watch import Detail
from lossproof.watcher.subjects import Subject, micro_batch

SYMBOLS = {"div": "/", "mul": "*", "add": "+", "sub": "-", "pow": "**"}
VIEWS = frozenset(
    "view reshape t transpose permute expand squeeze unsqueeze slice select detach alias clone"
    " _to_copy to_copy unsafe_view".split()
)
"""Operations that make no number."""

TELLING_MAKERS = frozenset("softmax sigmoid cosh exp sub add sum cumsum".split())
"""What the operand of a logarithm is made by where there is a stable formulation of both."""


def samples_in_words(rows: Sequence[int], size: int | None) -> str:
    """Such as ``sample 17 of 64``."""
    if size is not None and len(rows) == size and size > 1:
        return f"all {size} samples"
    shown = ", ".join(map(str, rows[:8]))
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    of = "" if size is None else f" of {size}"
    return f"sample{'s' if len(rows) > 1 else ''} {shown}{more}{of}"


def birth_in_words(culprit: Culprit, detail: Detail) -> str:
    """What the operation was given, and what it made of it."""
    name = culprit.operation
    made = culprit.produced if detail.made is None else f"{detail.made:g}"
    if detail.dtype != torch.float32:
        made += f" in {str(detail.dtype).removeprefix('torch.')}"
    if culprit.phase == "backward":
        kind = "infinite" if culprit.produced == "inf" else "undefined (nan)"
        return f"the derivative of `{name}` is {kind} here"
    if culprit.operand is None:
        return f"`{name}` of {'finite' if detail.finite else 'infinite'} numbers is {made}"
    if name in SYMBOLS and detail.second is not None:
        return f"{culprit.operand:.6g} {SYMBOLS[name]} {detail.second:.6g} is {made}"
    return f"`{name}` of {culprit.operand:.6g} is {made}"


def mend_in_words(culprit: Culprit) -> str | None:
    """The stable formulation, as code.

    One that fits ``log(softmax(x))`` does not fit ``log(weight * softmax(x))``, where the weight
    may be what is 0: a maker counts only where nothing of another kind stands before it.
    """
    makers = [name for name in culprit.chain if name not in VIEWS]
    direct = makers if makers and makers[0] in TELLING_MAKERS else []
    return mend(replace(culprit, chain=tuple(direct)))


def chain_in_words(chain: Sequence[str]) -> str | None:
    """What the operand was made by."""
    makers = [name for name in chain if name not in VIEWS]
    if not makers:
        return None
    steps = " of ".join(f"`{name}`" for name in makers[:4])
    return f"its operand was made by {steps}"


def magnitudes(replay: Replay, call: Call) -> list[str]:
    """How large the model's outputs and parameters are."""
    outputs = [size_of(tensor) for one in replay.needed(call) for tensor in tensors_in(one.result)]
    parameters = {name: size_of(one) for name, one in replay.parameters().items()}
    notes = []
    if outputs:
        notes.append(f"the model's outputs are up to {max(outputs):.4g} in size")
    if parameters:
        name = max(parameters, key=lambda one: comparable(parameters[one]))
        notes.append(f"its largest parameter is in `{name}`: {parameters[name]:.4g}")
    return [", ".join(notes)] if notes else []


def comparable(value: float) -> float:
    """What can be compared: a NaN is the largest of all."""
    return math.inf if math.isnan(value) else value


def not_held(record: StepRecord, term: str | None) -> str:
    """Why a term cannot be computed again."""
    if record.dropped:
        return record.dropped
    if term in record.terms:
        return f"only the value of `{term}` is known, not the call that made it"
    return "no call of this step was held"


def finished(found: Diagnosis, replay: Replay, one: Subject) -> Diagnosis:
    """With the micro-batch, and with every reason why the replay may differ."""
    number, count = micro_batch(replay.record, one.call)
    notes = found.notes
    if count > 1:
        notes = (*notes, f"in call {number} of {count} of `{one.call.name}` in this step")
    caveats = [found.caveat, *replay.caveats, replay.record.dropped]
    caveat = "; ".join(dict.fromkeys(words for words in caveats if words)) or None
    return replace(found, notes=notes, caveat=caveat)
