"""The index of the benchmarks: what each study shows, in a sentence and a picture.

Sentences and pictures are made from the committed results, so that they say what the pages say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import results
from benchmarks.harness.study import WHOLE
from docs.making.bars import amounts, shares

from benchmarks import studies

FOLDER = Path(__file__).parents[1] / "benchmarks"
PICTURES = "pictures"
Told = tuple[str, str]
"""A sentence, and a picture as SVG."""
INTRODUCTION = """\
# Benchmarks

Every figure that lossproof states of itself comes from a study in
[benchmarks/](../../benchmarks/README.md), with its raw numbers committed. Each page below is made
from them, names the machine and the versions, and has the command that makes it again. This page is
made from the same numbers by `python docs/build.py`.

"""


def pages() -> Mapping[Path, str]:
    """The text of the index and its pictures, by their files."""
    written: dict[Path, str] = {}
    parts = [INTRODUCTION]
    for group, names in GROUPS.items():
        found = {name: [results.read(one) for one in page_of(name).results] for name in names}
        run = {name: saved for name, saved in found.items() if any(saved)}  # others have no page
        parts += [f"## {group}\n\n"] if run else []
        for name, saved in run.items():
            sentence, picture = TOLD[name](*saved)
            written[FOLDER / PICTURES / f"index_{name}.svg"] = picture
            parts.append(f"### [{title_of(name)}]({name}.md)\n\n{sentence}\n\n")
            parts.append(f"![{title_of(name)}]({PICTURES}/index_{name}.svg)\n\n")
    return {FOLDER / "README.md": "".join(parts).rstrip("\n") + "\n", **written}


def page_of(name: str) -> studies.Page:
    """A page of the benchmarks."""
    return next(page for page in studies.pages() if page.name == name)


def title_of(name: str) -> str:
    """The title of a page."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    return text.partition("\n")[0].removeprefix("# ")


def mutation(data: Any) -> Told:
    """Wrong backwards that were made by slips."""
    total = data["figures"]["total"]
    count = total["mutants"]
    rows = [
        ("lossproof: found", total["found"], count),
        ("lossproof: cause named", total["named"], count),
        ("lossproof: the line shown", total["line_exact"], count),
        ("gradcheck, slow: found", total["gradcheck_slow"], count),
        ("gradcheck, fast: found", total["gradcheck_fast"], count),
    ]
    return (
        f"Of {count} wrong backwards, made by automatic slips in right ones, {total['found']} are "
        f"found, and the cause of {total['named']} is named.",
        shares(rows),
    )


def false_alarms(data: Any) -> Told:
    """Right losses, and small errors planted in them."""
    figures = data["figures"]
    right, planted = figures["right"].values(), figures["planted"]
    rows = []
    for name, found in planted.items():
        rows += [
            (f"lossproof: {name}", found["found"], found["checks"]),
            (f"gradcheck: {name}", found["gradcheck_fast"], found["checks"]),
        ]
    alarms, checks = (sum(size[key] for size in right) for key in ("with_false_alarm", "checks"))
    slight = planted["scaled by 1 + 1e-4"]
    return (
        f"{alarms} of {checks} checks of right losses raise a false alarm, and a gradient that is "
        f"off by a factor of 1 + 1e-4 is found in {slight['found']} of {slight['checks']}.",
        shares(rows),
    )


def mistakes(data: Any) -> Told:
    """Mistakes that people make."""
    figures = data["figures"]
    count, alone, with_reference = figures["cases"], figures["alone"], figures["reference"]
    rows = [
        ("lossproof alone", alone["found"], count),
        ("lossproof with a reference", with_reference["found"], count),
        ("gradcheck", alone["gradcheck"], count),
    ]
    return (
        f"Of {count} losses with a mistake as people make it, {alone['found']} are found without a "
        f"reference and {with_reference['found']} with one; {figures['right']['with_false_alarm']} "
        f"of the {count} right versions raise an alarm.",
        shares(rows),
    )


def libraries(data: Any) -> Told:
    """Losses of other libraries."""
    figures = data["figures"]
    everything = figures["all"]
    rows = [
        (name, found["with_false_alarm"], found["losses"])
        for name, found in figures["libraries"].items()
    ]
    return (
        f"Of {everything['losses']} losses of {len(rows)} libraries, "
        f"{everything['with_false_alarm']} raises a false alarm; {everything['defects_reported']} "
        f"true defects are reported, and a check takes {everything['seconds']['median']:.2f} s.",
        shares(rows),
    )


def cost(data: Any) -> Told:
    """What a check takes."""
    small, large, command = (case["methods"] for case in data["cases"])

    def seconds(found: Any) -> float:
        return float(found["wall_ms"]["step"]["median"]) / 1000

    return (
        f"A whole check takes {seconds(small['whole check']):.2f} s at 320 elements, and "
        f"{large['whole check']['ratio']['step']['median']:.0f} forward and backward passes at a "
        "million.",
        amounts(
            [
                ("lossproof: 320 elements", seconds(small["whole check"])),
                ("lossproof: a million elements", seconds(large["whole check"])),
                ("one forward and backward pass of it", seconds(large["forward and backward"])),
                ("lossproof --help", seconds(command["lossproof --help"])),
            ],
            " s",
        ),
    )


def import_time(data: Any) -> Told:
    """What `import lossproof` takes."""
    told = data["figures"]
    names = {"lossproof": "lossproof, after torch", "lossproof alone": "lossproof alone"}
    found = {name: told[name]["wall_ms"]["median"] for name in ("torch", *names)}
    return (
        f"`import lossproof` adds {found['lossproof']:.0f} ms to the {found['torch']:.0f} ms of "
        "`import torch`: a room is loaded when one of its names is used.",
        amounts([(names.get(name, name), amount) for name, amount in found.items()], " ms"),
    )


def watch(data: Any) -> Told:
    """What a watched training takes."""
    ratios = {
        case["case"]: case["methods"]["watched"]["ratio"][WHOLE]["median"] for case in data["cases"]
    }
    return (
        f"A watched training takes {min(ratios.values()):.2f} to {max(ratios.values()):.2f} of the "
        "time of the same training alone.",
        amounts([("alone", 1.0), *((f"lossproof: {k}", v) for k, v in ratios.items())], ""),
    )


def catalogue(data: Any) -> Told:
    """The battery that losses stand."""
    libraries = data["figures"]["libraries"]
    ours, copies = libraries["lossproof"], data["figures"]["copies"]
    failed = {name: (found["failed"], found["checks"]) for name, found in libraries.items()}
    by_share = sorted(failed.items(), key=lambda row: row[1][0] / row[1][1])
    return (
        f"The catalogue fails {ours['failed']} of {ours['checks']} checks that any loss should "
        f"stand; the same losses in {len(libraries) - 1} other libraries fail {copies['failed']} "
        f"of {copies['checks']}.",
        shares([(name, *found) for name, found in by_share]),
    )


def catalogue_speed(data: Any) -> Told:
    """The time of the losses of the catalogue."""
    found = {
        case["case"]: case["methods"]["lossproof"]["over_fastest_peer"]["median"]
        for case in data["cases"]
    }
    rows = [("the fastest other library", 1.0), *((f"lossproof: {k}", v) for k, v in found.items())]
    return (
        f"Of the {len(found)} losses that are used most, ours take {median(found.values()):.2f} of "
        f"the time of the fastest other library (median), and {max(found.values()):.2f} at most.",
        amounts(rows, ""),
    )


def terms(engine: Any, helmholtz: Any, weights: Any) -> Told:
    """What balancers cost, and what they reach."""
    by_way = helmholtz["figures"]
    plain, annealed = by_way["plain"], by_way["annealed"]
    names = {"plain": "plain sum", "annealed": "lossproof: LearningRateAnnealing"}
    rows = [
        (names.get(name, f"lossproof: {name}"), by_way[name]["mean"])
        for name in sorted(by_way, key=lambda name: -by_way[name]["mean"])
        if by_way[name]["seeds"] == plain["seeds"]
    ]
    cases = len(engine["cases"]) + len(weights["cases"])
    return (
        f"On Helmholtz's equation, where learning-rate annealing was first shown, the plain sum of "
        f"the terms ends with an error of {plain['mean']:.2g}, and annealing with "
        f"{annealed['mean']:.2g} ({plain['seeds']} seeds). What a balanced step takes beside other "
        f"libraries is measured in {cases} cases, won and lost.",
        amounts(rows, ""),
    )


def memory_of(case: Any) -> dict[str, float]:
    """What each way holds over a step, in MB."""
    return {name: found["live_mb"] for name, found in case["methods"].items() if "live_mb" in found}


def speed_chunk(memory: Any, times: Any, vocabulary: Any) -> Told:
    """Losses over a vocabulary."""
    held = memory_of(memory["cases"][0])
    sizes = memory["cases"][0]["settings"]
    return (
        f"A cross entropy of {sizes['rows']:,} tokens over {sizes['classes']:,} words holds "
        f"{held['lossproof chunk']:.0f} MB in chunks and {held['eager']:.0f} MB as it is written.",
        amounts(list(held.items()), " MB"),
    )


def speed_pairs(memory: Any, times: Any, embed: Any) -> Told:
    """Losses over all pairs."""
    held = memory_of(memory["cases"][0])
    rows = memory["cases"][0]["settings"]["rows"]
    return (
        f"InfoNCE over a batch of {rows:,} holds {held['lossproof pairs']:.0f} MB in blocks and "
        f"{held['eager']:.0f} MB with the matrix of all pairs.",
        amounts(list(held.items()), " MB"),
    )


def speed_fuse(kept: Any, fresh: Any, of_catalogue: Any) -> Told:
    """Value and gradient in one sweep."""
    ratios = {
        case["case"]: case["methods"]["lossproof fuse"]["ratio"]["step"]["median"]
        for case in kept["cases"]
    }
    return (
        f"Fused, a loss takes {median(ratios.values()):.2f} of the time that it takes under "
        f"`torch.compile` (median of {len(ratios)}), and {max(ratios.values()):.2f} at most.",
        amounts(
            [("torch.compile", 1.0), *((f"lossproof: {name}", r) for name, r in ratios.items())], ""
        ),
    )


def speed_half(data: Any) -> Told:
    """Half precision."""
    worst = {
        name: max(seen, key=lambda one: one["flushed"]) for name, seen in data["float16"].items()
    }
    kept = worst["eager, float32 logits"]["kept_by_eager"]
    ours = worst["lossproof chunk"]["flushed"]
    bad = sum(one["flushed"] > kept // 2 for one in worst.values())
    return (
        f"In float16, chunks lose at most {ours} of {kept:,} entries of a big layer's gradient; "
        f"{bad} other ways lose most of them.",
        shares([(name, one["flushed"], kept) for name, one in worst.items()]),
    )


def speed_exactness(data: Any) -> Told:
    """What is the same as in the plain loss."""
    errors = [one for each in data["equalities"].values() for one in each.values()]
    contract = data["contract"]
    rows = [
        (name, sum(fault is None for fault in asked.values()), len(asked))
        for name, asked in contract.items()
    ]
    return (
        f"Values, gradients and second derivatives are those of the plain loss, to "
        f"{max(errors):.1e} in float64; of what a loss may be asked, so much is answered rightly:",
        shares(rows),
    )


def fuzz(data: Any) -> Told:
    """Random calls of all that is public."""
    kinds: Counter[str] = Counter()
    for surface in data["surfaces"]:
        kinds.update(surface["kinds"])
    count = sum(surface["calls"] for surface in data["surfaces"])
    faults = sum(len(surface["faults"]) for surface in data["surfaces"])
    raised = count - kinds["returned"] - kinds["refused"] - faults
    return (
        f"Of {count:,} random calls {kinds['returned']:,} return, {kinds['refused']:,} are refused "
        f"in words that name an argument, {raised:,} raise what a page or the user's own function "
        f"says, and {faults} do what no page says.",
        shares([(f"lossproof: {kind}", number, count) for kind, number in kinds.most_common()]),
    )


Teller = Callable[..., Told]
TOLD: dict[str, Teller] = {
    told.__name__: told
    for told in (
        mutation, false_alarms, mistakes, libraries, cost, import_time, catalogue, catalogue_speed,
        terms, speed_chunk, speed_pairs, speed_fuse, speed_half, speed_exactness, watch, fuzz,
    )
}  # fmt: skip
GROUPS = {
    "Check": ("mutation", "mistakes", "false_alarms", "libraries", "cost", "import_time"),
    "Pick": ("catalogue", "catalogue_speed"),
    "Combine": ("terms",),
    "Speed": ("speed_chunk", "speed_pairs", "speed_fuse", "speed_half", "speed_exactness"),
    "Watch": ("watch",),
    "All of it": ("fuzz",),
}


def untold() -> Iterator[str]:
    """The pages that the index leaves out."""
    for file in FOLDER.glob("*.md"):
        if file.stem not in {*TOLD, "README"}:
            yield file.stem
