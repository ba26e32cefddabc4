"""Time and memory of the twelve most used losses, forward and backward, beside other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.catalogue.speed_cases import CASES
from benchmarks.catalogue.speed_cases import Case as Loss
from benchmarks.harness import floors, results
from benchmarks.harness.plots import Picture
from benchmarks.harness.study import WHOLE, Case, Kind, Method, Step, Study
from benchmarks.harness.tables import (
    again,
    fact,
    number,
    of_columns,
    over_fastest_peer,
    pictures,
    remarks,
    setting,
    shown,
    spread,
)  # fmt: skip

OURS, OURS_COMPILED = "lossproof", "lossproof, compiled"
PLAIN, PLAIN_COMPILED = "plain formula", "plain formula, compiled"
FLOOR = "floor"
OWN = {
    OURS: Kind.ours, OURS_COMPILED: Kind.ours, PLAIN: Kind.plain, PLAIN_COMPILED: Kind.plain,
    FLOOR: Kind.floor,
}  # fmt: skip


def make(case: Case, method: Method) -> Step | Callable[[], Any]:
    """A loss of a library, and its gradients."""
    import torch

    (loss,) = [loss for loss in CASES if loss.name == case.name]
    wanted, others = loss.draw()
    if method.name == FLOOR:
        gradient = sum(w.nbytes for w in wanted)
        moved = floors.moved(2 * gradient + sum(o.nbytes for o in others))
        return Step({WHOLE: moved}, facts=lambda: {"gradient_mb": round(gradient / 2**20, 1)})
    call = called(loss, method.name)
    leaves = [w.clone().requires_grad_() for w in wanted]

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None

    def value() -> dict[str, float]:
        with torch.no_grad():
            return {"value": float(call(*leaves, *others).sum())}

    return Step({WHOLE: lambda: call(*leaves, *others).sum().backward()}, clear, value)


def called(loss: Loss, name: str) -> Callable[..., Any]:
    """An implementation of a loss."""
    import torch

    own = {OURS: loss.ours, PLAIN: loss.plain}
    if name in own:
        return own[name]
    if name in (OURS_COMPILED, PLAIN_COMPILED):
        return torch.compile(own[OURS if name == OURS_COMPILED else PLAIN], fullgraph=True)
    return loss.peers[name]()


def _methods() -> Iterable[Method]:
    yield from (Method(name, kind) for name, kind in OWN.items())
    for name in dict.fromkeys(name for loss in CASES for name in loss.peers):
        yield Method(name, needs=(name.partition(" ")[0],))


def page(data: dict[str, Any]) -> Iterable[str | Picture]:
    """The page of the study."""
    cases = data["cases"]
    yield "# The speed of the catalogue"
    yield (
        "Forward and backward on one thread, in processor time; all implementations of a loss take "
        "turns. *Plain* is the formula of `benchmarks/catalogue/plain_formulas.py` under "
        "`torch.compile(fullgraph=True)`. The floor is the time to read the inputs once and to "
        "write the gradient once at the bandwidth of a copy. A quotient is the median of the "
        "rounds' quotients, with its quartiles. MB are of 2^20 bytes, above the start of a step."
    )
    yield from setting(data)
    yield results.table(
        ("loss", "size", "eager / plain compiled", "compiled / plain compiled",
         "eager / fastest other", "plain compiled / floor"),
        [_summary(case) for case in cases],
        texts=2,
    )  # fmt: skip
    for case in cases:
        yield f"## {case['case']}, {case['settings']['size']}"
        yield _table(case)
        yield from remarks(case)
        gradient = case["methods"][FLOOR]["facts"]["gradient_mb"]
        yield f"The gradient takes {number(gradient)} MB."
    yield from pictures(data)
    yield again(data)


def _summary(case: dict[str, Any]) -> tuple[str, ...]:
    methods = case["methods"]
    return (
        f"`{case['case']}`", case["settings"]["size"], spread(methods[OURS], "ratio"),
        spread(methods[OURS_COMPILED], "ratio"), over_fastest_peer(methods[OURS]),
        f"{_median(methods[PLAIN_COMPILED]) / _median(methods[FLOOR]):.0f}",
    )  # fmt: skip


def _table(case: dict[str, Any]) -> str:
    floor = _median(case["methods"][FLOOR])
    measured = {k: m for k, m in case["methods"].items() if "processor_ms" in m and k != FLOOR}
    ranked = dict(sorted(measured.items(), key=lambda item: _median(item[1])))
    rows = ranked.values()
    return of_columns(
        "implementation", list(ranked),
        {
            "ms": [shown(m["processor_ms"][WHOLE]) for m in rows],
            "x floor": [f"{_median(m) / floor:.0f}" for m in rows],
            "live MB": [number(m.get("live_mb")) for m in rows],
            "resident MB": [number(m.get("resident_mb")) for m in rows],
            "value": [fact(m["facts"]["value"]) for m in rows],
        },
    )  # fmt: skip


def _median(figures: dict[str, Any]) -> float:
    median: float = figures["processor_ms"][WHOLE]["median"]
    return median


STUDY = Study(
    name="catalogue_speed",
    title="The speed of the catalogue",
    asks="how fast are our losses, beside the copies, the plain formula compiled, and the memory?",
    takes="40 min",
    cases=tuple(
        Case(loss.name, {"size": loss.size}, methods=(*OWN, *loss.peers)) for loss in CASES
    ),
    methods=tuple(_methods()),
    make=make,
    baseline=PLAIN_COMPILED,
    seconds=60.0,
    sources=("benchmarks.catalogue.speed_cases", "benchmarks.catalogue.plain_formulas"),
    page=page,
)
