"""The pages of the studies of `speed`, made from their results: what was aimed at comes first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.harness import results, tables
from benchmarks.speed import chunk, half, pairs

Entry = dict[str, Any]
OURS, PEER = "ours", "peer"


# ---- what was aimed at


def aims(
    memory: Sequence[Entry], times: Sequence[Entry], aimed: Mapping[str, float]
) -> Iterable[tuple[Any, ...]]:
    """The peaks that have an aim, and all times, which are to be at most eager's."""
    for case, kinds in _cases(memory):
        if case["case"] not in aimed:
            continue
        aim, peer = aimed[case["case"]], _least(case, kinds, _live)
        for name, figures in _ours(case, kinds):
            yield _row(
                f"peak MB, {case['case']}", name, aim, _live(figures),
                _live(case["methods"].get("eager", {})), peer,
            )  # fmt: skip
    for case, kinds in _cases(times):
        peer = _least(case, kinds, _ratio)
        for name, figures in _ours(case, kinds):
            what = f"time over eager, {case['case']}"
            yield _row(what, name, 1.0, _ratio(figures), 1.0, peer)


def aims_table(rows: Iterable[tuple[Any, ...]]) -> str:
    """Aims beside what was reached."""
    header = ("what", "way", "aim", "reached", "is it?", "eager", "best peer", "which")
    return results.table(header, rows, texts=2)


def _row(
    what: str, name: str, aim: float, ours: float | None, eager: float | None, peer: Any
) -> tuple[Any, ...]:
    reached = "-" if ours is None else "yes" if ours <= aim else "no"
    least, who = peer
    shown = [tables.number(value) for value in (aim, ours, eager, least)]
    return what, name, shown[0], shown[1], reached, shown[2], shown[3], who


def _cases(data: Sequence[Entry]) -> Iterable[tuple[Entry, Mapping[str, str]]]:
    for study in data:
        for case in study["cases"]:
            yield case, study["kinds"]


def _ours(case: Entry, kinds: Mapping[str, str]) -> Iterable[tuple[str, Entry]]:
    return ((name, m) for name, m in case["methods"].items() if kinds[name] == OURS)


def _live(figures: Entry) -> float | None:
    return figures.get("live_mb")


def _ratio(figures: Entry) -> float | None:
    found: float | None = figures.get("ratio", {}).get("step", {}).get("median")
    return found


def _least(case: Entry, kinds: Mapping[str, str], figure: Any) -> tuple[float | None, str]:
    found = {
        name: value
        for name, m in case["methods"].items()
        if kinds[name] == PEER and (value := figure(m)) is not None
    }
    if not found:
        return None, "-"
    name = min(found, key=found.__getitem__)
    return found[name], name


def _present(*data: Entry | None) -> list[Entry]:
    return [study for study in data if study is not None]


def _with(data: Sequence[Entry], key: str) -> list[Entry]:
    """The studies with those of their cases that have such figures."""
    return [
        study
        | {"cases": [c for c in study["cases"] if any(key in m for m in c["methods"].values())]}
        for study in data
    ]


def _sections(data: Sequence[Entry], floors: bool = False) -> Iterable[Any]:
    """Each case with its table."""
    for study in data:
        for case in study["cases"]:
            yield f"## {case['case']}"
            yield tables.case_table(case, study)
            if floors and any("live_mb" in m for m in case["methods"].values()):
                floor = tables.number(chunk.floor_of(case))
                yield f"Gradients and a chunk of 32 MB, or of 128 rows: {floor} MB."
            yield from tables.remarks(case)
        yield from tables.pictures(study)


def _again(data: Sequence[Entry]) -> str:
    commands = ", ".join(f"`python -m benchmarks {study['study']}`" for study in data)
    return f"{commands} make this page."


# ---- chunk


def chunk_page(*data: Entry | None) -> Iterable[Any]:
    """The page of `chunk`: memory, times, and those of a large vocabulary."""
    there = _present(*data)
    yield "# Losses over a big output layer"
    yield (
        "The logits of a batch over a large vocabulary, their softmax and their gradient are "
        "larger than all else. `lossproof.chunk` computes a loss of separate rows without holding "
        "them. Every seventh target is ignored; the mean is over the others."
    )
    yield tables.HOW
    for study in there:
        yield from tables.setting(study)
    yield "## Aims"
    yield aims_table(aims(_with(there, "live_mb"), _with(there, "ratio"), chunk.AIMS))
    yield from _sections(there, floors=True)
    yield _again(there)


# ---- pairs


def pairs_page(*data: Entry | None) -> Iterable[Any]:
    """The page of `pairs` and of `embed`."""
    there = _present(*data)
    yield "# Losses over all pairs of a batch"
    yield (
        "`lossproof.pairs` reduces the values of all pairs row by row, without their matrix; the "
        "losses of the catalogue are built on it. *lossproof pairs* is the loss as a user writes "
        "it on `pairs`, *lossproof catalogue* the one that is there. *Sinkhorn* is one transport "
        "after 20 iterations, *Sinkhorn divergence* is the three that the catalogue's loss and "
        "geomloss's solve."
    )
    yield tables.HOW
    for study in there:
        yield from tables.setting(study)
    yield "## Aims"
    yield aims_table(aims(_with(there, "live_mb"), _with(there, "ratio"), pairs.AIMS))
    yield from _sections(there)
    yield _again(there)


# ---- half precision


def half_page(data: Entry) -> Iterable[str]:
    """The page on half precision."""
    rows, classes, hidden = data["size"]
    yield "# A big output layer in half precision"
    yield (
        f"Cross entropy of {rows:,} rows over {classes:,} classes, hidden {hidden}, all tensors in "
        "half precision. The true gradient is the formula's, in float64. Flushed is an entry of "
        "the gradient of the output layer that is zero where that of eager (with logits in "
        "float32) is not, and whose true value the precision can hold. Errors are relative, of the "
        "whole tensor."
    )
    yield from tables.setting(data | {"absent": []})
    yield "## Aims"
    yield results.table(("what", "aim", "reached", "is it?"), _half_aims(data))
    yield from half_tables(data)
    yield "`python -m benchmarks speed_half` makes this page."


def half_summary(data: Entry) -> str:
    """The tables, as text."""
    return "\n\n".join(half_tables(data))


def half_tables(data: Entry) -> Iterable[str]:
    """Both tables."""
    scales = [one["scale"] for one in data["float16"][half.EAGER]]
    yield "## float16, under a loss scale"
    yield (
        "Entries flushed, of those that eager keeps. Logits of half precision are rounded, so that "
        "an entry which nearly cancels is zero by accident, now here and now there: *eager* is how "
        "many are zero in eager alone."
    )
    yield results.table(
        ("way", *(f"{scale:,.0f}" for scale in scales)),
        [(way, *_cells(found, _share, len(scales))) for way, found in data["float16"].items()],
    )
    for key, words in (("hidden", "hidden states"), ("head", "output layer")):
        yield f"Error of the gradient in the {words}:"
        yield results.table(
            ("way", *(f"{scale:,.0f}" for scale in scales)),
            [
                (way, *_cells(found, lambda one, key=key: _error(one[key]), len(scales)))
                for way, found in data["float16"].items()
            ],
        )
    chunks = [one["chunks"] for one in data["bfloat16"][half.OURS]]
    yield "## bfloat16, by the number of chunks"
    yield (
        "Error of the gradient in the output layer; that of eager is "
        f"{_error(data['bfloat16_eager'])}."
    )
    yield results.table(
        ("way", *map(str, chunks)),
        [
            (way, *_cells(found, lambda one: _error(one["head"]), len(chunks)))
            for way, found in data["bfloat16"].items()
        ],
    )


def _half_aims(data: Entry) -> Iterable[tuple[str, ...]]:
    for way in (half.OURS, half.OURS_COMPILED):
        found = data["float16"][way]
        lost = max(one["flushed"] for one in found)
        worst = max(one[key] for one in found for key in ("hidden", "head"))
        first, *rest = (one["head"] for one in data["bfloat16"][way])
        growth = max(rest, default=first) / first
        yield f"{way}: entries flushed", "0", str(lost), _is(lost == 0)
        yield f"{way}: float16 error", "5.0e-04", _error(worst), _is(worst <= 5e-4)
        yield (
            f"{way}: bfloat16 error with the most chunks over that with one", "1.1",
            f"{growth:.2f}", _is(growth <= 1.1),
        )  # fmt: skip


def _is(so: bool) -> str:
    return "yes" if so else "no"


def _cells(found: Any, cell: Any, count: int) -> Sequence[str]:
    return [found] + [""] * (count - 1) if isinstance(found, str) else [cell(one) for one in found]


def _share(one: Entry) -> str:
    if not math.isfinite(one["head"]):
        return "not finite"
    lost, kept, eager = one["flushed"], one["kept_by_eager"], one["flushed_by_eager"]
    share = f"{lost:,} ({100 * lost / max(1, kept):.2g} %)" if lost else "0"
    return f"{share}; eager {eager:,}" if eager else share


def _error(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "not finite"


# ---- exactness


def exactness_page(data: Entry) -> Iterable[str]:
    """The page on what is kept of the plain loss."""
    yield "# What `chunk` and `pairs` keep of a loss"
    yield from tables.setting(data | {"absent": []})
    worst = max(error for errors in data["equalities"].values() for error in errors.values())
    wrong = sum(
        answer is not None
        for way, answers in data["contract"].items()
        if way.startswith("lossproof")
        for answer in answers.values()
    )
    yield "## Aims"
    yield results.table(
        ("what", "aim", "reached", "is it?"),
        [
            ("largest relative error in float64", "1.0e-12", f"{worst:.1e}", _is(worst <= 1e-12)),
            ("questions of the contract answered wrongly", "0", str(wrong), _is(wrong == 0)),
        ],
    )
    yield from exactness_tables(data)
    yield "`python -m benchmarks speed_exactness` makes this page."


def exactness_summary(data: Entry) -> str:
    """The tables, as text."""
    return "\n\n".join(exactness_tables(data))


def exactness_tables(data: Entry) -> Iterable[str]:
    """Errors against the plain loss, and the answers of all ways."""
    from benchmarks.speed.contract import QUESTIONS

    equalities = data["equalities"]
    keys = list(next(iter(equalities.values())))
    yield "## Equal to the plain loss"
    yield (
        "Relative errors in float64 against the loss computed in one piece; of gradients and "
        "products the worst over all tensors, the learned ones among them."
    )
    yield results.table(
        ("what", *keys),
        [(name, *(f"{errors[key]:.1e}" for key in keys)) for name, errors in equalities.items()],
    )
    yield "## The contract of a loss"
    yield (
        "Each way computes one mean cross entropy in float64. Wrong without a word is worse than "
        "an error."
    )
    ways = data["contract"]
    yield results.table(
        ("question", *ways),
        [
            (question, *(_verdict(answers[question]) for answers in ways.values()))
            for question in QUESTIONS
        ],
    )
    yield "What is asked:"
    yield "\n".join(
        f"- *{name}*: {' '.join((ask.__doc__ or '').split())}" for name, ask in QUESTIONS.items()
    )
    yield "What was wrong:"
    yield "\n".join(
        f"- {way}, {question}: {answer}"
        for way, answers in ways.items()
        for question, answer in answers.items()
        if answer is not None
    )


def _verdict(answer: str | None) -> str:
    if answer is None:
        return "right"
    raised = "Error: " in answer and not answer.startswith("GradcheckError")
    return "raises" if raised else "wrong"
