"""What another library offers, imported when it is first called."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

from benchmarks.libraries.stand_ins import stand_ins


class Imported:
    """A function of another library.

    It is imported at its first call, so that a table of peers can be read where the library is not
    installed, and kept: compiled, later calls hold nothing but the library's own code.

    Args:
        module: where it is defined.
        name: what it is called there.
        without: packages that the library imports, though this function does not need them.
    """

    def __init__(self, module: str, name: str, *, without: tuple[str, ...] = ()) -> None:
        self.module, self.name, self.without = module, name, without
        self.function: Any = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.function is None:
            self._load()
        return self.function(*args, **options)

    def _load(self) -> None:
        # A torchvision without its compiled operators cannot describe them to torch.
        described = "torchvision._meta_registrations"
        sys.modules.setdefault(described, types.ModuleType(described))
        with stand_ins(*self.without):
            self.function = getattr(importlib.import_module(self.module), self.name)
