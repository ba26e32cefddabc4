"""What the arguments of a call are, once it is settled what the main prediction is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lossproof.checks.inference.frame import Frame
from lossproof.checks.inference.layouts import ONLY_FOR
from lossproof.checks.inference.meanings import Meaning, Slot
from lossproof.checks.natural_values import UNKNOWN, natural_value

Choice = tuple[str, float]
"""A specification or literal, and what it costs to believe in it."""


@dataclass(frozen=True)
class Unit:
    """Arguments that are chosen together, and their choices, cheapest first."""

    positions: tuple[int, ...]
    choices: tuple[tuple[tuple[str, ...], float], ...]


def _text(kind: str, shape: Sequence[int], suffix: str = "") -> str:
    return f"{kind}[{','.join(map(str, shape))}]{suffix}"


def _each(kind: str, shapes: Iterable[tuple[int, ...]], step: float) -> list[Choice]:
    """One kind in several shapes, each a step less likely than the one before."""
    return [(_text(kind, shape), step * i) for i, shape in enumerate(shapes)]


def units_of(frame: Frame) -> Iterator[Unit]:
    """All arguments of a call in this frame, together with what they are chosen with."""
    slots = frame.slots
    done = {frame.main}
    predicted = frame.predicted
    if frame.against is None:
        yield Unit((frame.main,), (((predicted,), 0.0),))
    else:
        done.add(frame.against)
        compared = _compared(frame, slots[frame.against])
        yield Unit(
            (frame.main, frame.against),
            tuple(((predicted, item), cost) for item, cost in compared),
        )
    for position, slot in enumerate(slots):
        if slot.partner is not None and slot.partner not in done and position not in done:
            done |= {position, slot.partner}
            yield _pair(frame, slot.partner, position)
    for position, slot in enumerate(slots):
        if position not in done:
            yield Unit((position,), tuple(((item,), cost) for item, cost in _other(frame, slot)))


def _compared(frame: Frame, slot: Slot) -> list[Choice]:
    """What the main prediction is compared with, in the domain of the frame."""
    kind, shape, reduced = frame.domain.compared, frame.shape, frame.reduced
    bound = f"<{frame.classes}"
    axis = frame.layout.class_axis
    if kind == "index":
        assert axis is not None
        kept = (*shape[:axis], 1, *shape[axis + 1 :])
        found = [
            (_text("int", reduced, bound), 0.0),
            (_text("int", kept, bound), 1.2 if len(shape) >= 4 else 2.2),
        ]
    elif kind == "flag":
        found = [(_text("int", shape, "<2"), 0.0)]
        if len(shape) >= 3 and shape[1] == 1:
            found.append((_text("int", (shape[0], *shape[2:]), "<2"), 0.4))
    elif kind == "class set":
        found = [(_text("int", shape, f">-2{bound}"), 0.0)]
    elif kind.endswith(" of rows"):
        kind = kind.removesuffix(" of rows")
        found = [(_text(kind, frame.rows), 0.0)] if len(shape) > 1 else []
    else:
        found = [(_text(kind, shape), 0.0)]
    return _by_documentation(frame, slot, found)


def _by_documentation(frame: Frame, slot: Slot, choices: list[Choice]) -> list[Choice]:
    """Prefer what has the documented number of axes; offer the documented shape, too."""
    shapes = [frame.sizes.shape(shape) for shape in slot.description.shapes[:3]]
    if not shapes or not choices or frame.layout.name in ONLY_FOR:
        return choices
    picks = frame.domain.compared == "index" and slot is frame.compared_slot
    if picks:  # documents that give both one shape speak of another domain
        shapes = [shape for shape in shapes if shape != frame.shape]
    ranks = {len(shape) for shape in shapes}
    priced = []
    for item, cost in choices:
        axes = item.partition("[")[2].partition("]")[0]
        fits = len([axis for axis in axes.split(",") if axis]) in ranks
        priced.append((item, cost if fits else cost + 2.0))
    first = choices[0][0]
    before, after = first.partition("[")[0], first.partition("]")[2]
    priced += [(f"{_text(before, shape)}{after}", 1.0 if picks else 0.5) for shape in shapes]
    return _cheapest_first(priced)


def _cheapest_first(choices: Iterable[Choice]) -> list[Choice]:
    """Each choice once, at its lowest cost."""
    lowest: dict[str, float] = {}
    for item, cost in choices:
        lowest[item] = min(cost, lowest.get(item, cost))
    return sorted(lowest.items(), key=lambda choice: choice[1])


def _pair(frame: Frame, prediction: int, target: int) -> Unit:
    """A further prediction and its own target."""
    n, features, classes = frame.rows[0], frame.sizes.features, frame.sizes.classes
    meaning = frame.slots[prediction].meaning
    kinds = [("float", "float")]
    shapes: list[tuple[int, ...]] = [frame.shape, (n,), (n, 1), (n, 4)]
    if meaning == "box":
        kinds, shapes = [("float", "float"), ("boxes", "boxes")], [(n, 4)]
    elif meaning == "embedding" and frame.meaning != "embedding":
        shapes = [(n, features), (n, features, 5, 5), frame.shape]
    else:
        kinds.append(("float", "binary"))
    pairs = [(_text(left, shape), _text(right, shape)) for left, right in kinds for shape in shapes]
    of_classes = (_text("float", (n, classes)), _text("int", (n,), f"<{classes}"))
    pairs.insert(0 if frame.slots[target].meaning == "labels" else len(pairs), of_classes)
    return Unit((prediction, target), tuple((pair, 0.3 * i) for i, pair in enumerate(pairs)))


def _other(frame: Frame, slot: Slot) -> list[Choice]:
    """What an argument beside prediction and target may be."""
    found = _by_documentation(frame, slot, _BY_MEANING[slot.meaning](frame, slot))
    shape, rows = frame.shape, frame.rows
    value = natural_value(slot.name, slot.annotation)
    if value is not UNKNOWN:
        found.append((repr(value), 0.0 if slot.meaning == "option" else 1.6))
    if slot.meaning == "option":
        return found or [(repr(v), 0.4 * i) for i, v in enumerate((1.0, 2, True, "mean", None))]
    fallbacks = (
        _text("float", shape), _text("float", rows), _text("int", rows, f"<{frame.classes}"),
        _text("bool", rows), "0.5", "1",
    )  # fmt: skip
    found += [(item, 3.0 + 0.2 * i) for i, item in enumerate(fallbacks)]
    return _cheapest_first(found)


def _embedding(frame: Frame, slot: Slot) -> list[Choice]:
    shape, n, features = frame.shape, frame.rows[0], frame.sizes.features
    if frame.meaning == "embedding":
        negatives = [(_text("float", (n, 3, *shape[1:])), 1.0)] if len(shape) == 2 else []
        return [(frame.predicted, 0.0), *negatives]
    floats = _each("float", ((n, features), shape, (n, features, 5, 5)), 0.4)
    return [*floats, (_text("bool", frame.rows), 0.6)]


def _distribution(frame: Frame, slot: Slot) -> list[Choice]:
    """A location or scale: of the prediction, or of a latent variable beside it."""
    kind = "positive" if slot.meaning == "scale" else "float"
    own = frame.meaning in ("location", "log scale", "scale") or frame.against is None
    beside = 0.6 if own or len(frame.shape) > 2 or len(frame.slots) < 4 else -0.3
    return [(_text(kind, frame.shape), 0.0), (_text(kind, (frame.rows[0], 4)), beside)]


def _box(frame: Frame, slot: Slot) -> list[Choice]:
    four = (frame.rows[0], 4)
    return [(_text("boxes", four), 0.0), (_text("float", four), 0.5)]


def _prediction(frame: Frame, slot: Slot) -> list[Choice]:
    n, rows = frame.rows[0], frame.rows
    if slot.meaning == "logits" and frame.meaning == "embedding":
        return _each("float", ((n, frame.classes), frame.shape), 0.5)
    if slot.meaning != frame.meaning and slot.meaning in ("probability", "log probability"):
        kind = "unit" if slot.meaning == "probability" else "logprob"
        return _each(kind, (frame.shape, rows), 0.5)
    return [(frame.predicted, 0.0), *((_text("float", s), 0.7) for s in (rows, (n, 1), (n, 4)))]


def _teacher(frame: Frame, slot: Slot) -> list[Choice]:
    return [(frame.predicted, 0.0), (_text("prob", frame.shape), 1.0)]


def _mask(frame: Frame, slot: Slot) -> list[Choice]:
    elementwise = frame.domain.compared != "index" or frame.against is None
    shapes: list[tuple[int, ...]] = [frame.reduced, frame.shape, frame.rows]
    if elementwise:
        shapes[:2] = [frame.shape, frame.reduced]
    bools = _each("bool", shapes, 0.4)
    return [*bools, *((item, cost + 0.2) for item, cost in _each("binary", shapes, 0.4))]


def _weight(frame: Frame, slot: Slot) -> list[Choice]:
    n, classes = frame.rows[0], frame.classes
    shapes = (frame.reduced, frame.rows, frame.shape, (classes,), (n, 1))
    of_a_layer = (_text("float", (classes, frame.shape[-1])), 1.5)
    return [*_each("positive", shapes, 0.2), of_a_layer]


def _class_weight(frame: Frame, slot: Slot) -> list[Choice]:
    return _each("positive", ((frame.classes,), frame.shape[-1:]), 0.5)


def _length(frame: Frame, slot: Slot) -> list[Choice]:
    longest = frame.shape[1] if len(frame.shape) > 1 else frame.rows[0]
    return [(_text("int", frame.rows, f">0<{longest + 1}"), 0.0)]


def _time(frame: Frame, slot: Slot) -> list[Choice]:
    like = frame.shape if len(frame.reduced) <= 1 or frame.shape[-1] == 1 else frame.rows
    return _each("positive", (like, frame.rows), 0.3)


def _event(frame: Frame, slot: Slot) -> list[Choice]:
    like = frame.shape if frame.shape[-1] == 1 else frame.rows
    kinds = (("binary", ""), ("bool", ""), ("int", "<2"))
    return [(_text(kind, like, bound), 0.4 * i) for i, (kind, bound) in enumerate(kinds)]


def _index(frame: Frame, slot: Slot) -> list[Choice]:
    of_classes = f"<{frame.classes}"
    return [
        (_text("int", (4,), f"<{frame.rows[0]}"), 0.0),
        (_text("int", frame.rows, of_classes), 0.3),
        (_text("int", frame.reduced, of_classes), 0.4),
    ]


def _value(frame: Frame, slot: Slot) -> list[Choice]:
    return _each("float", (frame.rows, frame.reduced), 0.2)


def _unknown(frame: Frame, slot: Slot) -> list[Choice]:
    return [(frame.predicted, 0.3), (_text("float", frame.rows), 1.0)]


def _further_target(frame: Frame, slot: Slot) -> list[Choice]:
    """A second thing to compare with: like the first, or one label for each sample."""
    index = (_text("int", frame.reduced, f"<{frame.classes}"), 0.3)
    labels = (_text("int", frame.rows, f"<{frame.classes}"), 0.5)
    same = (frame.predicted, 0.4)
    binary = (_text("binary", frame.shape), 0.9)
    rows = (_text("binary", frame.rows), 1.0)
    first = [index, labels, same] if slot.meaning == "labels" else [same, index, labels]
    return [*first, binary, rows]


_BY_MEANING: dict[Meaning, Callable[[Frame, Slot], list[Choice]]] = {
    "prediction": _prediction, "logits": _prediction, "student": _prediction,
    "probability": _prediction, "log probability": _prediction, "embedding": _embedding,
    "location": _distribution, "log scale": _distribution, "scale": _distribution, "box": _box,
    "target": _further_target, "labels": _further_target, "teacher": _teacher, "mask": _mask,
    "weight": _weight, "class weight": _class_weight, "length": _length, "time": _time,
    "event": _event, "index": _index, "value": _value, "unknown": _unknown,
    "option": lambda frame, slot: [],
}  # fmt: skip
