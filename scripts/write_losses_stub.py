"""Write the types of the catalogue: ``python scripts/write_losses_stub.py``.

The Module of a loss is made from its function when it is imported, so a type checker cannot see
what its constructor takes. ``src/lossproof/losses/__init__.pyi`` tells it, made from the functions.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from lossproof.losses.catalogue import CatalogueEntry, catalogue

STUB = Path(__file__).parents[1] / "src" / "lossproof" / "losses" / "__init__.pyi"
KNOWN = {"Any", "Callable", "Literal", "Mapping", "None", "Sequence", "Tensor", "True", "False"}
KNOWN |= {"ProcessGroup"}
HEAD = """\
# Made from the losses by scripts/write_losses_stub.py.
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.distributed import ProcessGroup

from lossproof.write.module import LossModule
{imports}

Tensor = torch.Tensor
"""


def stub() -> str:
    """The text of the stub."""
    entries = catalogue()
    imports: list[str] = []
    classes: list[str] = []
    for entry in entries:
        name = entry.name if entry.function is not None else entry.module_name
        imports.append(f"from {entry.module_file} import {name} as {name}")
        imports += [f"from {entry.module_file} import {kind}" for kind in _own_types(entry)]
        if entry.function is not None:
            classes.append(_class(entry))
    head = HEAD.format(imports="\n".join(sorted(set(imports))))
    return head + "\n" + "".join(classes)


def _class(entry: CatalogueEntry) -> str:
    options = [_typed(p) for p in _parameters(entry, options=True)]
    tensors = [_typed(p) for p in _parameters(entry, options=False)]
    legacy = ["size_average: bool | None = ...", "reduce: bool | None = ..."]
    per_call = [
        _typed(p)
        for p in inspect.signature(entry.module.forward).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    ]
    taken = ", ".join(["self", "*", *options, *(legacy if _reduces(entry) else [])])
    called = ", ".join(["self", *tensors, *(["*", *per_call] if per_call else [])])
    return (
        f"class {entry.module_name}(LossModule[Any]):\n"
        f"    def __init__({taken if options else 'self'}) -> None: ...\n"
        f"    def forward({called}) -> Tensor: ...\n"
        f"    def __call__({called}) -> Tensor: ...\n"
    )


def _own_types(entry: CatalogueEntry) -> set[str]:
    """Types that its annotations name and its file defines or imports."""
    annotations = " ".join(
        str(p.annotation)
        for p in inspect.signature(entry.function or entry.module).parameters.values()
    )
    return set(re.findall(r"\b[A-Z]\w+", annotations)) - KNOWN


def _typed(parameter: inspect.Parameter) -> str:
    default = "" if parameter.default is parameter.empty else " = ..."
    return f"{parameter.name}: {parameter.annotation}{default}"


def _parameters(entry: CatalogueEntry, *, options: bool) -> list[inspect.Parameter]:
    assert entry.function is not None
    return [
        p
        for p in inspect.signature(entry.function).parameters.values()
        if (p.kind is p.KEYWORD_ONLY) == options
    ]


def _reduces(entry: CatalogueEntry) -> bool:
    return any(p.name == "reduction" for p in _parameters(entry, options=True))


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
