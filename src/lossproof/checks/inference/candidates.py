"""Candidates for the inputs of a loss, in the order of their likelihood.

A candidate is one specification for each argument. A layout and a domain settle the prediction
and what it is compared with; the other arguments follow from these, each with alternatives.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lossproof.checks.inference.code_words import Words
from lossproof.checks.inference.docstring_shapes import Shape
from lossproof.checks.inference.followers import Unit, units_of
from lossproof.checks.inference.frame import Frame
from lossproof.checks.inference.layouts import DOMAINS, LAYOUTS, ONLY_FOR, Domain, Layout
from lossproof.checks.inference.meanings import PREDICTED, Slot
from lossproof.checks.inference.plausibility import add_gains_of_names, cost_of_names, gains_of
from lossproof.checks.inference.sizes import LETTERS, Sizes, filled

CTC = ("logprob[12,3,5]", "int[3,4]>0<5", "int[3]>11<13", "int[3]>0<5")
"""Time steps before the batch, no blanks among the targets, and no target longer than its input."""


@dataclass(frozen=True)
class Candidate:
    """One specification or literal for each argument."""

    items: tuple[str, ...]
    cost: float


def candidates(slots: Sequence[Slot], words: Words) -> Iterator[Candidate]:
    """All candidates that are worth a trial, the likeliest first.

    Args:
        slots: the arguments to fill.
        words: what the code of the loss says.
    """
    if not slots:
        return
    if words.call("ctc_loss", "ctcloss") and len(slots) == 4:
        yield Candidate(CTC, -10.0)
    seen: set[tuple[str, ...]] = set()
    for candidate in _in_order(frames(slots, words)):
        if candidate.items not in seen:
            seen.add(candidate.items)
            yield candidate


def _in_order(found: Iterable[Frame]) -> Iterator[Candidate]:
    """The choices of all frames by their cost. A frame is filled in when its turn has come."""
    order = itertools.count()
    heap: list[tuple[float, int, Frame | _Filled, tuple[int, ...]]] = [
        (frame.cost, next(order), frame, ()) for frame in found
    ]
    heapq.heapify(heap)
    while heap:
        cost, _, frame, picks = heapq.heappop(heap)
        if isinstance(frame, Frame):
            filled_in = _Filled(frame, tuple(units_of(frame)))
            picks = (0,) * len(filled_in.units)
            if all(unit.choices for unit in filled_in.units):
                heapq.heappush(heap, (filled_in.cost(picks), next(order), filled_in, picks))
            continue
        yield Candidate(frame.items(picks), cost)
        for further in frame.after(picks):
            heapq.heappush(heap, (frame.cost(further), next(order), frame, further))


@dataclass(frozen=True)
class _Filled:
    """A frame with the choices for all arguments; picks say which choice of each unit is meant."""

    frame: Frame
    units: tuple[Unit, ...]

    def cost(self, picks: tuple[int, ...]) -> float:
        chosen = zip(self.units, picks, strict=True)
        return self.frame.cost + sum(unit.choices[pick][1] for unit, pick in chosen)

    def items(self, picks: tuple[int, ...]) -> tuple[str, ...]:
        found = [""] * len(self.frame.slots)
        for unit, pick in zip(self.units, picks, strict=True):
            for position, item in zip(unit.positions, unit.choices[pick][0], strict=True):
                found[position] = item
        return tuple(found)

    def after(self, picks: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """The picks that are one step further; each is reached from one side only."""
        for position, pick in enumerate(picks):
            more = pick + 1 < len(self.units[position].choices)
            if more and not any(picks[position + 1 :]):
                yield (*picks[:position], pick + 1, *picks[position + 1 :])


def frames(slots: Sequence[Slot], words: Words) -> Iterator[Frame]:
    """Every layout with every domain that it suits, each with its cost."""
    main = next((i for i, slot in enumerate(slots) if slot.meaning in PREDICTED), 0)
    against = _against(slots, main)
    gains, layout_gains = gains_of(words)
    named = cost_of_names(slots, main, against)
    add_gains_of_names(slots, main, gains, layout_gains)
    for layout in _layouts(slots[main], words):
        sizes = Sizes(words, len(layout.axes) >= 4)
        seen: set[str] = set()
        for domain in DOMAINS:
            if not _suits(layout, domain, sizes):
                continue
            cost = (
                domain.cost - gains.get(domain.name, 0.0) + named.get(domain.name, 0.0)
                + layout.cost - layout_gains.get(layout.name, 0.0)
            )  # fmt: skip
            if against is None:
                if domain.predicted in seen:
                    continue
                seen.add(domain.predicted)
            frame = Frame(layout, domain, cost, slots, sizes, main, against)
            if frame.possible:
                yield frame


def _suits(layout: Layout, domain: Domain, sizes: Sizes) -> bool:
    """Boxes have four numbers and rotations are square; their layouts are for nothing else."""
    shape = sizes.shape(layout.axes)
    if domain.name == "boxes":
        fits = layout.name == "boxes" or (layout.name == "documented" and shape[-1:] == (4,))
    elif domain.name == "rotations":
        square = len(shape) > 1 and shape[-1] == shape[-2]
        fits = layout.name == "rotations" or (layout.name == "documented" and square)
    else:
        fits = layout.name not in ONLY_FOR
    return fits


def _against(slots: Sequence[Slot], main: int) -> int | None:
    """What the main prediction is compared with."""
    for i, slot in enumerate(slots):
        if slot.partner == main:
            return i
    for meanings in (("target",), ("labels",), ("teacher",)):
        for i, slot in enumerate(slots):
            if slot.meaning in meanings and slot.partner is None and i != main:
                return i
    others = [i for i, slot in enumerate(slots) if i != main and slot.meaning != "option"]
    if len(others) == 1 and slots[others[0]].meaning in ("mask", "index", "value"):
        return others[0]
    return None


def _layouts(slot: Slot, words: Words) -> Iterator[Layout]:
    shapes = slot.description.shapes[:3]
    batched = [s for s in shapes if LETTERS["batch"].match(s[0].lower())]
    for position, shape in enumerate(dict.fromkeys((*batched, *shapes))):
        if filled(shape):
            yield _documented(shape, -2.5 + 0.3 * position)
    feature_rows = Layout("rows", ("N", "D"), 0.1, 1)
    for layout in LAYOUTS:
        if layout.name == "rows" and slot.meaning == "embedding":
            yield feature_rows
            yield replace(layout, cost=0.8)
        else:
            yield layout
    if slot.meaning != "embedding" and words.features:
        yield feature_rows
    for size in words.sizes:
        if size not in (words.classes, words.features):
            yield Layout("rows", ("N", str(size)), 2.6, 1)
            yield Layout("image", ("M", str(size), "H", "W"), 4.6, 1)


def _documented(shape: Shape, cost: float) -> Layout:
    axes = filled(shape)
    named = [i for i, axis in enumerate(axes) if i and LETTERS["classes"].match(axis.lower())]
    if named:
        class_axis: int | None = named[0]
    elif len(axes) < 2:
        class_axis = None
    else:
        class_axis = 2 if len(axes) == 3 else 1
    return Layout("documented", axes, cost, class_axis)
