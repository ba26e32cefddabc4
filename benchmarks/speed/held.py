"""What two losses hold in memory over one step, plain and in parts: the pictures of the guide.

``python -m benchmarks speed_held`` measures and draws.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import memory, results
from benchmarks.harness.plots import COLOURS, svg
from benchmarks.harness.study import Step
from benchmarks.studies import write_pages_of

NAME = "speed_held"
GUIDE = results.ROOT / "docs" / "speed"
INSTANTS = 300
"""In so many parts of the step the most that is held is kept."""
TOKENS, HIDDEN, CLASSES = 4096, 512, 32_000
SAMPLES, DIMENSIONS = 8192, 128
Ways = dict[str, Callable[[], Tensor]]
Made = tuple[Ways, list[Tensor], int, dict[str, str]]
"""The ways to compute a loss, its leaves, the bytes of the matrix in question, and words."""


def output_layer() -> Made:
    """Cross entropy of tokens over a vocabulary."""
    from lossproof import chunk

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).requires_grad_()
    target = torch.randint(CLASSES, (TOKENS,), generator=generator)
    head = nn.Linear(HIDDEN, CLASSES, bias=False)
    loss = chunk(F.cross_entropy, head)
    ways: Ways = {
        "F.cross_entropy(head(hidden), target)": lambda: F.cross_entropy(head(hidden), target),
        "chunk(F.cross_entropy, head)(hidden, target)": lambda: loss(hidden, target),
    }
    words = {"what": f"{TOKENS:,} tokens, {CLASSES:,} classes", "unit": "the logits"}
    return ways, [hidden, head.weight], 4 * TOKENS * CLASSES, words


def all_pairs() -> Made:
    """InfoNCE in both directions."""
    from lossproof import pairs

    generator = torch.Generator().manual_seed(0)
    x, y = (
        F.normalize(torch.randn(SAMPLES, DIMENSIONS, generator=generator)).requires_grad_()
        for _ in range(2)
    )
    reduction = pairs(lambda a, b: 20 * a @ b.T, "logsumexp", dim=(1, 0))

    def info_nce(rows: Tensor, columns: Tensor) -> Tensor:
        return (rows + columns - 40 * (x * y).sum(1)).mean() / 2

    ways: Ways = {
        "logsumexp of the matrix": lambda: info_nce(*reduction.plain(x, y)),
        'pairs(similarity, "logsumexp", dim=(1, 0))': lambda: info_nce(*reduction(x, y)),
    }
    words = {"what": f"InfoNCE, {SAMPLES:,} pairs of samples", "unit": "the N x N matrix"}
    return ways, [x, y], 4 * SAMPLES**2, words


CASES: dict[str, Callable[[], Made]] = {"chunk": output_layer, "pairs": all_pairs}


def measured(case: str) -> dict[str, Any]:
    """What each way holds over a step."""
    ways, leaves, unit, words = CASES[case]()
    found = {name: held(loss, leaves) for name, loss in ways.items()}
    return {**words, "unit_mb": unit / memory.MB, "ways": found}


def held(loss: Callable[[], Tensor], leaves: list[Tensor]) -> dict[str, Any]:
    """The most bytes that are held in each part of a step, in MB, and where backward begins."""
    value: list[Tensor] = []

    def forget() -> None:
        for leaf in leaves:
            leaf.grad = None

    seen = memory.recorded(
        Step(
            {"forward": lambda: value.append(loss()), "backward": lambda: value.pop().backward()},
            before=forget,
        )
    )
    return {
        "backward_at": round(seen.phases["backward"] / seen.end, 3),
        "peak_mb": round(memory.peak_of(size for _, size in seen.sizes)[0] / memory.MB, 1),
        "left_mb": round(sum(size for _, size in seen.sizes) / memory.MB, 1),
        "mb": [round(most / memory.MB, 1) for most in most_in_each_part(seen)],
    }


def most_in_each_part(seen: memory.Recording, parts: int = INSTANTS) -> list[int]:
    """The most that is held in each of so many equal parts of the time."""
    found, live, sizes = [], 0, iter([*seen.sizes, (seen.end + 1, 0)])
    instant, size = next(sizes)
    for part in range(1, parts + 1):
        most = live
        while instant <= seen.end * part / parts and instant <= seen.end:
            live += size
            most = max(most, live)
            instant, size = next(sizes)
        found.append(most)
    return found


def picture(case: dict[str, Any]) -> str:
    """The ways beside each other, on one scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 2.9), layout="constrained")
    rooms = figure.subplots(1, len(case["ways"]), sharey=True)
    colours = COLOURS["plain"], COLOURS["ours"]
    for axes, (name, way), colour in zip(rooms, case["ways"].items(), colours, strict=True):
        places = [100 * part / len(way["mb"]) for part in range(len(way["mb"]) + 1)]
        axes.stairs(way["mb"], places, fill=True, color=colour, alpha=0.75)
        axes.axvline(100 * way["backward_at"], color="#444444", linewidth=0.8, linestyle=":")
        axes.set_title(name, fontsize=8.5, family="monospace")
        axes.set_xlabel("% of the step's time; backward begins at the dots", fontsize=8)
        axes.set_xlim(0, 100)
        highest_parts = [place for place, mb in enumerate(way["mb"]) if mb > 0.99 * way["peak_mb"]]
        axes.annotate(
            f"peak {way['peak_mb']:,.0f} MB, the gradients {way['left_mb']:,.0f}",
            (places[highest_parts[len(highest_parts) // 2]], way["peak_mb"]), (0, 4),
            textcoords="offset points", fontsize=8.5, ha="center",
        )  # fmt: skip
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    highest = max(way["peak_mb"] for way in case["ways"].values())
    for times in range(1, int(highest / case["unit_mb"] + 0.1) + 1):
        for axes in rooms:
            axes.axhline(times * case["unit_mb"], color="#444444", linewidth=0.5, linestyle="--")
        rooms[-1].text(
            99, times * case["unit_mb"], f"{times} x {case['unit']}", fontsize=8, ha="right",
            va="bottom",
        )  # fmt: skip
    rooms[0].set_ylim(0, 1.12 * highest)
    rooms[0].set_ylabel("held above the start, MB", fontsize=8)
    figure.suptitle(case["what"], fontsize=9)
    return svg(figure)


def file_of(case: str) -> Path:
    """Where the picture of a case is."""
    return GUIDE / f"held_{case}.svg"


def draw(data: dict[str, Any]) -> None:
    """Draw the pictures of the guide."""
    for case, found in data["cases"].items():
        file_of(case).write_text(picture(found), encoding="utf-8")


def main() -> None:
    """Measure, and draw the pictures of the guide."""
    torch.set_num_threads(1)
    digest = results.source_digest()
    cases = {case: measured(case) for case in CASES}
    results.refuse_if_changed(digest)
    print(results.save(NAME, {"machine": results.machine(), "cases": cases}))
    write_pages_of(NAME)
