"""Which operation made a loss, or a gradient, NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lossproof.checks.nonfinite import named, node_name
from lossproof.checks.nonfinite_watch import Event, size_of
from lossproof.checks.report import Number
from lossproof.checks.trace import tensors_in
from lossproof.watcher.alarm import Diagnosis
from lossproof.watcher.batch import (
    MOST_SAMPLES,
    Given,
    batch_size,
    given_tensors,
    rows_of,
)
from lossproof.watcher.guilt import guilty_rows, samples_of
from lossproof.watcher.isolation import is_alone
from lossproof.watcher.lines import nodes_from
from lossproof.watcher.record import Call, StepRecord
from lossproof.watcher.replay import Gradients, Replay
from lossproof.watcher.subjects import Subject, subjects
from lossproof.watcher.wording import (
    birth_in_words,
    chain_in_words,
    finished,
    magnitudes,
    mend_in_words,
    not_held,
    samples_in_words,
)

Tensor = torch.Tensor

CLEAN_DATA = (
    "leave such samples out before the step: `keep = torch.isfinite(x).flatten(1).all(1)`, or mend "
    "them where they are made"
)
BROKEN_PARAMETERS = (
    "an update made them so: go back to a checkpoint from before, and look at the gradients of the "
    "steps that led here"
)


# ---------------------------------------------------------------------------- the value
def nonfinite_value(record: StepRecord, model: nn.Module, term: str | None) -> Diagnosis:
    """What made a term NaN or infinite."""
    known = subjects(record, term)
    if not known:
        return Diagnosis(caveat=not_held(record, term))
    bad = next((one for one in known if not is_finite(one.recorded)), None)
    if bad is None:
        return Diagnosis(
            "between",
            "forward",
            notes=("every term that the guard saw is finite: what was made of them is not",),
        )
    replay = Replay(record, model)
    before = [call for call in replay.needed(bad.call) if not _result_is_finite(call)]
    chain = [*before, bad.call]
    found = (
        _broken_parameters(replay, chain[0])
        or _first(_broken_data(record, model, call, bad) for call in chain)
        or _born_in_value(replay, before, bad)
        or _made_between(replay, bad.call)
        or _first(_infinite_data(replay, call) for call in chain)
        or Diagnosis(caveat=f"no operation that torch can see made `{bad.name}` so")
    )
    if found.part == "parameters" and record.before is not None:
        return _in_the_step_before(record.before, model) or finished(found, replay, bad)
    return finished(found, replay, bad)


def _in_the_step_before(record: StepRecord, model: nn.Module) -> Diagnosis | None:
    """What broke the parameters, if the gradient of the loss there already did.

    The model cannot be performed as it was then, but the loss can, with what the model returned.
    """
    found = nonfinite_gradient(record, model, None)
    if found.operation is None or found.part == "model":
        return None
    note = f"the parameters are not finite since the update of step {record.number}: this is why"
    return replace(found, notes=(note, *found.notes), caveat=None)


def _first(found: Iterable[Diagnosis | None]) -> Diagnosis | None:
    return next((one for one in found if one is not None), None)


def _result_is_finite(call: Call) -> bool:
    return all(is_finite(tensor) for tensor in tensors_in(call.result))


def is_finite(tensor: Tensor) -> bool:
    """Whether every number of a tensor is finite."""
    return math.isfinite(size_of(tensor))


def _broken_parameters(replay: Replay, failing: Call) -> Diagnosis | None:
    broken = [name for name, one in replay.parameters().items() if not is_finite(one)]
    owns = failing.role == "model" or not replay.needed(failing)
    if isinstance(failing.function, nn.Module):
        own = [one for one in failing.function.parameters() if not is_finite(one)]
        owns = bool(own)
    if not broken or not owns:
        return None
    count = len(replay.parameters())
    shown = ", ".join(f"`{name}`" for name in broken[:4]) + (", ..." if len(broken) > 4 else "")
    return Diagnosis(
        "parameters",
        "forward",
        evidence={"parameters not finite": len(broken), "parameters": count},
        notes=(f"{len(broken)} of {count} parameters were not finite before this step: {shown}",),
        help=BROKEN_PARAMETERS,
    )


def _made_between(replay: Replay, failing: Call) -> Diagnosis | None:
    """What the loss got of the model is not finite, and nothing in the model made it so."""
    earlier = replay.needed(failing)
    results = [tensor for call in earlier for tensor in tensors_in(call.result)]
    derived = [
        given
        for given in given_tensors(failing)
        if given.tensor.grad_fn is not None and not is_finite(given.tensor)
    ]
    if not derived:
        return None
    given = derived[0]
    ends = [tensor.grad_fn for tensor in results if tensor.grad_fn is not None]
    between = [node for node in nodes_from([given.tensor.grad_fn], ends) if node not in ends]
    names = [node_name(node) for node in between if not hasattr(node, "variable")]
    what = "its maker is not known"
    if earlier:
        what = (
            f"what came out of the model is {'' if all(map(is_finite, results)) else 'not '}finite"
        )
    notes = [f"`{given.name}` was not finite when `{failing.name}` got it; {what}"]
    if names and earlier:
        notes.append(f"between them, last first: {', '.join(f'`{one}`' for one in names[:6])}")
    return Diagnosis(
        "between" if earlier else None,
        "forward",
        operation=names[0] if len(names) == 1 and earlier else None,
        samples=_bad_samples(replay, failing, given),
        notes=tuple(notes),
        help="put this code into the function that is wrapped, so that its line can be named",
    )


def _bad_samples(replay: Replay, failing: Call, given: Given) -> tuple[int, ...]:
    rows = rows_of(~torch.isfinite(given.tensor.detach()), batch_size([failing]))
    return samples_of(replay, failing, rows)[0][:MOST_SAMPLES]


def _data(call: Call) -> list[Given]:
    """The floating arguments that were not made by operations with a derivative."""
    return [
        given
        for given in given_tensors(call)
        if given.tensor.is_floating_point()
        and given.tensor.grad_fn is None
        and not isinstance(given.tensor, nn.Parameter)
    ]


def _broken_data(
    record: StepRecord, model: nn.Module, failing: Call, bad: Subject
) -> Diagnosis | None:
    """NaN in the batch, without which the call is finite."""
    with_nan = [given for given in _data(failing) if bool(torch.isnan(given.tensor).any())]
    for given in with_nan:
        cleaned = Replay(record, model)
        cleaned.put(given.tensor, given.tensor.detach().nan_to_num())
        done = cleaned.perform(failing)
        if done.failed:
            continue
        results = [done.at(bad.place)] if failing is bad.call else list(tensors_in(done.result))
        if all(one is not None and is_finite(one) for one in results):
            return _blamed(cleaned, given, failing, "nan", torch.isnan(given.tensor))
    return None


def _infinite_data(replay: Replay, failing: Call) -> Diagnosis | None:
    """An infinity in the batch, where no operation made any."""
    for given in _data(failing):
        bad = ~torch.isfinite(given.tensor)
        if bool(bad.any()):
            return _blamed(replay, given, failing, "inf", bad)
    return None


def _blamed(replay: Replay, given: Given, failing: Call, what: str, bad: Tensor) -> Diagnosis:
    rows, size = samples_of(replay, failing, rows_of(bad, batch_size([failing])))
    count = int(bad.sum())
    notes = [f"`{given.name}` holds {count} {what} when `{failing.name}` gets it"]
    if rows:
        notes.append(samples_in_words(rows, size))
    return Diagnosis(
        "data",
        "forward",
        samples=rows[:MOST_SAMPLES],
        evidence={what: count, "numbers": given.tensor.numel()},
        notes=tuple(notes),
        help=CLEAN_DATA.replace("x)", f"{given.name})"),
    )


def _born_in_value(replay: Replay, before: Sequence[Call], bad: Subject) -> Diagnosis | None:
    """The first operation that made what is not finite, in the model or in the loss."""
    results: list[Tensor] = []
    for call in before:
        results += tensors_in(replay.perform(call).result)
    done = replay.perform(bad.call)
    term = done.at(bad.place)
    if term is None:
        return Diagnosis(caveat="the step could not be performed again")
    if is_finite(term):
        return Diagnosis(caveat=f"`{bad.name}` was finite when it was computed again")
    wanted = [term]
    if any(
        given.tensor.grad_fn and not is_finite(given.tensor) for given in given_tensors(bad.call)
    ):
        # Code in between may part the loss from the results that it was given.
        wanted += [result for result in results if not is_finite(result)]
    births = replay.watch.births_before(wanted)
    if not births:
        return None
    event = births[0]
    detail = replay.watch.details[event]
    call = before[0] if before and detail.part == "model" else bad.call
    rows = guilty_rows(call, detail.rows, lambda out: not all(map(is_finite, tensors_in(out))))
    return _of_event(replay, call, event, rows)


# ---------------------------------------------------------------------------- the gradient
def nonfinite_gradient(record: StepRecord, model: nn.Module, term: str | None) -> Diagnosis:
    """What made the gradient of finite terms NaN or infinite."""
    known = subjects(record, term)
    if not known:
        return Diagnosis(caveat=not_held(record, term))
    replay = Replay(record, model)
    performed = False
    for one in known:
        value = replay.perform_joined(one.call).at(one.place)
        if value is None or not value.requires_grad or not is_finite(value):
            continue
        performed = True
        gradients = replay.gradients(value, one.call)
        if gradients.failed:
            return finished(Diagnosis(), replay, one)
        bad = _not_finite(gradients)
        births = replay.watch.births_before(bad) if bad else []
        if births:
            found = _with_guilty_rows(replay, one, births[0], gradients)
            note = f"the gradient of `{one.name}` is the one that is not finite"
            return finished(replace(found, notes=(*found.notes, note)), replay, one)
        if bad:
            found = Diagnosis("loss", "backward", caveat="no operation that torch can see made it")
            return finished(found, replay, one)
    caveats = [] if is_alone() else ["it may come from another rank: see what is said there"]
    if performed:
        caveats.append(
            "the gradient of each term was finite when the step was performed again: a factor, a "
            "loss scale or code after the terms made it so"
        )
    caveat = "; ".join(caveats) or "no term could be computed again"
    return finished(Diagnosis(caveat=caveat), replay, known[0])


def _not_finite(gradients: Gradients) -> list[Tensor]:
    every = [
        *(grad for _, grad in gradients.leaves),
        *gradients.results,
        *gradients.parameters.values(),
    ]
    return [grad for grad in every if grad is not None and not is_finite(grad)]


def _with_guilty_rows(
    replay: Replay, one: Subject, event: Event, gradients: Gradients
) -> Diagnosis:
    """What is said of an operation of the backward pass, with the samples that it was for."""
    rows = replay.watch.details[event].rows
    line = replay.lines.nodes.get(event.node)
    earlier = replay.needed(one.call)
    if not earlier or (line is not None and line.part == "loss"):
        rows = guilty_rows(one.call, rows, lambda out: _has_bad_gradient([_at(out, one.place)]))
        return _of_event(replay, one.call, event, rows)
    if line is None or len(earlier) > 1:  # code in between, whose graph says what it leads to
        return _of_event(replay, earlier[0], event, _rows_of_results(gradients, earlier[0]))
    sent = [grad for grad in gradients.results if grad is not None]
    rows = guilty_rows(earlier[0], rows, lambda out: _has_bad_gradient(_carrying(out), sent))
    return _of_event(replay, earlier[0], event, rows)


def _rows_of_results(gradients: Gradients, call: Call) -> list[int] | None:
    """The samples for which the model's results get a gradient that is not finite."""
    size = batch_size([call])
    for gradient in gradients.results:
        if gradient is not None and not gradient.is_sparse and not is_finite(gradient):
            if gradient.dim() and len(gradient) == size:
                return rows_of(~torch.isfinite(gradient), size)
    return None


def _at(result: Any, place: int) -> Tensor:
    return list(tensors_in(result))[place]


def _carrying(result: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(result) if tensor.grad_fn is not None]


def _has_bad_gradient(roots: Sequence[Tensor], sent: Sequence[Tensor] | None = None) -> bool:
    """Whether some leaf gets a gradient that is not finite."""
    nodes = nodes_from([root.grad_fn for root in roots])
    leaves = [node.variable for node in nodes if hasattr(node, "variable")]
    sent = [torch.ones_like(root) for root in roots] if sent is None else sent
    found: tuple[Tensor | None, ...] = torch.autograd.grad(roots, leaves, sent, allow_unused=True)
    return not all(is_finite(one) for one in found if one is not None)


# ---------------------------------------------------------------------------- in words
def _of_event(replay: Replay, call: Call, event: Event, rows: Sequence[int] | None) -> Diagnosis:
    culprit = named(event, replay.site_of)
    detail = replay.watch.details[event]
    samples, size = samples_of(replay, call, rows)
    part, module = detail.part, detail.module
    if event.node is not None:
        line = replay.lines.nodes.get(event.node)
        part, module = ("between", None) if line is None else (line.part, line.module)
    evidence: dict[str, Number] = {}
    if culprit.operand is not None:
        evidence["operand"] = culprit.operand
        if detail.second is not None:
            evidence["second operand"] = detail.second
    notes = [birth_in_words(culprit, detail)]
    if samples:
        notes[0] += f", for {samples_in_words(samples, size)}"
        evidence["samples"] = len(samples)
    if size is not None:
        evidence["batch"] = size
    made_by = chain_in_words(culprit.chain) if culprit.phase == "forward" else None
    notes += [made_by] if made_by else []
    notes += [f"in the module `{module}` of the model"] if module else []
    if culprit.produced == "inf" and culprit.operand is None and culprit.phase == "forward":
        notes += magnitudes(replay, call)  # a matrix product, whose operands are the parameters
    return Diagnosis(
        part,
        culprit.phase,
        culprit.operation,
        culprit.location,
        culprit.text,
        tuple(samples or ())[:MOST_SAMPLES],
        evidence,
        tuple(notes),
        mend_in_words(culprit),
    )
