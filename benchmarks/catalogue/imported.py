"""What another library offers, imported and made when it is first called, and kept.

So a table of peers can be read where a library is not installed; and from the second call on
nothing happens but what happens to the library's users, who import a loss and make it long before
they compile it or take a second derivative of it.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import operator
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.libraries.stand_ins import stand_ins

NEEDLESS = {
    "allrank": ("gcsfs", "pkg_resources"),
    "pycox": ("requests",),
    "pytorch_toolbelt": ("cv2",),
}
"""What a package imports, though its losses do not use it."""


class Imported:
    """A function of another library.

    Args:
        module: where it is defined.
        name: what it is called there; dots lead to a function of a class.
    """

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self.function: Any = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.function is None:
            self.load()
        return self.function(*args, **options)

    def load(self) -> None:
        """Import it, which its first call does otherwise."""
        # A torchvision without its compiled operators cannot describe them to torch.
        described = "torchvision._meta_registrations"
        sys.modules.setdefault(described, types.ModuleType(described))
        with stand_ins(*NEEDLESS.get(self.module.partition(".")[0], ())):
            module = importlib.import_module(self.module)
        self.function = operator.attrgetter(self.name)(module)


class Kept:
    """A Module of another library, made once.

    One with parameters or buffers is kept in the dtype of each first input, as a user has it who
    calls ``.double()`` or ``.half()`` on what is trained.

    Args:
        make: imports and makes it.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.made: Any = None
        self.cast: dict[torch.dtype, Any] = {}

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.of(args[0].dtype)(*args, **options)

    def of(self, dtype: torch.dtype) -> Any:
        """The one for inputs of a dtype."""
        if dtype not in self.cast:
            self._keep(dtype)
        return self.cast[dtype]

    def _keep(self, dtype: torch.dtype) -> None:
        if self.made is None:
            self.made = self.make()
        self.cast[dtype] = (
            copy.deepcopy(self.made).to(dtype) if _has_state(self.made) else self.made
        )


def _has_state(made: Any) -> bool:
    if not isinstance(made, torch.nn.Module):
        return False
    return any(True for _ in itertools.chain(made.parameters(), made.buffers()))


def layer(module: str, name: str, *arguments: Any, **options: Any) -> Kept:
    """A Module of another library, of its class and options."""
    return Kept(lambda: Imported(module, name)(*arguments, **options))
