"""A comparison as text for people: one column for each side."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lossproof.checks.comparison import Comparison, Extreme, Reaction, Reading, Side, Spread
from lossproof.show.source import shown_path, visible

LABEL, NARROW = 30, 90
"""The least width of the column that says what is compared, in a terminal not narrower than that;
in others it takes what the numbers leave."""
MOST_EXTREMES = 4
"""Of the extreme points at which the sides part, so many are shown."""


def render(comparison: Comparison, *, color: bool = False, width: int = 100) -> str:
    """The whole comparison.

    Args:
        comparison: what to show.
        color: whether to use the colours of a terminal. Plain text says the same.
        width: where lines are wrapped.
    """
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        legacy_windows=False,
    )
    table = _table(comparison, LABEL if width >= NARROW else None)
    for part in (*_opening(comparison), table, *_closing(comparison)):
        console.print(part)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()).strip("\n")


def _opening(comparison: Comparison) -> Iterator[Text]:
    a, b = (named(side) for side in (comparison.a, comparison.b))
    yield _text(f"{a} against {b}")
    yield _text(f"with {', '.join(comparison.inputs)}")
    yield Text()


def named(side: Side) -> str:
    """A side's name, and where it is defined."""
    if side.location is None:
        return f"`{side.name}`"
    return f"`{side.name}` ({shown_path(side.location.file)}:{side.location.line})"


# ---------------------------------------------------------------------------- the table
@dataclass(frozen=True)
class Row:
    """One line of the table: what is compared, either side, and what that means."""

    label: str
    a: str
    b: str
    verdict: str = ""
    style: str = ""


def _table(comparison: Comparison, label: int | None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
    table.add_column("", min_width=label)
    for side in (comparison.a, comparison.b):
        table.add_column(_text(side.name), overflow="fold")
    table.add_column("", overflow="fold")
    for row in rows(comparison):
        cells = (row.label, row.a, row.b)
        table.add_row(*map(_text, cells), _text(row.verdict, row.style))
    return table


def _text(content: str, style: str = "") -> Text:
    """Plain text: what a loss is called or says is never read as markup."""
    return Text(visible(content), style)


def rows(comparison: Comparison) -> Iterator[Row]:
    """Every line of the table."""
    a, b = comparison.a, comparison.b
    if a.error is not None or b.error is not None:
        yield Row("error", *(side.error or "none" for side in (a, b)))
        return
    yield Row("result", a.result, b.result)
    yield from _value_rows(comparison)
    yield from _gradient_rows(comparison)
    yield from _extreme_rows(comparison)
    for arrangement in comparison.rearrangements:
        yield Row(arrangement.words, _reaction(arrangement.a), _reaction(arrangement.b))
    yield from _cost_rows(comparison)


def _value_rows(comparison: Comparison) -> Iterator[Row]:
    a, b = comparison.a, comparison.b
    what = "value" if a.elements == b.elements == 1 else "mean of the values"
    for dtype, agreement, one, two in (
        (comparison.dtype, comparison.value, a.value, b.value),
        ("float64", comparison.value64, a.value64, b.value64),
    ):
        if agreement is not None:
            yield Row(
                f"{what} in {dtype}",
                _number(one),
                _number(two),
                *_agreement(agreement.same, agreement.difference),
            )
    points = comparison.points
    if points:
        agreeing = sum(point.same_value and point.same_gradient for point in points)
        style = "green" if agreeing == len(points) else "red"
        yield Row("ordinary points", "", "", f"same at {agreeing} of {len(points)}", style)


def _gradient_rows(comparison: Comparison) -> Iterator[Row]:
    for gradient in comparison.gradients:
        verdict, style = _agreement(gradient.same, gradient.difference)
        if gradient.cosine is not None and not gradient.same:
            verdict += f", cosine {gradient.cosine:.4g}"
        yield Row(
            f"gradient for {gradient.name}",
            f"norm {gradient.norm_a:.6g}" if gradient.reaches_a else "none",
            f"norm {gradient.norm_b:.6g}" if gradient.reaches_b else "none",
            verdict,
            style,
        )
        if not gradient.same:
            index = ", ".join(map(str, gradient.worst_index))
            yield Row(f"  at [{index}]", _number(gradient.worst_a), _number(gradient.worst_b))
    a, b = comparison.a, comparison.b
    if a.backward_error or b.backward_error:
        yield Row("backward pass", *(side.backward_error or "runs" for side in (a, b)))
    if a.follows_upstream is not None or b.follows_upstream is not None:
        words = {None: "no gradient", True: "3 times", False: "not 3 times"}
        label = "gradient with 3 sent backward"
        yield Row(label, words[a.follows_upstream], words[b.follows_upstream])


def _agreement(same: bool, difference: float) -> tuple[str, str]:
    """Both in words: to how many digits they are the same, or by how much they differ."""
    if same:
        return ("same" if difference == 0 else f"same to {difference:.1g}"), "green"
    return f"differ by {difference:.3g}", "red"


def _extreme_rows(comparison: Comparison) -> Iterator[Row]:
    extremes = comparison.extremes
    if not extremes:
        return
    fails = [sum(getattr(extreme, side).fails for extreme in extremes) for side in ("a", "b")]
    yield Row(
        f"{len(extremes)} extreme points", *(f"fails at {n}" if n else "all finite" for n in fails)
    )
    parting = [extreme for extreme in extremes if extreme.differs]
    for extreme in parting[:MOST_EXTREMES]:
        verdict = "" if "fails" in extreme.verdict else extreme.verdict
        if extreme.verdict == "values differ":
            truths = f"{_number(extreme.a.truth)} and {_number(extreme.b.truth)}"
            verdict += f" (in float64 {truths})"
        yield Row(f"  {extreme.words}", *_readings(extreme), verdict, "yellow")
    if len(parting) > MOST_EXTREMES:
        yield Row(f"  and {len(parting) - MOST_EXTREMES} more", "", "")


def _readings(extreme: Extreme) -> tuple[str, str]:
    return _reading(extreme.a), _reading(extreme.b)


def _reading(reading: Reading) -> str:
    if reading.error is not None:
        return reading.error
    bad = reading.gradient in ("inf", "nan")
    return _number(reading.value) + (f", gradient {reading.gradient}" if bad else "")


def _reaction(reaction: Reaction) -> str:
    if reaction.error is not None:
        return f"raises {reaction.error}"
    if reaction.same or reaction.difference is None:
        return "same"
    return f"off by {reaction.difference:.2g}"


# ---------------------------------------------------------------------------- cost
def _cost_rows(comparison: Comparison) -> Iterator[Row]:
    times = comparison.times
    if times is not None:
        for label, one, two, ratio in (
            ("forward", times.forward_a, times.forward_b, times.forward_ratio),
            ("forward and backward", times.total_a, times.total_b, times.total_ratio),
        ):
            yield Row(label, _seconds(one.median), _seconds(two.median), _ratio(ratio))
    a, b = comparison.a.peak_bytes, comparison.b.peak_bytes
    if a is not None and b is not None:
        yield Row("peak memory", _bytes(a), _bytes(b))


def _ratio(ratio: Spread) -> str:
    return f"ratio {ratio.median:.3g} ({ratio.low:.3g} to {ratio.high:.3g})"


def _speed(comparison: Comparison) -> Iterator[str]:
    """Which side is how many times slower, where that is not noise."""
    times = comparison.times
    if times is None:
        return
    for what, ratio in (
        ("forward", times.forward_ratio),
        ("forward and backward", times.total_ratio),
    ):
        slow, fast = comparison.a.name, comparison.b.name
        factor = ratio.median
        if factor < 1:
            slow, fast, factor = fast, slow, 1 / factor
        if ratio.low <= 1 <= ratio.high:
            yield f"{what}: no clear difference"
        else:
            yield f"{what}: `{slow}` takes {factor:.1f} times as long as `{fast}`"


def _seconds(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


# ---------------------------------------------------------------------------- prose
def lists(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """What the table means, in lists of sentences, each under its heading."""
    for heading, lines in (
        ("differences", list(comparison.differences)),
        ("speed", list(_speed(comparison))),
        ("notes", [*comparison.notes, *_machine(comparison)]),
    ):
        if lines:
            yield heading, lines


def _closing(comparison: Comparison) -> Iterator[Text | Table]:
    for heading, lines in lists(comparison):
        yield Text()
        yield Text(heading, "bold yellow" if heading == "differences" else "bold")
        yield _listed(lines)
    yield Text()
    yield _verdict(comparison)


def _listed(lines: list[str]) -> Table:
    """Lines with room for a mark at their left when they are wrapped."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=3, justify="right")
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row("-", _text(line))
    return table


def _machine(comparison: Comparison) -> Iterator[str]:
    times = comparison.times
    if times is not None:
        threads = f"{times.threads} thread{'s' if times.threads > 1 else ''}"
        yield (
            f"times are medians of {times.runs} interleaved runs on {times.device} with {threads}, "
            "and in brackets the quartiles"
        )


def verdict(comparison: Comparison) -> tuple[str, str]:
    """What the comparison comes to, and what there is beyond ordinary points."""
    if not comparison.same:
        return f"not the same: {comparison.relation}", ""
    count = len(comparison.differences)
    beyond = f"; {count} difference{'s' if count > 1 else ''} beyond" if count else ""
    return "same in value and gradient at ordinary points", beyond


def _verdict(comparison: Comparison) -> Text:
    head, beyond = verdict(comparison)
    text = Text(head, "bold green" if comparison.same else "bold red")
    return text.append(beyond, "bold yellow").append(f", in {comparison.seconds:.1f} s", "")
