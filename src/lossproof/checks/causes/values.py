"""A gradient that lacks a factor or a term, or has one too many, and which value that is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.causes.cause import Cause, Kind
from lossproof.checks.causes.paths import assigned_name, nodes_of
from lossproof.checks.causes.source import source_of
from lossproof.checks.causes.study import Study
from lossproof.checks.report import Location
from lossproof.checks.sources import excerpt
from lossproof.checks.witness import filled

Tensor = torch.Tensor

MANY = 200
"""More operations of ``forward`` than these are not tried one by one."""


@dataclass(eq=False)
class Quantity:
    """Something that has a value at every point, and a text that a reader knows it by."""

    text: str
    values: list[Tensor]
    location: Location | None = None


FORMS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("{}", lambda v: v),
    ("{}**2", lambda v: v * v),
    ("(1 - {})", lambda v: 1 - v),
    ("{}.sqrt()", torch.sqrt),
    ("torch.exp({})", torch.exp),
    ("torch.exp(-{})", lambda v: torch.exp(-v)),
    ("torch.sigmoid({})", torch.sigmoid),
    ("{0} * (1 - {0})", lambda v: v * (1 - v)),
    ("(1 - {}**2)", lambda v: 1 - v * v),
    ("{}.sign()", torch.sign),
    ("torch.log({})", torch.log),
)
PAIRS: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("({} - {})", lambda a, b: a - b),
    ("{} * {}", lambda a, b: a * b),
    ("({} + {})", lambda a, b: a + b),
    ("{} / {}", lambda a, b: a / b),
)


def quantities(study: Study) -> list[Quantity]:
    """The arguments and the values of ``forward``, each once."""
    found = [
        Quantity(study.function.name_of(i), [scene.args[i] for scene in study.scenes])
        for i, value in enumerate(study.function.args)
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    if study.derived:
        found += list(_forward_values(study))
    return found


def _forward_values(study: Study) -> Iterator[Quantity]:
    source = source_of(getattr(study.function.cls, "forward", None))
    tables: list[dict[int, Any]] = []
    for scene in study.scenes:
        assert scene.derivation is not None
        results = scene.derivation.recorder.results.values()
        tables.append({op.index: (op, value) for op, value in results})
    for index, (operation, value) in sorted(tables[0].items())[:MANY]:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if not all(index in table and table[index][0].name == operation.name for table in tables):
            continue
        place = operation.site.location
        name = assigned_name(source, place) or excerpt(place)
        yield Quantity(name, [table[index][1].detach() for table in tables], place)


def _forms(pool: Sequence[Quantity], shape: torch.Size) -> Iterator[Quantity]:
    """Every quantity and every simple function of one or two of them, in the gradient's shape."""
    fitting = []
    for quantity in pool:
        try:
            fitting.append(
                Quantity(
                    quantity.text, [v.expand(shape) for v in quantity.values], quantity.location
                )
            )
        except RuntimeError:
            continue
    for quantity in fitting:
        for pattern, function in FORMS:
            text = quantity.text if quantity.text.isidentifier() else f"({quantity.text})"
            yield Quantity(
                pattern.format(text), [function(v) for v in quantity.values], quantity.location
            )
    for one, other in itertools.permutations(fitting[:12], 2):
        for pattern, join in PAIRS:
            yield Quantity(
                pattern.format(one.text, other.text),
                [join(a, b) for a, b in zip(one.values, other.values, strict=True)],
                one.location,
            )


def factor_or_term(study: Study, k: int, pool: Sequence[Quantity]) -> Cause | None:
    """The truth times, divided by, plus or minus something that is known."""
    shape = study.truth[0][k].shape
    for quantity in _forms(pool, shape):
        if not all(bool(torch.isfinite(v).all()) for v in quantity.values):
            continue
        if float(quantity.values[0].std() if shape.numel() > 1 else 0.0) == 0:
            continue
        cause = _as_factor(study, k, quantity) or _as_term(study, k, quantity)
        if cause is not None:
            return cause
    return None


def _as_factor(study: Study, k: int, quantity: Quantity) -> Cause | None:
    name, text = study.name(k), quantity.text
    truth, claim = study.truth, study.claim
    for c in (1.0, -1.0, 2.0, 0.5):
        extra = "" if c == 1 else " and the sign is wrong" if c == -1 else f", times {c:g}"
        if study.explains(k, (c * truth[s][k] * quantity.values[s] for s in study.points)):
            return Cause(
                Kind.EXTRA_FACTOR,
                f"the gradient of `{name}` has a factor `{text}` too many{extra}",
                help=f"leave out the factor `{text}`",
                related=_place(quantity),
            )
        if all(
            bool((quantity.values[s] != 0).all())
            and study.same(c * truth[s][k] / quantity.values[s], s, k)
            for s in range(len(claim))
        ):
            return Cause(
                Kind.MISSING_FACTOR,
                f"the gradient of `{name}` lacks a factor `{text}`{extra}",
                help=f"multiply it by `{text}`",
                related=_place(quantity),
            )
    return None


def _as_term(study: Study, k: int, quantity: Quantity) -> Cause | None:
    difference = study.claim[0][k] - study.truth[0][k]
    square = float((quantity.values[0] ** 2).sum())
    if square == 0:
        return None
    c = float((difference * quantity.values[0]).sum()) / square
    if abs(c) < 1e-12 or not study.explains(
        k, (study.truth[s][k] + c * quantity.values[s] for s in study.points)
    ):
        return None
    text = (
        quantity.text
        if c == 1
        else f"-{quantity.text}"
        if c == -1
        else f"{c:.6g} * {quantity.text}"
    )
    return Cause(
        Kind.EXTRA_TERM,
        f"the gradient of `{study.name(k)}` has a term `{text}` too many",
        help=f"leave out the term `{text}`",
        related=_place(quantity),
    )


def _place(quantity: Quantity) -> tuple[tuple[str, Location], ...]:
    if quantity.location is None:
        return ()
    return (("the value", quantity.location),)


# ---------------------------------------------------------------------- the chain rule
def chain_rule(study: Study, k: int) -> Cause | None:
    """The derivative of one operation of ``forward`` left out, or multiplied in twice."""
    if not study.derived:
        return None
    graphs = [nodes_of(s.derivation) for s in study.scenes if s.derivation is not None]
    if any([n.name() for n in g] != [n.name() for n in graphs[0]] for g in graphs):
        return None
    recorder = study.scenes[0].derivation.recorder  # type: ignore[union-attr]
    for order, node in enumerate(graphs[0][:MANY]):
        operation = recorder.nodes.get(node)
        if operation is None:
            continue
        for words, mend, change in LOCAL:
            for sign in (1, -1):
                changed = (
                    _times(_changed(study, k, s, graphs[s][order], change), sign)
                    for s in study.points
                )
                if study.explains(k, changed):
                    place = operation.site.location
                    text = excerpt(place)
                    also = ", and the sign is wrong" if sign < 0 else ""
                    return Cause(
                        Kind.CHAIN_RULE,
                        f"the derivative of `{text}` {words} in the gradient of "
                        f"`{study.name(k)}`{also}",
                        help=f"{mend} the derivative of `{text}`",
                        related=() if place is None else (("the operation", place),),
                    )
    return None


def _left_out(inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> Any:
    gradient = outputs[0]
    assert gradient is not None
    return tuple(None if g is None else _fitted(gradient, g) for g in inputs)


def _twice(inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> Any:
    gradient = outputs[0]
    assert gradient is not None
    return tuple(
        g if g is None or g.shape != gradient.shape else torch.where(g == 0, g, g * g / gradient)
        for g in inputs
    )


LOCAL = (
    ("is left out", "multiply by", _left_out),
    ("is multiplied in twice", "divide by", _twice),
)


def _fitted(gradient: Tensor, like: Tensor) -> Tensor:
    if gradient.shape == like.shape:
        return gradient
    if gradient.dim() >= like.dim() and gradient.numel() >= like.numel():
        return gradient.sum_to_size(like.shape)
    return gradient.expand(like.shape)


def _changed(study: Study, k: int, s: int, node: Any, change: Callable[..., Any]) -> Tensor | None:
    derivation = study.scenes[s].derivation
    assert derivation is not None
    handle = node.register_hook(change)
    try:
        found = derivation.gradient(study.upstream[s][k])
    except Exception:  # the shapes do not allow it
        return None
    finally:
        handle.remove()
    return filled(found, study.scenes[s].point)[k]


def _times(tensor: Tensor | None, sign: int) -> Tensor | None:
    return None if tensor is None else sign * tensor
