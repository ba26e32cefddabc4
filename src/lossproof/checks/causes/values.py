"""A gradient that lacks a factor or a term, or has one too many, and which value that is."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from lossproof.checks.causes.cause import Cause, Kind
from lossproof.checks.causes.edits import Piece
from lossproof.checks.causes.needed import Pool
from lossproof.checks.causes.paths import assigned_name, nodes_of
from lossproof.checks.causes.source import source_of
from lossproof.checks.causes.study import Study
from lossproof.checks.sources import excerpt
from lossproof.checks.witness import filled

Tensor = torch.Tensor

MANY = 200
"""More operations of ``forward`` than these are not tried one by one."""
MULTIPLES = (1.0, -1.0, 2.0, 0.5)


def quantities(study: Study) -> list[Piece]:
    """The arguments and the values of ``forward``, each once."""
    found: dict[str, Piece] = {}
    for text, values in _valued(study):
        try:
            node = ast.parse(text, mode="eval").body
        except SyntaxError:  # an excerpt that is a part of an expression only
            continue
        found.setdefault(text, Piece(node, values, 0))
    return list(found.values())


def _valued(study: Study) -> Iterator[tuple[str, list[Tensor]]]:
    for i, value in enumerate(study.function.args):
        if isinstance(value, Tensor) and value.is_floating_point():
            yield study.function.name_of(i), [scene.args[i] for scene in study.scenes]
    if study.derived:
        yield from _forward_values(study)


def _forward_values(study: Study) -> Iterator[tuple[str, list[Tensor]]]:
    source = source_of(getattr(study.function.cls, "forward", None))
    tables: list[dict[int, Any]] = []
    for scene in study.scenes:
        assert scene.derivation is not None
        results = scene.derivation.recorder.results.values()
        tables.append({operation.index: (operation, value) for operation, value in results})
    for index, (operation, value) in sorted(tables[0].items())[:MANY]:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if not all(index in table and table[index][0].name == operation.name for table in tables):
            continue
        place = operation.site.location
        if place is None:
            continue
        text = assigned_name(source, place) or excerpt(place)
        yield text, [table[index][1].detach() for table in tables]


def factor_or_term(study: Study, k: int, known: Sequence[Piece]) -> Cause | None:
    """The truth times, divided by, plus or minus something that is known."""
    pool = Pool(known, [truth[k].shape for truth in study.truth])
    truth = [truth[k] for truth in study.truth]
    claim = [claim[k] for claim in study.claim]
    pairs = list(zip(truth, claim, strict=True))
    matters = [(t != 0) & (c != 0) for t, c in pairs]
    everywhere = [torch.ones_like(t, dtype=torch.bool) for t in truth]
    for multiple in MULTIPLES:
        for kind, wanted, where in (
            (Kind.EXTRA_FACTOR, [c / t / multiple for t, c in pairs], matters),
            (Kind.MISSING_FACTOR, [t / c * multiple for t, c in pairs], matters),
            (Kind.EXTRA_TERM, [(c - t) / multiple for t, c in pairs], everywhere),
        ):
            if not all(bool(mask.any()) for mask in where):
                continue
            for row in pool.find(wanted, where):
                piece = pool.piece(row, len(truth))
                if _holds(study, k, kind, multiple, piece):
                    return _cause(study.name(k), kind, multiple, piece.text)
    return None


def _holds(study: Study, k: int, kind: Kind, multiple: float, piece: Piece) -> bool:
    truth = [truth[k] for truth in study.truth]
    if piece.values[0].numel() > 1 and float(piece.values[0].std()) == 0:
        return False  # a constant is no value of its own: see `factors`
    if kind is Kind.EXTRA_FACTOR:
        found = (multiple * t * v for t, v in zip(truth, piece.values, strict=True))
    elif kind is Kind.MISSING_FACTOR:
        found = (multiple * t / v for t, v in zip(truth, piece.values, strict=True))
    else:
        found = (t + multiple * v for t, v in zip(truth, piece.values, strict=True))
    return study.explains(k, found)


def _cause(name: str, kind: Kind, multiple: float, text: str) -> Cause:
    term = text if multiple == 1 else f"-{text}" if multiple == -1 else f"{multiple:g} * {text}"
    if kind is Kind.EXTRA_TERM:
        return Cause(
            kind, f"the gradient of `{name}` has a term `{term}` too many",
            help=f"leave out the term `{term}`",
        )  # fmt: skip
    also = "" if multiple == 1 else ", and the sign is wrong" if multiple == -1 else (
        f", and is {multiple:g} times what it should be besides"
    )  # fmt: skip
    if kind is Kind.EXTRA_FACTOR:
        return Cause(
            kind, f"the gradient of `{name}` has a factor `{text}` too many{also}",
            help=f"leave out the factor `{text}`",
        )  # fmt: skip
    return Cause(
        kind, f"the gradient of `{name}` lacks a factor `{text}`{also}",
        help=f"multiply it by `{text}`",
    )  # fmt: skip


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
                    text = f"{operation.name}(...)" if place is None else excerpt(place)
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
