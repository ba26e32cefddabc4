"""The page of a balancer, and the table of all, made from their definitions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lossproof.show.docstring import call, parts, prose, section

if TYPE_CHECKING:
    from lossproof.terms.balance.listing import BalancerEntry, Kind

TITLES: Mapping[Kind, str] = {
    "values": "From the values of the terms",
    "statistics": "From statistics of the gradients",
    "gramian": "From the inner products of the gradients",
    "gradients": "From the whole gradients",
    "points": "From the residuals of single points",
    "adapter": "From another library",
}
COSTS: Mapping[Kind, str] = {
    "values": "Every step is one plain backward pass.",
    "statistics": "A step that computes the weights anew computes the gradient of every term, of "
    "which only numbers are kept; with `every=n` the others are plain backward passes.",
    "gramian": "A step that computes the weights anew computes the inner products of the gradients "
    "of all terms; with `every=n` the others are plain backward passes.",
    "gradients": "A step that computes the weights anew holds the gradients of all terms.",
    "points": "Every step is one plain backward pass, unless the page says otherwise; the terms "
    "are given point by point.",
    "adapter": "What a step costs depends on the method that is given.",
}
_AUTHORS = re.compile(r"^(.*?) \((\d{4})")
MOST_AUTHORS = 2


@dataclass(frozen=True)
class Facts:
    """What was found by running a balancer.

    Attributes:
        total: what the weights sum to, in words.
        state: the names of what it keeps in a checkpoint, beyond the weights.
    """

    total: str
    state: tuple[str, ...]


def page(entry: BalancerEntry, facts: Facts) -> str:
    """The page of a balancer in Markdown."""
    text, sections = parts(entry.doc)
    lines = [
        f"from lossproof.terms import {entry.name}",
        "",
        call(entry.name, inspect.signature(entry.balancer)),
    ]
    rows = [
        ("needs", _needs(entry)),
        ("cost", COSTS[entry.kind]),
        ("the weights sum to", facts.total),
        ("in the checkpoint, besides the weights", _words(facts.state)),
    ]
    table = "\n".join(["| property | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows)])
    whole = [f"# {entry.name}", "```python\n" + "\n".join(lines) + "\n```", prose(text), table]
    for title, content in sections:
        whole += [f"## {title}", section(title, content)]
    return "\n\n".join(part.strip("\n") for part in whole) + "\n"


def table(entries: Iterable[BalancerEntry], facts: Mapping[str, Facts]) -> str:
    """All balancers with links to their pages, a table for each kind, in Markdown."""
    listed = list(entries)
    whole = []
    for kind in dict.fromkeys(entry.kind for entry in listed):
        rows = [_row(entry, facts[entry.name]) for entry in listed if entry.kind == kind]
        head = "| balancer | | needs | weights sum to | state | source |\n|---|---|---|---|---|---|"
        whole.append("\n".join([f"### {TITLES[kind]}", "", COSTS[kind], "", head, *rows]))
    return "\n\n".join(whole) + "\n"


def _row(entry: BalancerEntry, facts: Facts) -> str:
    cells = (
        f"[`{entry.name}`]({entry.name}.md)",
        prose(entry.summary),
        _needs(entry),
        facts.total,
        _words(facts.state),
        cited(entry.source),
    )
    return f"| {' | '.join(cells)} |"


def cited(source: str) -> str:
    """The authors and the year of a source, shortened as papers do.

    Example:
        >>> from lossproof.show.balancer_page import cited
        >>> cited("Wang, Teng and Perdikaris (2021), Understanding and mitigating gradient ...")
        'Wang et al. (2021)'
    """
    found = _AUTHORS.match(source)
    if not found:
        return ""
    authors = re.split(r", (?:and )?| and ", found[1])
    if len(authors) > MOST_AUTHORS:
        return f"{authors[0]} et al. ({found[2]})"
    return f"{' and '.join(authors)} ({found[2]})"


def _needs(entry: BalancerEntry) -> str:
    if entry.kind == "adapter":
        return "what the method needs"
    return _words(entry.needs) if entry.needs else "values"


def _words(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
