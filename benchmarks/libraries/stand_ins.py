"""Import the losses of a library without the heavy packages that its other parts need.

Some libraries import torchvision or OpenCV with everything they have, though no loss that is
checked here touches them. Where such a package is not installed, something stands in for it while
the library is imported; whoever uses the stand-in gets an ``ImportError``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from typing import Any


class _Missing:
    """A class or function of a package that is not there; it can be inherited from, not used."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise ImportError(f"`{type(self).__name__}` belongs to a package that is not installed")


class _StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Missing,), {})


@contextlib.contextmanager
def stand_ins(*modules: str) -> Iterator[None]:
    """Let ``modules`` be imported within the block, those that are missing as stand-ins.

    Args:
        modules: full names, a package before its parts.
    """
    missing = {name for name in modules if _top(name) not in sys.modules}
    missing = {name for name in missing if importlib.util.find_spec(_top(name)) is None}
    try:
        for name in modules:
            if name in missing:
                _put(name)
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _put(name: str) -> None:
    module = _StandIn(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def without_its_init(package: str) -> None:
    """Register a package whose ``__init__`` is not run, so that one part can be imported alone."""
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ImportError(f"`{package}` is not installed")
    sys.modules[package] = importlib.util.module_from_spec(spec)
