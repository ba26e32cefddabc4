"""Embeddings: what belongs together close, the rest apart.

With class labels: compact classes far apart must not cost more the farther apart they are, unless
bringing everything to one point is what the loss is for. With an anchor, a positive and a negative:
the positive close and the negative far must not cost more than the reverse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from lossproof.checks.conventions import Call, Fault, distinct
from lossproof.checks.direction import STARTS, Comparison, is_rising

Tensor = torch.Tensor

_EMBEDDING = re.compile(r"emb|feat|latent|repr|code|vector|^z$|^x$|^h$", re.I)
_LABEL = re.compile(r"label|target|class|^y$|instance|^ids?$|identit", re.I)
_POSITIVE = re.compile(r"^p(os(itives?)?)?(_?emb\w*|_?feat\w*|_?out\w*)?$", re.I)
_NEGATIVE = re.compile(r"^n(eg(atives?)?)?(_?emb\w*|_?feat\w*|_?out\w*)?$", re.I)
SPREADS = (1e-3, 8.0, 16.0, 32.0, 64.0)
SLACK = 1e-6
_SCORE = re.compile(r"score|sim|logit|pred", re.I)
_SAME = re.compile(r"same|genuine|simil|match|(^|_)is_?pos", re.I)
_DIFFERENT = re.compile(r"different|dissim|forge|impost|(^|_)is_?neg", re.I)


def classes_apart_cost_more(comparison: Comparison) -> Iterator[Fault]:
    """Embeddings with class labels: classes at growing distances from each other."""
    layout = _layout(comparison)
    if layout is None:
        return
    centers, noise = layout
    values = comparison.values([spread * centers for spread in SPREADS])
    if values is None or not is_rising(values, 1e-4):
        return
    # Only what looks at differences between embeddings can be judged: centers elsewhere, a penalty
    # on the norm, or a score for each class, make far apart cost more rightly. And it must be a
    # loss that gathers each class: one that only brings groups together does so on purpose.
    here, scattered = comparison.prediction, SPREADS[1] * (centers + noise)
    others = comparison.values([here, here + 3.7, here @ _rotation(here.shape[1]), scattered])
    if others is None:
        return
    scale = max(abs(others[0]), 1e-9)
    if max(abs(value - others[0]) for value in others[1:3]) > SLACK * scale:
        return
    gathers = others[3] > values[1] * (1 + 1e-3)
    if not gathers or values[-1] - values[0] < 1e-3 * others[3]:
        return
    yield Fault(
        f"the loss grows as the classes of `{comparison.name}` move apart: all in one point "
        "costs least",
        comparison.case.subject.location,
        "classes-pulled-together",
        "push classes apart up to a margin: `relu(margin - distance)`, of different classes only",
        {f"value_at_{spread:g}": value for spread, value in zip(SPREADS, values, strict=True)},
        (
            f"compact classes at distances {', '.join(f'{s:g}' for s in SPREADS)}: "
            + ", ".join(f"{value:.4g}" for value in values),
        ),
    )


def _layout(comparison: Comparison) -> tuple[Tensor, Tensor] | None:
    """A point for each class, and a place within the class for each embedding."""
    prediction, target = comparison.prediction, comparison.target
    if not (_EMBEDDING.search(comparison.name) and _LABEL.search(comparison.target_name)):
        return None
    if prediction.dim() != 2 or target.shape != prediction.shape[:1] or target.is_floating_point():
        return None
    classes, index = torch.unique(target, return_inverse=True)
    counts = torch.bincount(index)
    if len(classes) < 2 or int(counts.min()) < 2:
        return None
    generator = torch.Generator().manual_seed(3)
    size = (len(classes), prediction.shape[1])
    points = torch.nn.functional.normalize(
        torch.randn(size, generator=generator, dtype=torch.float64), dim=1
    )
    noise = torch.randn(prediction.shape, generator=generator, dtype=torch.float64)
    return points[index], noise


def _rotation(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    square = torch.randn(size, size, generator=generator, dtype=torch.float64)
    rotation: Tensor = torch.linalg.qr(square)[0]
    return rotation


def negatives_pulled(call: Call) -> Iterator[Fault]:
    """Losses of an anchor, a positive and a negative."""
    found = _triplet(call)
    if found is None:
        return
    anchor, positive, negative = found
    generator = torch.Generator().manual_seed(4)
    shape = call.case.inputs.values[anchor].shape
    good, bad = [], []
    for size in (0.1, 1.0, 4.0):
        start = size * torch.randn(shape, generator=generator, dtype=torch.float64)
        good.append(_value(call, found, (start, start, -start)))
        bad.append(_value(call, found, (start, -start, start)))
    known = [(one, other) for one, other in zip(good, bad, strict=True) if None not in (one, other)]
    if len(known) == 3 and all(one > other + SLACK for one, other in known):  # type: ignore[operator]
        names = [call.case.inputs.arguments[i].name for i in (positive, negative)]
        yield Fault(
            f"the loss is lower with `{names[1]}` at the anchor and `{names[0]}` opposite than the "
            "other way round",
            call.case.subject.location,
            "negative-pulled",
            "the distance to the positive is to shrink: `relu(d_positive - d_negative + margin)`",
            {"positive_close": float(known[1][0] or 0), "negative_close": float(known[1][1] or 0)},
        )


def negative_scores_rewarded(call: Call) -> Iterator[Fault]:
    """Losses of the scores of a positive and of a negative item."""
    arguments = call.case.inputs.arguments
    tensors = [i for i, a in enumerate(arguments) if isinstance(a.value, Tensor)]
    scored = [i for i in tensors if _SCORE.search(arguments[i].name)]
    if len(tensors) != 2 or scored != tensors or set(tensors) != set(call.predictions):
        return
    positive = [i for i in tensors if arguments[i].name.lower().startswith("pos")]
    negative = [i for i in tensors if arguments[i].name.lower().startswith("neg")]
    if len(positive) != 1 or len(negative) != 1:
        return
    leaves = call.case.inputs.differentiable
    up, down = leaves.index(positive[0]), leaves.index(negative[0])
    for seed in range(STARTS):
        generator = torch.Generator().manual_seed(seed)
        values = list(call.case.inputs.values)
        for i in tensors:
            shape = values[i].shape
            values[i] = torch.randn(shape, generator=generator, dtype=torch.float64)
        found = call.case.evaluate(values, dtype=torch.float64)
        if found.failed or found.value is None:
            return
        if float(found.gradient(up).min()) < 0 or float(found.gradient(down).max()) > 0:
            return
        if not bool((found.gradient(up) > 0).any() and (found.gradient(down) < 0).any()):
            return
    names = arguments[positive[0]].name, arguments[negative[0]].name
    yield Fault(
        f"the loss grows with `{names[0]}` and falls with `{names[1]}`",
        call.case.subject.location,
        "negative-rewarded",
        f"check the sign: `-F.logsigmoid({names[0]} - {names[1]})`",
        notes=(f"at all entries of {STARTS} random predictions",),
    )


def same_pairs_pushed(call: Call) -> Iterator[Fault]:
    """Two embeddings and a label whose name says whether 1 is the same pair or a different one."""
    if len(call.predictions) != 2 or len(call.targets) != 1:
        return
    first, second = sorted(call.predictions)
    (label,) = call.targets
    values = list(call.case.inputs.values)
    name = call.case.inputs.arguments[label].name
    same, different = bool(_SAME.search(name)), bool(_DIFFERENT.search(name))
    if same == different or values[first].shape != values[second].shape:
        return
    if values[first].dim() != 2 or distinct(values[label]) != (0.0, 1.0):
        return
    start = values[first].detach().double()
    values[label] = torch.full_like(values[label], 1 if same else 0)
    costs = []
    for step in (0.0, 0.1, 0.3, 1.0):
        values[first], values[second] = start, start + step / start.shape[1] ** 0.5
        found = call.case.evaluate(values, dtype=torch.float64, backward=False)
        if found.error is not None or found.value is None:
            return
        costs.append(found.scalar)
    if is_rising([-cost for cost in costs[:3]], 1e-4) and costs[3] < costs[0]:
        yield Fault(
            f"two embeddings of the same kind, as `{name}` = {1 if same else 0} says, cost more "
            "the closer they are",
            call.case.subject.location,
            "same-pair-pushed",
            "exchange the label and its complement: the same pair bears `distance ** 2`",
            {"equal": costs[0], "apart": costs[3]},
        )


def _triplet(call: Call) -> tuple[int, int, int] | None:
    arguments = call.case.inputs.arguments
    tensors = [i for i, a in enumerate(arguments) if isinstance(a.value, Tensor)]
    if len(tensors) != 3 or len({arguments[i].value.shape for i in tensors}) != 1:
        return None
    positive = [i for i in tensors if _POSITIVE.match(arguments[i].name)]
    negative = [i for i in tensors if _NEGATIVE.match(arguments[i].name)]
    if len(positive) != 1 or len(negative) != 1 or arguments[positive[0]].value.dim() < 2:
        return None
    (anchor,) = set(tensors) - {positive[0], negative[0]}
    return anchor, positive[0], negative[0]


def _value(
    call: Call, positions: tuple[int, int, int], given: tuple[Tensor, Tensor, Tensor]
) -> float | None:
    values = list(call.case.inputs.values)
    for position, value in zip(positions, given, strict=True):
        values[position] = value
    found = call.case.evaluate(values, dtype=torch.float64, backward=False)
    if found.error is not None or found.value is None:
        return None
    return found.scalar
