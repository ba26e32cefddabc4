"""Where the hand-written backwards lie, and how one of them, or a mutant of it, is loaded.

A module of ``backwards/`` or ``holdout/`` holds the ``Function`` under test as ``LOSS``, the same
mathematics written another way as ``reference`` (torch's own loss, or a loop), and
``inputs(seed)``.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
FOLDERS = {"design": HERE / "backwards", "holdout": HERE / "holdout"}
HOLDOUT_SEED = 2


@dataclass(frozen=True)
class Subject:
    """A right, hand-written backward."""

    name: str
    split: str
    """``design``, or ``holdout`` for those that nobody looks at while naming causes."""
    path: Path

    @property
    def source(self) -> str:
        """The text of the module."""
        return self.path.read_text(encoding="utf-8")

    def load(self) -> Loaded:
        """Import the module as it is."""
        return load(self.path, f"{self.split}_{self.name}")


@dataclass(frozen=True)
class Loaded:
    """A module of the study, imported."""

    loss: Any
    reference: Callable[..., Any]
    inputs: Callable[[int], tuple[Any, ...]]


def subjects(split: str = "all") -> list[Subject]:
    """Every backward of a split, in the order of the names."""
    found = [
        Subject(path.stem, folder, path)
        for folder in (FOLDERS if split == "all" else [split])
        for path in FOLDERS[folder].glob("*.py")
        if path.stem != "__init__"
    ]
    return sorted(found, key=lambda subject: subject.name)


def load(path: Path, module_name: str) -> Loaded:
    """Import the file at ``path``; a file because a check reads the source of what it is given."""
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Loaded(module.LOSS, module.reference, module.inputs)


def drawn_holdout(names: list[str]) -> list[str]:
    """The third of the names that was put aside, by lot."""
    return sorted(random.Random(HOLDOUT_SEED).sample(sorted(names), len(names) // 3))
