"""An alarm of a training guard as text for people, in the layout of the findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table

from lossproof.show.source import visible
from lossproof.show.terminal import Drawing, Page, draw_finding

if TYPE_CHECKING:
    from lossproof.watcher.alarm import Alarm, Diagnosis, StepFigures

RED = "bold red"
MOST_TERMS = 6
"""So many terms have a column."""
PLACES = {
    "model": "it was made in the model",
    "between": "it was made between the model and the loss",
    "data": "it came with the batch",
    "parameters": "it came from the parameters",
}
"""What is said where there is no line to point to."""


def render_alarm(alarm: Alarm, *, color: bool = False, width: int = 100) -> str:
    """The whole alarm.

    Args:
        alarm: what to show.
        color: whether to use the colours of a terminal. Plain text says the same.
        width: where prose is wrapped. Code is never wrapped.
    """
    page = Page(width, color)
    diagnosis = alarm.diagnosis
    location = diagnosis.location if diagnosis else None
    lines = [(one.end_line or one.line) for one in [location] if one]
    drawing = Drawing(page, RED, max([alarm.step if not lines else 1, *lines]))
    drawing.draw_title(f"alarm[{alarm.kind.value}]", f"step {alarm.step}", alarm.message)
    findings = diagnosis.findings if diagnosis else ()
    if location is not None and not findings:
        drawing.draw_culprit(location)
    for note in _notes(diagnosis):
        drawing.draw_note(note)
    if alarm.history:
        drawing.draw_note("what led to it:")
        page.console.print(
            Padding(_table(alarm.history, alarm.term), (0, 0, 0, drawing.numbers + 3))
        )
    mends = (diagnosis.help if diagnosis else None, alarm.help)
    for mend in dict.fromkeys(one for one in mends if one):
        drawing.draw_help(mend)
    for finding in findings:
        page.blank()
        draw_finding(page, finding)
    return "\n".join(line.rstrip() for line in page.text().splitlines())


def _notes(diagnosis: Diagnosis | None) -> Iterator[str]:
    if diagnosis is None:
        return
    if diagnosis.location is None and diagnosis.part in PLACES:
        yield PLACES[diagnosis.part]
    yield from diagnosis.notes
    if diagnosis.caveat:
        yield f"not certain: {diagnosis.caveat}"


def _table(history: Sequence[StepFigures], term: str | None) -> Table:
    """One row for each step: the value of each term, and the norms of the gradients."""
    names = list(dict.fromkeys(name for step in history for name in step.values))
    names.sort(key=lambda name: name != term)
    names = names[:MOST_TERMS]
    measured = [name for name in names if any(name in step.norms for step in history)]
    whole = any(step.norm is not None for step in history)
    table = Table(box=None, pad_edge=False, header_style="bold")
    headers = ["step", *map(visible, names)]
    headers += ["gradient"] if whole else []
    headers += [f"gradient of {visible(name)}" for name in measured]
    for header in headers:
        table.add_column(header, justify="right")
    for step in history:
        row = [str(step.step), *(_shown(step.values.get(name)) for name in names)]
        row += [_shown(step.norm)] if whole else []
        row += [_shown(step.norms.get(name)) for name in measured]
        table.add_row(*row)
    return table


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"
