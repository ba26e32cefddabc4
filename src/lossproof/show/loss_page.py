"""The page of a loss of the catalogue, made from its definition: nothing on it is written twice."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lossproof.show.docstring import call, parts, prose, section

if TYPE_CHECKING:
    from lossproof.losses.catalogue import CatalogueEntry
    from lossproof.losses.torch_nn import TorchLoss

TORCH = """\
## PyTorch's own

What `torch.nn` has is not written again where its result is what people expect. What surprises is
told here, tried in the tests, with the loss of this catalogue that keeps the contract instead.
"""


def listing(entries: Sequence[CatalogueEntry]) -> str:
    """Some losses as lines of text, family by family."""
    longest = max(len(entry.name) for entry in entries)
    lines: list[str] = []
    for family in dict.fromkeys(entry.family for entry in entries):
        lines += ["", family.replace("_", " ")]
        lines += [
            f"  {entry.name:<{longest}}  {entry.summary}"
            for entry in entries
            if entry.family == family
        ]
    return "\n".join(lines[1:])


def torch_listing(losses: Sequence[TorchLoss]) -> str:
    """Some of PyTorch's own losses as lines of text, with what to know of each."""
    lines = ["PyTorch's own"]
    for loss in losses:
        lines.append(f"  {loss.qualified_name}: {loss.summary}")
        lines += [textwrap.indent(textwrap.fill(f"- {t.text}", 92), "      ") for t in loss.traps]
        if loss.instead:
            lines.append(f"      see {', '.join(loss.instead)}")
    return "\n".join(lines)


def page(entry: CatalogueEntry, pictures: Sequence[str] = ()) -> str:
    """The page of a loss in Markdown.

    Args:
        entry: the loss.
        pictures: the files of its pictures, as links from the page.
    """
    parts = [f"# {entry.name}", _signature(entry), *_body(entry, pictures)]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def as_data(entry: CatalogueEntry) -> dict[str, Any]:
    """The facts about a loss, for a machine to read."""
    return {
        "name": entry.name,
        "module": entry.module_name,
        "family": entry.family,
        "summary": entry.summary,
        "also": list(entry.also),
        "inputs": list(entry.inputs),
        "properties": asdict(entry.properties),
        "stops_gradient": entry.stops_gradient,
        "peers": dict(entry.peers),
        "doc": entry.doc,
    }


def _signature(entry: CatalogueEntry) -> str:
    lines = [f"from lossproof.losses import {_names(entry)}", ""]
    if entry.function is not None:
        lines.append(call(entry.name, inspect.signature(entry.function)))
    lines.append(call(entry.module_name, inspect.signature(entry.module)))
    return "```python\n" + "\n".join(lines) + "\n```"


def _names(entry: CatalogueEntry) -> str:
    return ", ".join(dict.fromkeys((entry.name, entry.module_name)))


def _body(entry: CatalogueEntry, pictures: Sequence[str]) -> Iterator[str]:
    text, sections = parts(entry.doc)
    yield prose(text)
    if pictures:
        words = "Value and derivative along a line through the prediction"
        yield "\n".join(f'<img src="{p}" alt="{words}" width="48%">' for p in pictures)
    yield _properties(entry)
    for title, content in sections:
        yield f"## {title}"
        yield section(title, content)
    if entry.peers:
        yield "## In other libraries"
        yield "\n".join(f"- **{library}**: {words}" for library, words in entry.peers.items())


def _properties(entry: CatalogueEntry) -> str:
    true = entry.properties
    rows = [
        ("convex in the prediction", true.convex),
        ("bounded gradient", true.bounded_gradient),
        ("smallest at the target", true.minimal_at_target),
        ("items depend on one another", true.coupled),
    ]
    lines = ["| property | |", "|---|---|", *(f"| {k} | {'yes' if v else 'no'} |" for k, v in rows)]
    if entry.stops_gradient:
        lines.append(f"| held constant in the gradient | {entry.stops_gradient} |")
    return "\n".join(lines)


def index(entries: Iterable[CatalogueEntry], of_torch: Iterable[TorchLoss]) -> str:
    """The list of all losses, with links to their pages, in Markdown; then PyTorch's own."""
    listed = list(entries)
    parts = []
    for family in dict.fromkeys(entry.family for entry in listed):
        rows = [
            f"| [`{entry.name}`]({entry.name}.md) | `{entry.module_name}` | {entry.summary} |"
            for entry in listed
            if entry.family == family
        ]
        title = family.replace("_", " ").capitalize()
        parts.append("\n".join([f"## {title}", "", "| loss | Module | |", "|---|---|---|", *rows]))
    rows = [
        f"| `{loss.qualified_name}` | {loss.summary} | {_traps(loss)} | "
        + ", ".join(f"[`{name}`]({name}.md)" for name in loss.instead)
        + " |"
        for loss in of_torch
    ]
    parts.append("\n".join([TORCH, "| loss | | what to know | here |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _traps(loss: TorchLoss) -> str:
    return "; ".join(trap.text for trap in loss.traps).replace("|", "\\|")
