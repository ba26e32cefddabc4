"""What the gradients of K terms cost: time and memory, beside the peers and the floor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.harness.study import MEMORY, TIMES, Case, Kind, Method, Step, Study
from benchmarks.terms import compiled, heads, segments
from benchmarks.terms.backwards import BACKWARDS, OURS, PLAIN, RAW

COUNTS = (2, 4, 8, 16)
MODELS = ("mlp", "mlpwide", "cnn", "transformer", "pinn")
WEIGHED = ("mlpwide", "cnn", "transformer")
"""The models on which the memory of K = 4 is measured, too."""
MAKERS: dict[str, Callable[[Case, str], Step | Callable[[], Any]]] = {
    "heads": heads.made,
    "every": heads.every_tenth,
    "segments": segments.made,
    "compiled": compiled.made,
}
LIBRARIES = {
    "TorchJD": ("torchjd", "quadprog"),
    "conflictfree": ("conflictfree",),
    "LibMTL": ("LibMTL",),
}


def make(case: Case, method: Method) -> Step | Callable[[], Any]:
    """One way to take a step of a model."""
    return MAKERS[case["kind"]](case, method.name)


def cases() -> Iterable[Case]:
    """All of the study."""
    for model in ("pinn", "mlp", "cnn", "transformer", "mlpwide"):
        for count in COUNTS:
            weighed = count == 4 and model in WEIGHED
            measures = (TIMES, MEMORY) if weighed else (TIMES,)
            yield _case("heads", model, count, heads.ways(model, count), measures)
    yield from (_case("every", model, 4, (PLAIN, OURS)) for model in MODELS)
    for model, counts in (("pinn", COUNTS), ("mlp", COUNTS), ("mlpwide", (4,))):
        for count in counts:
            yield _case("segments", model, count, segments.ways(model), baseline=segments.PLAINS)
    for count in (2, 4, 8):
        yield _case("compiled", "pinn", count, (*compiled.EAGER, *compiled.COMPILED))


def _case(
    kind: str,
    model: str,
    count: int,
    methods: tuple[str, ...],
    measures: tuple[str, ...] = (TIMES,),
    baseline: tuple[str, ...] = (),
) -> Case:
    settings = {"kind": kind, "model": model, "count": count}
    return Case(f"{kind} {model} {count}", settings, methods, measures, baseline)


def _methods() -> Iterable[Method]:
    for name in dict.fromkeys((*BACKWARDS, *segments.WAYS, *compiled.COMPILED)):
        library = name.partition(" ")[0]
        environment = compiled.ENVIRONMENT if name in compiled.COMPILED else {}
        yield Method(name, _kind(name), LIBRARIES.get(library, ()), environment)


def _kind(name: str) -> Kind:
    if name.startswith("lossproof"):
        return Kind.ours
    return Kind.plain if name.startswith((PLAIN, RAW.partition(",")[0])) else Kind.peer


STUDY = Study(
    name="terms_engine",
    title="What the engine costs",
    asks="what do the gradients of K terms cost, in time and memory, beside other libraries?",
    takes="40 min",
    cases=tuple(cases()),
    methods=tuple(_methods()),
    make=make,
    baseline=PLAIN,
    sources=tuple(
        f"benchmarks.terms.{name}"
        for name in ("heads", "segments", "compiled", "backwards", "models", "floor")
    ),
)
