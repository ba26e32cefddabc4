"""Why no gradient arrives: where the graph ends, or where the derivative is zero."""

from __future__ import annotations

import torch
from torch import nn

from lossproof.checks.nonfinite_watch import size_of
from lossproof.checks.sources import excerpt
from lossproof.checks.trace import tensors_in
from lossproof.watcher.alarm import Diagnosis
from lossproof.watcher.batch import given_tensors
from lossproof.watcher.gradient_flow import Passage, flow_of_gradient
from lossproof.watcher.lines import Cut, nodes_behind
from lossproof.watcher.record import Call, StepRecord
from lossproof.watcher.replay import Gradients, Replay
from lossproof.watcher.subjects import Subject, subjects
from lossproof.watcher.wording import finished, not_held

Tensor = torch.Tensor

LITTLE = 1e-6
"""A passage that lets less than this through is where a gradient dies."""
MOST_PARAMETERS = 32
"""Of so many parameters it is found out why they get nothing."""
MENDS = {
    "detach": "leave out `.detach()` where this value should be trained",
    "detach_": "leave out `.detach_()` where this value should be trained",
    "data": "use the tensor itself instead of its `.data`",
    "item": "keep the tensor: without `.item()` the arithmetic stays in the graph",
    "numpy": "use the torch function of the same name; numpy has no gradient",
    "argmax": "use `softmax` probabilities in place of the index of the largest",
    "round": "use the value before rounding, or a declared surrogate gradient",
    "sign": "use `torch.tanh` with a scale in place of `sign`",
    "tensor": "combine tensors with `torch.stack` or `torch.cat`, not with `torch.tensor`",
    "relu": "its inputs are all negative: a smaller learning rate, `leaky_relu` or `gelu`, or a "
    "normalisation before it",
    "clamp": "everything lies outside of its range: move the range, or use a soft bound such as "
    "`torch.nn.functional.softplus`",
    "sigmoid": "it is saturated: keep logits and use `binary_cross_entropy_with_logits`, or scale "
    "its input down",
    "tanh": "it is saturated: scale its input down, or normalise before it",
    "softmax": "it is saturated: keep logits and use `log_softmax`, or a higher temperature",
}

UNUSED = "use it, or leave it out: `requires_grad_(False)` says that it is not to be trained"


def silent_terms(record: StepRecord, model: nn.Module, term: str | None) -> Diagnosis:
    """Why a term, or none of the terms, gives the parameters a gradient."""
    known = subjects(record, term)
    if not known:
        return Diagnosis(caveat=not_held(record, term))
    replay = Replay(record, model)
    found: Diagnosis | None = None
    for one in known:
        value = replay.perform_joined(one.call).at(one.place)
        if value is None:
            continue
        found = found or _why_silent(replay, one, value)
    found = found or Diagnosis(caveat="a gradient arrived when the step was performed again")
    return finished(found, replay, known[0])


def _why_silent(replay: Replay, one: Subject, value: Tensor) -> Diagnosis | None:
    if not value.requires_grad:
        return _no_graph(replay, one, value)
    gradients, passages = flow_of_gradient(replay, value, one.call)
    if gradients.failed:
        return Diagnosis()
    sizes = [size_of(grad) for grad in gradients.parameters.values() if grad is not None]
    if not sizes:
        cuts = [cut for cut in replay.lines.cuts_before(value) if not cut.discrete]
        if not cuts:
            note = f"`{one.name}` is not made from any parameter of the model"
            return Diagnosis(_part(gradients), "backward", notes=(note,))
        return _at_cut(cuts[0], f"no gradient gets past it from `{one.name}` to the parameters")
    passage = _dead_end(passages)
    if passage is None:
        return None
    return _at_passage(passage, f"the largest gradient of a parameter is {max(sizes):.3g}")


def _part(gradients: Gradients) -> str | None:
    return None if gradients.complete else "between"


def _no_graph(replay: Replay, one: Subject, value: Tensor) -> Diagnosis:
    cuts = replay.lines.cuts_before(value) or replay.lines.cuts
    if cuts:
        return _at_cut(cuts[-1], f"`{one.name}` has no gradient at all")
    name = _detached_argument(replay, one.call)
    if name is not None:
        note = f"`{name}` is a result of the model without its graph when `{one.call.name}` gets it"
        return Diagnosis(
            "between", "forward", "detach", notes=(note,), help=MENDS["detach"]
        )  # fmt: skip
    note = f"nothing that `{one.name}` is made from requires a gradient"
    return Diagnosis("loss", "forward", notes=(note,))


def _detached_argument(replay: Replay, call: Call) -> str | None:
    """An argument that lies in the memory of a result of the model, but has no graph."""
    memories = {
        tensor.untyped_storage().data_ptr()
        for earlier in replay.record.calls
        if earlier.role == "model"
        for tensor in tensors_in(earlier.result)
        if tensor.numel()
    }
    for given in given_tensors(call):
        tensor = given.tensor
        if not tensor.requires_grad and tensor.numel():
            if tensor.untyped_storage().data_ptr() in memories:
                return given.name
    return None


def _dead_end(passages: list[Passage]) -> Passage | None:
    """Where the gradient dies: the first passage that lets nothing through, else the narrowest."""
    closed = [one for one in passages if one.arriving > 0 and one.leaving == 0 and one.numbers]
    if closed:
        return closed[0]
    narrow = [one for one in passages if one.arriving > 0 and one.numbers]
    least = min(narrow, key=lambda one: one.ratio, default=None)
    return least if least is not None and least.ratio < LITTLE else None


def _at_cut(cut: Cut, note: str) -> Diagnosis:
    location = cut.line.site.location
    name = cut.line.operation
    what = "`torch.no_grad()` is in force here" if cut.no_grad else f"`{name}` ends the graph here"
    module = [f"in the module `{cut.line.module}` of the model"] if cut.line.module else []
    mend = "compute this outside of the `no_grad` block" if cut.no_grad else MENDS.get(name)
    return Diagnosis(
        cut.line.part,
        "forward",
        "no_grad" if cut.no_grad else name,
        location,
        excerpt(location) if location else "",
        notes=(what, note, *module),
        help=mend,
    )


def _at_passage(passage: Passage, note: str) -> Diagnosis:
    line, location, name = passage.line, passage.location, passage.name
    if passage.leaving == 0:
        what = f"the derivative of `{name}` is 0 for each of the {passage.numbers} numbers here"
    else:
        what = (
            f"the gradient shrinks most in `{name}`: from {passage.arriving:.3g} to "
            f"{passage.leaving:.3g}"
        )
    module = [f"in the module `{line.module}` of the model"] if line and line.module else []
    return Diagnosis(
        line.part if line else "between",
        "backward",
        name,
        location,
        excerpt(location) if location else "",
        evidence={"arriving": passage.arriving, "leaving": passage.leaving},
        notes=(what, note, *module),
        help=MENDS.get(name),
    )


# ---------------------------------------------------------------------------- parameters
def unreached_parameters(record: StepRecord, model: nn.Module, term: str | None) -> Diagnosis:
    """Why some parameters get no gradient while others do."""
    known = subjects(record, term)
    if not known:
        return Diagnosis(caveat=not_held(record, term))
    replay = Replay(record, model)
    missing: dict[str, bool] = dict.fromkeys(replay.parameters(), False)
    values: list[Tensor] = []
    passages: list[Passage] = []
    for one in known:
        value = replay.perform_joined(one.call).at(one.place)
        if value is None:
            continue
        values.append(value)
        gradients, passed = flow_of_gradient(replay, value, one.call)
        if gradients.failed:
            return finished(Diagnosis(), replay, one)
        passages += passed
        for name, grad in gradients.parameters.items():
            if grad is not None and size_of(grad) != 0:
                missing.pop(name, None)
            elif grad is not None and name in missing:
                missing[name] = True
    if not missing:
        caveat = "every parameter got a gradient when the step was performed again"
        return finished(Diagnosis(caveat=caveat), replay, known[0])
    found = _why_missing(replay, missing, values, passages)
    return finished(found, replay, known[-1])


def _why_missing(
    replay: Replay, missing: dict[str, bool], values: list[Tensor], passages: list[Passage]
) -> Diagnosis:
    """What is said of the parameters that got nothing: of each module once."""
    parameters = replay.parameters()
    modules = dict(replay.model.named_modules())
    first: Diagnosis | None = None
    notes: list[str] = []
    for name, zero in list(missing.items())[:MOST_PARAMETERS]:
        owner = modules.get(name.rpartition(".")[0])
        one = parameters[name]
        if id(one) not in replay.lines.used:
            what = name.rpartition(".")[0] or name
            called = owner is None or owner in replay.called
            notes.append(
                f"no operation of this step uses `{name}`" if called
                else f"the module `{what}` was not called in this step"
            )  # fmt: skip
            continue
        cut = next((cut for value in values for cut in _cuts_of(replay, value, one)), None)
        if cut is not None:
            first = first or _at_cut(cut, f"`{name}` is behind it")
        elif zero:
            behind = nodes_behind((passage.node for passage in passages), one)
            passage = _dead_end([passage for passage in passages if passage.node in behind])
            if passage is not None:
                first = first or _at_passage(passage, f"`{name}` is behind it")
        else:
            notes.append(f"what is made with `{name}` is no part of any term")
    notes = list(dict.fromkeys(notes))
    if first is None:
        return Diagnosis("model", "forward", notes=tuple(notes[:6]), help=UNUSED)
    others = first.notes + tuple(notes[:4])
    return Diagnosis(
        first.part, first.phase, first.operation, first.location, first.text,
        evidence=first.evidence, notes=others, help=first.help,
    )  # fmt: skip


def _cuts_of(replay: Replay, value: Tensor, parameter: Tensor) -> list[Cut]:
    """The cuts before a term that this parameter went into."""
    cuts = replay.lines.cuts_before(value)
    behind = nodes_behind((node for cut in cuts for node in cut.nodes), parameter)
    return [cut for cut in cuts if id(parameter) in cut.leaves or behind.intersection(cut.nodes)]
