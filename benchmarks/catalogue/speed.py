"""Time and memory of the twelve most used losses, forward and backward, beside other libraries.

``python -m benchmarks.catalogue.speed`` (``--help`` lists the options). Every loss has a process of
its own, in which all implementations take turns; times are the processor's, of one thread.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.harness import results

ROUNDS = 15
SECONDS = 40.0
"""After so long no new round begins."""
STATUS = Path("/proc/self/status")
LIBRARIES = (
    "torchvision", "kornia", "monai", "segmentation-models-pytorch", "pytorch-toolbelt", "timm",
    "lightly", "pytorch-metric-learning", "pytorch-msssim", "piq", "torchmetrics",
)  # fmt: skip
OURS, OURS_COMPILED = "lossproof", "lossproof, compiled"
PLAIN, PLAIN_COMPILED = "plain formula", "plain formula, compiled"
OWN = (OURS, OURS_COMPILED, PLAIN, PLAIN_COMPILED)


def measured(name: str) -> dict[str, Any]:
    """All implementations of one loss, in turns."""
    from benchmarks.catalogue.speed_cases import CASES

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    (case,) = [case for case in CASES if case.name == name]
    torch.manual_seed(0)
    wanted, others = case.draw()
    losses: dict[str, Callable[..., Any]] = {
        OURS: case.ours,
        OURS_COMPILED: torch.compile(case.ours, fullgraph=True),
        PLAIN: case.plain,
        PLAIN_COMPILED: torch.compile(case.plain, fullgraph=True),
    }
    absent = []
    for library, make in case.peers.items():
        try:
            losses[library] = make()
        except ImportError:
            absent.append(library)
    steps = {
        name: _step(loss, [w.clone().requires_grad_() for w in wanted], others)
        for name, loss in losses.items()
    }
    values = {name: step() for name, step in steps.items()}
    memory = {name: _peak_megabytes(step) for name, step in steps.items()}
    times = _in_turns(steps)
    moved = 2 * sum(w.nbytes for w in wanted) + sum(o.nbytes for o in others)
    return {
        "loss": case.name,
        "size": case.size,
        "floor_ms": round(1000 * moved / _bandwidth(), 3),
        "gradient_mb": round(sum(w.nbytes for w in wanted) / 1e6, 1),
        "absent": absent,
        "implementations": {
            name: {
                "value": values[name],
                "peak_mb": memory[name],
                "rounds": len(taken),
                "median_ms": round(1000 * statistics.median(taken), 3),
                "quartiles_ms": [round(1000 * q, 3) for q in _quartiles(taken)],
                "least_ms": round(1000 * min(taken), 3),
            }
            for name, taken in times.items()
        },
        **_ratios(times),
    }


def _step(
    loss: Callable[..., Any], leaves: list[torch.Tensor], others: Iterable[torch.Tensor]
) -> Callable[[], float]:
    def step() -> float:
        for leaf in leaves:
            leaf.grad = None
        value = loss(*leaves, *others)
        value.sum().backward()
        return float(value.detach().sum())

    return step


def _in_turns(steps: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Rounds in which each takes its turn, so that a busy machine is busy for all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    begin = time.perf_counter()
    while len(times[OURS]) < ROUNDS and (
        len(times[OURS]) < 3 or time.perf_counter() - begin < SECONDS
    ):
        for name, step in steps.items():
            gc.collect()
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return times


def _ratios(times: dict[str, list[float]]) -> dict[str, Any]:
    """Each round's quotient, so that what slows a round down slows both."""
    peers = {name: statistics.median(t) for name, t in times.items() if name not in OWN}
    fastest = min(peers, key=peers.__getitem__) if peers else None
    return {
        "eager_to_plain_compiled": _quotient(times[OURS], times[PLAIN_COMPILED]),
        "compiled_to_plain_compiled": _quotient(times[OURS_COMPILED], times[PLAIN_COMPILED]),
        "fastest_peer": fastest,
        "eager_to_fastest_peer": _quotient(times[OURS], times[fastest]) if fastest else None,
    }


def _quotient(one: list[float], other: list[float]) -> dict[str, Any]:
    rounds = [a / b for a, b in zip(one, other, strict=True)]
    return {
        "median": round(statistics.median(rounds), 3),
        "quartiles": [round(q, 3) for q in _quartiles(rounds)],
    }


def _quartiles(numbers: list[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(numbers, n=4)
    return low, high


def _peak_megabytes(step: Callable[[], float]) -> float | None:
    """The most memory beyond what was held before; Linux alone tells."""
    if not STATUS.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    step()
    return round((_status("VmHWM") - before) / 1000, 1)


def _status(key: str) -> float:
    line = next(x for x in STATUS.read_text(encoding="ascii").splitlines() if x.startswith(key))
    return float(line.split()[1])


def _bandwidth() -> float:
    """Bytes a second of the best of some copies: what is read and what is written."""
    source = torch.zeros(16 << 20)
    target = torch.empty_like(source)
    taken = []
    for _ in range(12):
        start = time.process_time()
        torch.add(source, 1.0, out=target)
        taken.append(time.process_time() - start)
    return 2 * source.nbytes / min(taken)


def page(data: dict[str, Any]) -> Iterable[str]:
    """The page of the study."""
    cases = data["losses"]
    yield "# The speed of the catalogue"
    yield (
        "Forward and backward on one thread, in processor time; all implementations of a loss take "
        "turns in one process. *Plain* is the formula of `benchmarks/catalogue/plain_formulas.py` "
        "under `torch.compile(fullgraph=True)`. The floor is the time to read the inputs once and "
        "to write the gradient once at the best bandwidth of a copy. A quotient is the median of "
        "the rounds' quotients, with its quartiles."
    )
    yield results.setting(data)
    yield "Versions: " + ", ".join(f"{k} {v}" for k, v in data["versions"].items()) + "."
    yield results.table(
        ("loss", "size", "eager / plain compiled", "compiled / plain compiled",
         "eager / fastest other", "fastest other", "plain compiled / floor"),
        [
            (
                f"`{c['loss']}`", c["size"], _shown(c["eager_to_plain_compiled"]),
                _shown(c["compiled_to_plain_compiled"]), _shown(c["eager_to_fastest_peer"]),
                c["fastest_peer"] or "-",
                f"{c['implementations'][PLAIN_COMPILED]['median_ms'] / c['floor_ms']:.0f}",
            )
            for c in cases
        ],
    )  # fmt: skip
    for c in cases:
        yield f"## {c['loss']}, {c['size']}"
        yield results.table(
            ("implementation", "ms", "quartiles", "x floor", "peak MB", "value"),
            [
                (
                    name, f"{i['median_ms']:.1f}",
                    f"{i['quartiles_ms'][0]:.1f} - {i['quartiles_ms'][1]:.1f}",
                    f"{i['median_ms'] / c['floor_ms']:.0f}",
                    "-" if i["peak_mb"] is None else f"{i['peak_mb']:.0f}", f"{i['value']:.6g}",
                )
                for name, i in sorted(
                    c["implementations"].items(), key=lambda item: item[1]["median_ms"]
                )
            ],
        )  # fmt: skip
        yield f"The gradient takes {c['gradient_mb']} MB."
    yield "`python -m benchmarks.catalogue.speed` makes this page."


def _shown(quotient: dict[str, Any] | None) -> str:
    if quotient is None:
        return "-"
    low, high = quotient["quartiles"]
    return f"{quotient['median']:.2f} ({low:.2f} - {high:.2f})"


def main(
    only: Annotated[str, typer.Option(help="Some losses by name; nothing is saved.")] = "",
    one: Annotated[str, typer.Option(help="Measure this loss in this process.", hidden=True)] = "",
) -> None:
    """Time the losses; a run over all with every library installed writes the results."""
    from benchmarks.catalogue.speed_cases import CASES

    if one:
        print(json.dumps(measured(one)))
        return
    names = [case.name for case in CASES if not only or case.name in only.split(",")]
    digest = results.source_digest()
    found = []
    for name in names:
        command = [sys.executable, "-m", "benchmarks.catalogue.speed", "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        c = found[-1]
        print(
            f"{name:26} {c['implementations'][OURS]['median_ms']:8.1f} ms, to plain compiled "
            f"{_shown(c['eager_to_plain_compiled'])}, compiled "
            f"{_shown(c['compiled_to_plain_compiled'])}, to {c['fastest_peer']} "
            f"{_shown(c['eager_to_fastest_peer'])}",
            flush=True,
        )
    if only or any(c["absent"] for c in found):
        return
    results.refuse_if_changed(digest)
    torch.set_num_threads(1)
    versions = {name: metadata.version(name) for name in LIBRARIES}
    data = {"machine": results.machine(), "versions": versions, "losses": found}
    print(results.save("catalogue_speed", data))
    print(results.save_page("catalogue_speed", page(data)))


if __name__ == "__main__":
    typer.run(main)
