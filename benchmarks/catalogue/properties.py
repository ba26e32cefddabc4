"""What the page of a loss says about its value as a function of the prediction, tried out.

A claim that something holds is tried at many points; that it does not hold, until one point shows
it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.catalogue.battery import UNBOUNDED, Check, NotApplicable, kind
from benchmarks.catalogue.subject import Call, Subject, kinds, value_and_gradients
from lossproof.checks.inputs import TARGET

Tensor = torch.Tensor
FLOAT64 = torch.float64
TRIALS = 40
SCALABLE = {"float", "positive"}


def _item_values(subject: Subject, given: Call) -> Tensor:
    """The values of the items, or the loss itself where it has no items."""
    if "reduction" in subject.options:
        return subject.call(*given.tensors, reduction="none").detach()
    return subject.call(*given.tensors).detach().reshape(1)


def _predictions(subject: Subject) -> Iterator[tuple[Call, Tensor]]:
    """Calls, and another prediction for each: near and far."""
    for seed in range(TRIALS):
        given = subject.draw(seed, dtype=FLOAT64)
        other = subject.draw(seed + 1000, dtype=FLOAT64).tensors[0]
        scale = (0.3, 1.0, 4.0, 20.0)[seed % 4] if kind(subject) in SCALABLE else 1.0
        yield given.replaced(0, given.tensors[0] * scale), other * scale


def convex(subject: Subject) -> str | None:
    """Between two predictions the value stays below the straight line."""
    claimed = subject.entry.properties.convex
    for given, other in _predictions(subject):
        for share in (0.5, 0.1, 0.9):
            between = given.tensors[0] * (1 - share) + other * share
            ends = [_item_values(subject, given.replaced(0, p)) for p in (given.tensors[0], other)]
            line = (1 - share) * ends[0] + share * ends[1]
            excess = _item_values(subject, given.replaced(0, between)) - line
            limit = 1e-9 * (1 + line.abs())
            if (excess > limit).any():
                return "not convex, as its page claims" if claimed else None
    if claimed or _bends_down(subject):
        return None
    return "its page says it is not convex, and no point shows it"


def _bends_down(subject: Subject) -> bool:
    """Whether the Hessian has a negative eigenvalue anywhere: a direction that chords may miss."""
    for given, _ in _predictions(subject):

        def total(first: Tensor, given: Call = given) -> Tensor:
            return subject.call(*given.replaced(0, first).tensors).sum()

        first = given.tensors[0]
        hessian = torch.autograd.functional.hessian(total, first)
        curvature = torch.linalg.eigvalsh(hessian.reshape(first.numel(), first.numel()))
        if curvature[0] < -1e-6 * curvature[-1]:
            return True
    return False


def bounded_gradient(subject: Subject) -> str | None:
    """The derivative does not grow without end."""
    slopes = []
    for factor in (1.0, 1e2, 1e4, 1e6):
        steepest = 0.0
        for seed in range(6):
            given = subject.draw(seed, dtype=FLOAT64)
            first = given.tensors[0]
            changed = first * factor if kind(subject) in UNBOUNDED else first
            points = [changed, first / factor, _towards_targets(subject, given, factor)]
            if kind(subject) == "unit":
                points.append(1 - first / factor)
            for point in points:
                options = {"reduction": "sum"} if "reduction" in subject.options else {}
                _, gradients = value_and_gradients(
                    subject.call, given.replaced(0, point), **options
                )
                steepest = max(steepest, float(gradients[0].abs().max()))
        slopes.append(steepest)
    without_end = slopes[-1] > 3 * slopes[1] or slopes[1] == float("inf")
    grows = slopes[-1] > 30 * slopes[0] + 1e-9 and without_end
    if grows == subject.entry.properties.bounded_gradient:
        told = "bounded" if subject.entry.properties.bounded_gradient else "not bounded"
        return f"its page says the gradient is {told}; the steepest: {slopes}"
    return None


def _towards_targets(subject: Subject, given: Call, factor: float) -> Tensor:
    """A prediction near the target, where there is one of its shape."""
    first = given.tensors[0]
    for other in given.tensors[1:]:
        if isinstance(other, Tensor) and other.shape == first.shape and other.is_floating_point():
            return other + (first - other) / factor
    return first


def coupled(subject: Subject) -> str | None:
    """The value of an item depends on the others, or does not."""
    if "reduction" not in subject.options:
        raise NotApplicable
    claimed = subject.entry.properties.coupled
    for seed in range(TRIALS):
        given, other = (subject.draw(s, dtype=FLOAT64) for s in (seed, seed + 1000))
        if not given.batched(0) or given.samples < 2:
            raise NotApplicable
        mixed = Call(
            given.names,
            tuple(
                torch.cat([mine[:1], theirs[1:]]) if given.batched(i) else mine
                for i, (mine, theirs) in enumerate(zip(given.tensors, other.tensors, strict=True))
            ),
        )
        before, after = (_item_values(subject, call) for call in (given, mixed))
        if before.shape[:1] != (given.samples,):
            raise NotApplicable  # its values are not those of the samples
        if not torch.allclose(before[0], after[0], rtol=1e-9, atol=1e-12):
            return None if claimed else "an item depends on the others, and its page denies it"
    return "its page says items depend on one another, and none does" if claimed else None


def minimal_at_target(subject: Subject) -> str | None:
    """No prediction costs less than the target itself; for logits, than great confidence in it."""
    claimed = subject.entry.properties.minimal_at_target
    for given, other in _predictions(subject):
        perfect = _perfect(subject, given)
        if perfect is None:
            raise NotApplicable
        best = subject.call(*given.replaced(0, perfect).tensors).detach()
        # Predictions near the perfect one, too: a loss may be smallest a little beside it.
        points = [given.tensors[0], other, perfect + 0.1 * (other - perfect)]
        if kind(subject) == "unit":
            points.append((1.2 * perfect - 0.1).clamp(0, 1))  # the same with more contrast
        for prediction in points:
            value = subject.call(*given.replaced(0, prediction).tensors).detach()
            if bool((value < best - 1e-9 * (1 + best.abs())).any()):
                return (
                    f"{value.item():.6g} beside {best.item():.6g} at the target"
                    if claimed
                    else None
                )
    return None if claimed else "its page says the target is not the minimum, and no point shows it"


CONFIDENT = 40.0
"""A logit whose probability is 1 to every digit."""


def _perfect(subject: Subject, given: Call) -> Tensor | None:
    """The prediction that the target asks for; nothing where there is no such thing."""
    types = kinds(subject)
    if len(types) != 2 or not TARGET.match(given.names[1]):
        return None
    first, target = given.tensors
    if target.shape == first.shape and types[0] == types[1]:
        return target.clone()
    if types[0] != "float":
        return None
    if types[1] == "binary" and target.shape == first.shape:
        return (2 * target - 1) * CONFIDENT
    if types[1] == "sign" and target.shape == first.shape:
        return target * CONFIDENT
    of_classes = target.shape == (*first.shape[:1], *first.shape[2:])
    labels = subject.specification.rstrip().endswith(f"<{first.shape[min(1, first.ndim - 1)]}")
    if types[1] == "int" and first.ndim > 1 and of_classes and labels:
        return torch.zeros_like(first).scatter_(1, target.unsqueeze(1), CONFIDENT)
    return None


PROPERTIES: dict[str, Check] = {
    "convex": convex,
    "bounded gradient": bounded_gradient,
    "coupled": coupled,
    "minimal at target": minimal_at_target,
}
