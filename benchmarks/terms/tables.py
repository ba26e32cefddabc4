"""The page of the studies of `terms`, made from their results, and the summaries they print."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.harness import results
from benchmarks.harness.tables import (
    memory_table,
    number,
    ratio_table,
    remarks,
    setting,
    spread,
)
from benchmarks.terms.backwards import OURS
from benchmarks.terms.models import MODELS
from benchmarks.terms.targets import Aim, aims, in_gradients
from benchmarks.terms.weights import DRAWS, PEER, SCALES
from benchmarks.terms.weights import OURS as OUR_WEIGHTS

Entry = dict[str, Any]
PAPER = {"plain": "1.94e-1 ± 3.91e-2", "annealed": "1.44e-2 ± 6.37e-3"}
"""SISC 43(5), Table 3, 3 layers of 50: mean and standard deviation of ten trials."""


def page(
    engine: dict[str, Any] | None, helmholtz: dict[str, Any] | None, weights: dict[str, Any] | None
) -> Iterable[str]:
    """The page of the studies."""
    yield "# The gradients of the terms, and weights from them"
    if engine:
        yield "## What the engine costs"
        yield from setting(engine)
        yield from engine_blocks(engine["cases"])
        yield "`python -m benchmarks terms_engine` makes these tables."
    if helmholtz:
        yield "## What the balancers reach on the Helmholtz problem"
        yield results.setting(helmholtz)
        yield from helmholtz_blocks(helmholtz)
        yield "`python -m benchmarks terms_helmholtz` makes this table."
    if weights:
        yield "## Weights from a Gramian"
        yield from setting(weights)
        yield from weights_blocks(weights["cases"])
        yield "`python -m benchmarks terms_weights` makes these tables."


# ---- the engine


def engine_blocks(cases: Sequence[Entry]) -> Iterable[str]:
    """The tables of the engine."""
    yield (
        "Processor time of one thread; all ways take turns, and a quotient is the median of the "
        "rounds' quotients, with its quartiles. K heads stand on one trunk, each with a term of "
        "its own. *Plain* is the backward pass of the sum."
    )
    found = list(aims(cases))
    if found:
        yield results.table(
            ("what", "aim", "lossproof", "reached", "best peer", "which"),
            [_aim_row(aim) for aim in found],
        )
    for model, size in MODELS.items():
        heads = _chosen(cases, "heads", model)
        if heads:
            yield f"### Backward pass over the plain one: {model} ({size})"
            yield _heads_table(heads)
            yield from _said_of(heads)
    for model in MODELS:
        segments = _chosen(cases, "segments", model)
        if segments:
            yield f"### Terms on disjoint samples, whole step over the best plain one: {model}"
            yield ratio_table(segments, _counts(segments))
            yield from (said for case in segments for said in remarks(case))
    every = _chosen(cases, "every")
    if every:
        yield "### Ten steps with `every=10`, over ten plain ones"
        yield results.table(
            ("model", "K", OURS),
            [_every_row(case) for case in every],
        )
    compiled = _chosen(cases, "compiled")
    if compiled:
        yield "### Compiled, whole step over the plain eager one: pinn"
        yield ratio_table(compiled, _counts(compiled))
        yield from _of_compiled([case["methods"] for case in compiled])
    memory = [case for case in cases if "resident_mb" in case["methods"].get(OURS, {})]
    if memory:
        yield "### The most memory of a step above the resident model, K = 4"
        yield from _memory(memory)


def _every_row(case: Entry) -> tuple[Any, ...]:
    settings = case["settings"]
    return settings["model"], settings["count"], spread(case["methods"][OURS], "ratio")


def _chosen(cases: Sequence[Entry], kind: str, model: str = "") -> list[Entry]:
    settings = [(case, case["settings"]) for case in cases]
    return [c for c, s in settings if s["kind"] == kind and model in ("", s["model"])]


def _counts(cases: Sequence[Entry]) -> list[str]:
    return [f"K = {case['settings']['count']}" for case in cases]


def _aim_row(aim: Aim) -> tuple[Any, ...]:
    peer = "-" if aim.peer is None else f"{aim.peer:.2f}"
    return (
        aim.what, f"{aim.aim:.2f}", f"{aim.ours:.2f}", "yes" if aim.reached else "no",
        peer, aim.peer_name,
    )  # fmt: skip


def _heads_table(cases: Sequence[Entry]) -> str:
    floors = {
        "*fewest operations: K gradients*": "gradients",
        "*fewest operations: K gradients and a second pass*": "second_pass",
        "*fewest operations: one pass for Gramian and sum*": "one_pass",
    }
    plain = [case["methods"]["plain"] for case in cases]
    above = [
        (name, *(number(way["facts"]["floors"][key]) for way in plain))
        for name, key in floors.items()
    ]
    below = ("plain, ms", *(number(way["processor_ms"]["backward"]["median"]) for way in plain))
    lines = ratio_table(cases, _counts(cases), "backward").splitlines()
    return "\n".join([*lines[:2], *results.rows_of(above), *lines[2:], *results.rows_of([below])])


def _said_of(cases: Sequence[Entry]) -> Iterable[str]:
    worst = max(case["methods"][OURS]["facts"]["deviation"] for case in cases)
    yield (
        "The gradient of lossproof is the weighted sum of the gradients taken one by one, to a "
        f"relative {worst:.0e} in each parameter."
    )
    yield from (said for case in cases for said in remarks(case))


def _of_compiled(cases: Sequence[Entry]) -> Iterable[str]:
    names = [name for name in cases[0] if name.endswith(", compiled")]
    yield "The first call, which compiles: " + "; ".join(
        f"{name} " + ", ".join(f"{case[name]['first_call_s']:.0f}" for case in cases) + " s"
        for name in names
    )
    worst = max(case[f"{OURS}, compiled"]["facts"]["deviation"] for case in cases)
    yield f"Compiled and eager gradients of lossproof agree to a relative {worst:.0e}."


def _memory(cases: Sequence[Entry]) -> Iterable[str]:
    titles = [f"{case['settings']['model']}: MB (gradients)" for case in cases]
    names = dict.fromkeys(name for case in cases for name in case["methods"])
    yield results.table(
        ("way", *titles), [(name, *(_peak(case, name) for case in cases)) for name in names]
    )
    if any("live_mb" in case["methods"][OURS] for case in cases):
        yield "The same as torch counts its own bytes, in MB:"
        yield memory_table(cases, [case["settings"]["model"] for case in cases])


def _peak(case: Entry, name: str) -> str:
    figures = case["methods"].get(name, {})
    if "resident_mb" in figures:
        return f"{figures['resident_mb']:.1f} ({in_gradients(case, name):.1f})"
    return "fails" if "failed" in figures else "-"


# ---- Helmholtz


def helmholtz_figures(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the seeds of each method say together."""
    methods = dict.fromkeys(run["method"] for run in runs)
    figures = {}
    for method in methods:
        own = [run for run in runs if run["method"] == method]
        errors = [run["error"] for run in own]
        figures[method] = {
            "seeds": len(errors),
            "mean": statistics.fmean(errors),
            "deviation": statistics.stdev(errors) if len(errors) > 1 else None,
            "median": statistics.median(errors),
            "least": min(errors),
            "most": max(errors),
            "cpu_seconds": round(statistics.median(run["cpu_seconds"] for run in own), 1),
        }
    return figures


def helmholtz_blocks(data: dict[str, Any]) -> Iterable[str]:
    """The table of the Helmholtz problem."""
    figures = data["figures"]
    yield (
        f"Relative L2 error of u after training ({data['settings']}), mean and standard deviation "
        "over the seeds. The methods of one seed start from the same network and see the same "
        "points. The paper is Wang, Teng & Perdikaris (2021), SIAM J. Sci. Comput. 43(5), Table 3, "
        "ten trials."
    )
    order = sorted(figures, key=lambda m: (m != "plain", m != "annealed", figures[m]["mean"]))
    yield results.table(
        ("method", "error", "median", "least", "most", "seeds", "paper", "processor s"),
        [_helmholtz_row(method, figures[method]) for method in order],
    )
    yield (
        "Processor seconds are those of a machine with other work on it. The runs were made while "
        "the library grew: `benchmarks/results/terms_helmholtz.json` has the state of the source "
        "beside each."
    )


def _helmholtz_row(method: str, f: dict[str, Any]) -> tuple[Any, ...]:
    spread = "" if f["deviation"] is None else f" ± {_short(f['deviation'])}"
    return (
        method, _short(f["mean"]) + spread, _short(f["median"]), _short(f["least"]),
        _short(f["most"]), f["seeds"], PAPER.get(method, "-"), f"{f['cpu_seconds']:.0f}",
    )  # fmt: skip


def _short(number: float) -> str:
    mantissa, _, exponent = f"{number:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


# ---- weights


def weights_blocks(cases: Sequence[Entry]) -> Iterable[str]:
    """The tables of the weights."""
    counts = list(dict.fromkeys(case["settings"]["count"] for case in cases))
    by_method: dict[str, list[Entry]] = {}
    for case in cases:
        by_method.setdefault(case["settings"]["method"], []).append(case["methods"])
    yield "Milliseconds of a call, lossproof / TorchJD:"
    yield results.table(
        ("method", *(f"K = {count}" for count in counts)),
        [(name, *(_milliseconds(entry) for entry in own)) for name, own in by_method.items()],
    )
    yield (
        "The least cosine between the combined gradient and that of a term, over "
        f"{DRAWS} draws of 2 to 5 float32 gradients, every other one against the rest, "
        "times the scale; below 0 the update harms a term, which Aligned-MTL and CAGrad (with c at "
        "0.5) do not rule out:"
    )
    yield results.table(
        ("method", "library", *(f"{scale:.0e}" for scale in SCALES)),
        [
            (name, library, *_cosines(own[0].get(library, {})))
            for name, own in by_method.items()
            for library in (OUR_WEIGHTS, PEER)
        ],
        texts=2,
    )


def _milliseconds(entry: Entry) -> str:
    return " / ".join(
        f"{entry[name]['processor_ms']['step']['median']:.2f}"
        if "processor_ms" in entry.get(name, {})
        else "-"
        for name in (OUR_WEIGHTS, PEER)
    )


def _cosines(figures: Entry) -> list[str]:
    if "facts" not in figures:
        return ["-"] * len(SCALES)
    return [_cosine(found) for found in figures["facts"]["least_cosine"]]


def _cosine(found: float | str) -> str:
    return found if isinstance(found, str) else f"{round(found, 3) + 0.0:.3f}"  # no -0.000
