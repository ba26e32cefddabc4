"""What made a loss, or a gradient, very large."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from lossproof.checks.nonfinite_watch import numbers_in, plain_name, size_of
from lossproof.checks.report import Location, Number
from lossproof.checks.sources import excerpt
from lossproof.checks.trace import tensors_in
from lossproof.watcher.alarm import Diagnosis
from lossproof.watcher.batch import batch_size, row_sizes
from lossproof.watcher.gradient_flow import Passage, flow_of_gradient
from lossproof.watcher.guilt import samples_of
from lossproof.watcher.record import Call, StepRecord
from lossproof.watcher.replay import Gradients, Replay
from lossproof.watcher.samples import dominating, values_per_sample
from lossproof.watcher.step_watch import Growth
from lossproof.watcher.subjects import Subject, subjects
from lossproof.watcher.wording import (
    comparable,
    finished,
    magnitudes,
    not_held,
    samples_in_words,
)

Tensor = torch.Tensor

TELLING = 10.0
"""An operation that enlarges less than this explains nothing."""
FEW_SAMPLES = (
    "look at these samples: mend or leave out what is wrong with them, or limit what one sample "
    "can do (`torch.nn.functional.huber_loss`, `torch.nn.utils.clip_grad_norm_`)"
)
WHOLE_BATCH = (
    "a smaller learning rate, a warm-up, or `torch.nn.utils.clip_grad_norm_(model.parameters(), "
    "max_norm)` before the step"
)


def exploding_value(record: StepRecord, model: nn.Module, term: str | None) -> Diagnosis:
    """What made a term very large."""
    known = subjects(record, term)
    if not known:
        return Diagnosis(caveat=not_held(record, term))
    worst = max(known, key=lambda one: comparable(size_of(one.recorded)))
    replay = Replay(record, model, measure=True)
    value = replay.perform_joined(worst.call).at(worst.place)
    if value is None:
        return finished(Diagnosis(caveat="the step could not be performed again"), replay, worst)
    growth = replay.watch.largest_growth(value)
    if growth is not None and growth.ratio < TELLING:
        growth = None
    gradients = replay.gradients(value, worst.call)
    samples, how = _samples(replay, worst.call, gradients)
    notes = [_growth_in_words(growth)] if growth else []
    notes += [how] if how else []
    notes += magnitudes(replay, worst.call)
    evidence: dict[str, Number] = {"value": float(worst.recorded.detach().double().mean())}
    if growth is not None:
        evidence |= {"before": growth.before, "after": growth.after}
    found = Diagnosis(
        growth.part if growth else None,
        "forward",
        plain_name(growth.operation) if growth else None,
        growth.location if growth else None,
        _text(growth.location) if growth else "",
        samples,
        evidence,
        tuple(notes),
        FEW_SAMPLES if samples else WHOLE_BATCH,
    )
    return finished(found, replay, worst)


def exploding_gradient(record: StepRecord, model: nn.Module, term: str | None) -> Diagnosis:
    """What made the gradient very large: which term, where on its way, which samples."""
    known = subjects(record, term)
    if not known:
        return Diagnosis(caveat=not_held(record, term))
    replay = Replay(record, model)
    worst = _steepest_term(replay, known)
    value = replay.perform_joined(worst.call).at(worst.place)
    if value is None:
        return finished(Diagnosis(caveat="the step could not be performed again"), replay, worst)
    gradients, passages = flow_of_gradient(replay, value, worst.call)
    size = _norm(gradients)
    if not comparable(size) > 0:
        caveat = "no gradient arrived when the step was performed again"
        return finished(Diagnosis(caveat=caveat), replay, worst)
    steepest = max(passages, key=lambda one: comparable(one.ratio), default=None)
    if steepest is not None and comparable(steepest.ratio) < TELLING:
        steepest = None
    samples, how = _samples(replay, worst.call, gradients)
    notes = [_passage_in_words(steepest)] if steepest else []
    notes += [how] if how else []
    notes += _largest_gradient(gradients)
    notes += magnitudes(replay, worst.call)
    line = steepest.line if steepest else None
    location = steepest.location if steepest else None
    found = Diagnosis(
        line.part if line else None,
        "backward",
        steepest.name if steepest else None,
        location,
        _text(location),
        samples,
        {"norm of the gradient": size},
        (f"the gradient comes from `{worst.name}`: its norm is {size:.4g}", *notes),
        FEW_SAMPLES if samples else WHOLE_BATCH,
    )
    return finished(found, replay, worst)


def _steepest_term(replay: Replay, known: list[Subject]) -> Subject:
    """The term with the largest gradient."""
    if len(known) == 1:
        return known[0]

    def norm(one: Subject) -> float:
        value = replay.perform_joined(one.call).at(one.place)
        if value is None or not value.requires_grad:
            return -1.0
        return comparable(_norm(replay.gradients(value, one.call)))

    return max(known, key=norm)


def _text(location: Location | None) -> str:
    return excerpt(location) if location is not None else ""


def _norm(gradients: Gradients) -> float:
    own = [grad for grad in gradients.parameters.values() if grad is not None]
    if not own or not gradients.complete:
        own += [grad for _, grad in gradients.leaves if grad is not None]
    return math.hypot(*(_size(grad) for grad in own))


def _size(gradient: Tensor) -> float:
    return float(numbers_in(gradient).double().norm())


def _samples(
    replay: Replay, call: Call, gradients: Gradients
) -> tuple[tuple[int, ...], str | None]:
    """The few samples that most comes from, and how that is known."""
    earlier = replay.needed(call)
    size, batch = batch_size([call]), batch_size([*earlier, call])
    if size is None or batch is None or batch < 2:
        return (), None
    sizes, what = values_per_sample(call, size), "of the loss"
    if sizes is None:
        sizes, what = _row_sizes([grad for _, grad in gradients.leaves], size), "of the gradient"
    if sizes is not None:
        rows, part = _weighing(replay, call, sizes, batch)
        samples, _ = samples_of(replay, call, rows)
        if samples or not rows:
            return samples, _in_words(samples, batch, part, what)
    sizes, what = _row_sizes(gradients.results, batch), "of the gradient"
    if sizes is None:
        outputs = [tensor for one in earlier for tensor in tensors_in(one.result)]
        sizes, what = _row_sizes(outputs, batch), "of the model's outputs"
    if sizes is None:
        return (), None
    samples = dominating(sizes)
    return samples, _in_words(samples, batch, _part(sizes, samples), what)


def _weighing(replay: Replay, call: Call, sizes: Tensor, batch: int) -> tuple[Sequence[int], float]:
    """The few rows of a call's arguments that most comes from, and their part.

    Where rows are tokens or pixels, those of a sample count together.
    """
    rows: Sequence[int] = dominating(sizes)
    if rows or len(sizes) == batch or len(sizes) % batch:
        return rows, _part(sizes, rows)
    groups, length = sizes.reshape(batch, -1).sum(1), len(sizes) // batch
    found = dominating(groups)
    rows = [row for one in found for row in range(one * length, (one + 1) * length)]
    if set(samples_of(replay, call, rows)[0]) != set(found):  # they are in another order
        return (), _part(sizes, ())
    return rows, _part(groups, found)


def _part(sizes: Tensor, rows: Sequence[int]) -> float:
    """What part these rows hold, or the largest."""
    total = float(sizes.sum())
    held = float(sizes[list(rows)].sum()) if rows else float(sizes.max())
    return held / total if total > 0 else 0.0


def _in_words(samples: Sequence[int], batch: int, part: float, what: str) -> str:
    if not samples:
        return f"no few samples explain it: the largest holds {part:.0%} {what}"
    if not math.isfinite(part):
        return f"not finite in {samples_in_words(samples, batch)}"
    verb = "holds" if len(samples) == 1 else "hold"
    return f"{samples_in_words(samples, batch)} {verb} {part:.0%} {what}"


def _row_sizes(tensors: Iterable[Tensor | None], size: int) -> Tensor | None:
    """How large the rows of the first of these are that has so many."""
    for tensor in tensors:
        if tensor is not None and tensor.dim() and len(tensor) == size:
            sizes = row_sizes(tensor, size)
            if sizes is not None:
                return sizes
    return None


def _growth_in_words(growth: Growth) -> str:
    where = f", in the module `{growth.module}`" if growth.module else ""
    return (
        f"`{plain_name(growth.operation)}` enlarges most: from {growth.before:.4g} to "
        f"{growth.after:.4g}{where}"
    )


def _passage_in_words(passage: Passage) -> str:
    module = passage.line.module if passage.line else None
    where = f", in the module `{module}`" if module else ""
    return (
        f"the derivative of `{passage.name}` enlarges it most: from "
        f"{passage.arriving:.4g} to {passage.leaving:.4g}{where}"
    )


def _largest_gradient(gradients: Gradients) -> list[str]:
    sizes = {name: _size(grad) for name, grad in gradients.parameters.items() if grad is not None}
    if not sizes:
        return []
    name = max(sizes, key=lambda one: comparable(sizes[one]))
    return [f"the largest is that of `{name}`: its norm is {sizes[name]:.4g}"]
