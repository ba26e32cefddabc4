"""The page of the studies of `terms`, made from their results, and the summaries they print."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.harness import results
from benchmarks.terms.models import MODELS
from benchmarks.terms.targets import Aim, aims

Case = dict[str, Any]
PAPER = {"plain": "1.94e-1 ± 3.91e-2", "annealed": "1.44e-2 ± 6.37e-3"}
"""SISC 43(5), Table 3, 3 layers of 50: mean and standard deviation of ten trials."""


def write_page() -> None:
    """Write the page from the results that there are."""
    print(results.save_page("terms", page(read("engine"), read("helmholtz"), read("weights"))))


def read(study: str) -> dict[str, Any] | None:
    """The results of a study, if it was run."""
    path = results.RESULTS / f"terms_{study}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def page(
    engine: dict[str, Any] | None, helmholtz: dict[str, Any] | None, weights: dict[str, Any] | None
) -> Iterable[str]:
    """The page of the studies."""
    yield "# The gradients of the terms, and weights from them"
    if engine:
        yield "## What the engine costs"
        yield results.setting(engine)
        yield "Versions: " + ", ".join(f"{k} {v}" for k, v in engine["versions"].items()) + "."
        yield from engine_blocks(engine["cases"])
        yield "`python -m benchmarks.terms.engine` makes these tables."
    if helmholtz:
        yield "## What the balancers reach on the Helmholtz problem"
        yield results.setting(helmholtz)
        yield from helmholtz_blocks(helmholtz)
        yield "`python -m benchmarks.terms.helmholtz` makes this table."
    if weights:
        yield "## Weights from a Gramian"
        yield results.setting(weights)
        yield "Versions: " + ", ".join(f"{k} {v}" for k, v in weights["versions"].items()) + "."
        yield from weights_blocks(weights)
        yield "`python -m benchmarks.terms.weights` makes these tables."


# ---- the engine


def engine_summary(cases: Sequence[Case]) -> str:
    """The tables of the engine, as text."""
    return "\n\n".join(engine_blocks(cases))


def engine_blocks(cases: Sequence[Case]) -> Iterable[str]:
    """The tables of the engine."""
    yield (
        "Processor time of one thread; all ways take turns in one process, and a quotient is the "
        "median of the rounds' quotients, with its quartiles. K heads stand on one trunk, each "
        "with a term of its own. *Plain* is the backward pass of the sum."
    )
    found = list(aims(cases))
    if found:
        yield results.table(
            ("what", "aim", "lossproof", "reached", "best peer", "which"),
            [_aim_row(aim) for aim in found],
        )
    for model, size in MODELS.items():
        heads = [c for c in cases if c["kind"] == "heads" and c["model"] == model]
        if heads:
            yield f"### Backward pass over the plain one: {model} ({size})"
            yield _heads_table(heads)
            yield from _said_of(heads)
    for model in MODELS:
        segments = [c for c in cases if c["kind"] == "segments" and c["model"] == model]
        if segments:
            yield f"### Terms on disjoint samples, whole step over the best plain one: {model}"
            yield _ratios_table(segments, "step")
    every = [c for c in cases if c["kind"] == "every"]
    if every:
        yield "### Ten steps with `every=10`, over ten plain ones"
        yield results.table(
            ("model", "K", "lossproof UPGrad"),
            [(c["model"], c["count"], shown(c["step"]["lossproof UPGrad"])) for c in every],
        )
    compiled = [c for c in cases if c["kind"] == "compiled"]
    if compiled:
        yield "### Compiled, whole step over the plain eager one: pinn"
        yield _ratios_table(compiled, "step")
        first = [case["first_call_s"] for case in compiled]
        yield "The first call, which compiles: " + "; ".join(
            f"{name} " + ", ".join(f"{times[name]:.0f}" for times in first) + " s"
            for name in first[0]
        )
        worst = max(case["deviation"] for case in compiled)
        yield f"Compiled and eager gradients of lossproof agree to a relative {worst:.0e}."
    memory = [c for c in cases if c["kind"] == "memory"]
    if memory:
        yield "### The most memory of a step above the resident model, K = 4"
        yield _memory_table(memory)


def _aim_row(aim: Aim) -> tuple[Any, ...]:
    peer = "-" if aim.peer is None else f"{aim.peer:.2f}"
    return (
        aim.what, f"{aim.aim:.2f}", f"{aim.ours:.2f}", "yes" if aim.reached else "no",
        peer, aim.peer_name,
    )  # fmt: skip


def _heads_table(cases: Sequence[Case]) -> str:
    floors = {
        "*fewest operations: K gradients*": "gradients",
        "*fewest operations: K gradients and a second pass*": "second_pass",
        "*fewest operations: one pass for Gramian and sum*": "one_pass",
    }
    rows: list[tuple[Any, ...]] = [
        (name, *(f"{case['floors'][key]:.2f}" for case in cases)) for name, key in floors.items()
    ]
    rows += _ratio_rows(cases, "backward")
    plain = [f"{case['backward']['plain']['median_ms']:.2f}" for case in cases]
    rows.append(("plain, ms", *plain))
    return results.table(("way", *(f"K = {case['count']}" for case in cases)), rows)


def _ratios_table(cases: Sequence[Case], part: str) -> str:
    header = ("way", *(f"K = {case['count']}" for case in cases))
    return results.table(header, _ratio_rows(cases, part))


def _ratio_rows(cases: Sequence[Case], part: str) -> list[tuple[Any, ...]]:
    names = dict.fromkeys(name for case in cases for name in case[part])
    return [(name, *(shown(case[part].get(name)) for case in cases)) for name in names]


def _said_of(cases: Sequence[Case]) -> Iterable[str]:
    worst = max(case["deviation"] for case in cases)
    yield (
        "The gradient of lossproof is the weighted sum of the gradients taken one by one, to a "
        f"relative {worst:.0e} in each parameter."
    )
    for case in cases:
        for name, said in case["failed"].items():
            yield f"{name} fails at K = {case['count']}: `{said}`"


def _memory_table(cases: Sequence[Case]) -> str:
    models = list(dict.fromkeys(case["model"] for case in cases))
    ways = dict.fromkeys(case["way"] for case in cases)
    by_key = {(case["way"], case["model"]): case for case in cases}
    rows = [(way, *(_memory(by_key.get((way, model))) for model in models)) for way in ways]
    return results.table(("way", *(f"{model}: MB (gradients)" for model in models)), rows)


def _memory(case: Case | None) -> str:
    if case is None:
        return "-"
    if "failed" in case:
        return "fails"
    return f"{case['peak_mb']:.1f} ({case['gradients']:.1f})"


def shown(quotient: dict[str, Any] | None) -> str:
    """A quotient with its quartiles."""
    if quotient is None:
        return "-"
    low, high = quotient["quartiles"]
    return f"{quotient['ratio']:.2f} ({low:.2f} - {high:.2f})"


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


def weights_blocks(data: dict[str, Any]) -> Iterable[str]:
    """The tables of the weights."""
    counts = list(data["methods"][0]["times"]) if data["methods"] else []
    yield "Milliseconds of a call, lossproof / TorchJD:"
    yield results.table(
        ("method", *(f"K = {count}" for count in counts)),
        [
            (m["method"], *(_milliseconds(m["times"][count]) for count in counts))
            for m in data["methods"]
        ],
    )
    yield (
        "The least cosine between the combined gradient and that of a term, over "
        f"{data['draws']} draws of 2 to 5 float32 gradients, every other one against the rest, "
        "times the scale; below 0 the update harms a term, which Aligned-MTL and CAGrad (with c at "
        "0.5) do not rule out:"
    )
    yield results.table(
        ("method", "library", *(f"{scale:.0e}" for scale in data["scales"])),
        [
            (m["method"], library, *(_cosine(x) for x in m["least_cosine"][library]))
            for m in data["methods"]
            for library in ("lossproof", "TorchJD")
        ],
        texts=2,
    )


def _milliseconds(answer: dict[str, Any]) -> str:
    calls = answer["calls"]
    return " / ".join(
        f"{calls[name]['median_ms']:.2f}" if name in calls else "-"
        for name in ("lossproof", "TorchJD")
    )


def _cosine(found: float | str) -> str:
    return found if isinstance(found, str) else f"{round(found, 3) + 0.0:.3f}"  # no -0.000
