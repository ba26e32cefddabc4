"""A story as text for people."""

from __future__ import annotations

from rich.table import Table as Grid
from rich.text import Text

from lossproof.checks.comparison import Comparison
from lossproof.checks.report import Report
from lossproof.demo.story import Block, Claim, Code, Part, Said, Story, Table
from lossproof.show import comparison, terminal
from lossproof.show.alarm import render_alarm
from lossproof.show.source import lines_of, shown_path, visible
from lossproof.show.terminal import GUTTER, Page
from lossproof.watcher.alarm import Alarm

HOLDS, FAILS = ("holds", "bold green"), ("FAILS", "bold red")


def render(story: Story, of: int, *, color: bool, width: int) -> str:
    """A story from its question to its answer.

    Args:
        story: what to show.
        of: how many stories there are.
        color: whether to use the colours of a terminal. Plain text says the same.
        width: where prose is wrapped. Code and the text of a finding's line are never wrapped.
    """
    page = Page(width, color)
    page.console.rule(
        Text(f"Story {story.number} of {of}: {story.title}", "bold"), characters="=", style=GUTTER
    )
    _labelled(page, "asked", "bold", story.question)
    for part in story.parts:
        page.blank()
        page.line(Text(visible(part.title), "bold underline" if color else ""))
        _draw_part(page, part)
    page.blank()
    _labelled(page, "answer", "bold green" if not story.missed else "bold red", story.answer)
    return "\n".join(line.rstrip() for line in page.text().split("\n"))


def render_summary(story: Story, *, color: bool, width: int) -> str:
    """A story in a line, and below it what did not come out as told."""
    page = Page(width, color)
    count = len(story.claims)
    held = f"{count - len(story.missed)} of {count} hold"
    line = f"{story.number}  {story.title}: {held}, {story.seconds:.1f} s"
    page.line(Text(line, "bold red" if story.missed else "bold green"))
    for claim in story.missed:
        _draw_claim(page, claim)
    return page.text()


def _draw_part(page: Page, part: Part) -> None:
    for block in part.blocks:
        page.blank()
        _draw_block(page, block)
    page.blank()
    for claim in part.claims:
        _draw_claim(page, claim)


def _draw_claim(page: Page, claim: Claim) -> None:
    word, style = HOLDS if claim.holds else FAILS
    _labelled(page, word, style, claim.text)


def _labelled(page: Page, label: str, style: str, text: str) -> None:
    head = Text.assemble((label, style), "  ")
    page.prose(head + Text(visible(text)), len(head))


def _draw_block(page: Page, block: Block) -> None:
    color, width = not page.console.no_color, page.width
    match block:
        case str():
            page.prose(Text(visible(block)), 0)
        case Said(who, text):
            for number, line in enumerate(text.splitlines()):
                if number:
                    page.line(Text("    " + visible(line)))
                else:
                    page.prose(Text.assemble((f"{who}: ", "bold cyan"), visible(line)), 4)
        case Code():
            _draw_code(page, block)
        case Table():
            _draw_table(page, block)
        case Report():
            page.ready(terminal.render(block, color=color, width=width, quiet=True))
        case Alarm():
            page.ready(render_alarm(block, color=color, width=width))
        case Comparison():
            page.ready(comparison.render(block, color=color, width=width))
        case _:
            titles = ", ".join(chart.title for chart in block.charts)
            page.prose(Text.assemble(("on the page: ", "bold cyan"), visible(titles)), 4)


def _draw_code(page: Page, code: Code) -> None:
    place = code.place
    size = len(str(place.end_line or place.line))
    page.line(Text.assemble(" " * size, ("--> ", GUTTER), f"{shown_path(place.file)}:{place.line}"))
    for line in lines_of(place):
        gutter = Text(f"{line.number:>{size}} | ", GUTTER)
        page.line(gutter.append(line.before + line.culprit + line.after, "not bold default"))


def _draw_table(page: Page, table: Table) -> None:
    grid = Grid(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    for word, numeric in zip(table.head, table.numeric, strict=True):
        grid.add_column(Text(word, "bold"), justify="right" if numeric else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(visible(cell)) for cell in row))
    page.console.print(grid)
