"""Everything a loss remembers between two calls, so that no call can leave a trace.

A loss keeps state in its module's parameters, buffers and attributes, in an object it belongs to,
in the variables it closes over, and in the globals it reads. :class:`State` finds those places
once, can tell what a call changed there, can put everything back as it was (the very same
objects), and can lend the loss float64 versions of its tensors for the time of one call.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from lossproof.checks.sources import Sources

Tensor = torch.Tensor
NARROW = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Change:
    """One thing that a call left different from what it found."""

    path: str
    kind: str
    """``new``, ``rebound``, ``written`` (in place), ``grown`` (a container)."""
    before: Any
    after: Any


class _Cell:
    """A closure cell with the face of a mapping."""

    def __init__(self, cell: CellType) -> None:
        self.cell = cell

    def get(self, key: str) -> Any:
        return self.cell.cell_contents

    def __setitem__(self, key: str, value: Any) -> None:
        self.cell.cell_contents = value


@dataclass(eq=False)
class _Slot:
    """A place where a value hangs: a key of a ``__dict__``, of a module's buffers, a cell."""

    path: str
    container: Any
    key: str
    value: Any
    copy: Any
    version: int
    twin: Any = None

    def current(self) -> Any:
        return self.container.get(self.key)

    def change(self) -> Change | None:
        now = self.current()
        if now is not self.value:
            return Change(self.path, "rebound", self.copy, now)
        if isinstance(now, Tensor) and now._version != self.version:
            # Many writes put back what was there (`clamp_` of a buffer); those change nothing.
            if not _equal(now, self.copy):
                return Change(self.path, "written", self.copy, now.detach().clone())
        elif isinstance(now, (list, dict, set)) and not _same_items(now, self.copy):
            return Change(self.path, "grown", self.copy, _shallow(now))
        return None

    def restore(self) -> None:
        if self.current() is not self.value:
            self.container[self.key] = self.value
        if isinstance(self.value, Tensor):
            if self.value._version != self.version:
                with torch.no_grad():
                    self.value.copy_(self.copy)
                self.version = self.value._version
        elif isinstance(self.value, (list, dict, set)) and not _same_items(self.value, self.copy):
            _refill(self.value, self.copy)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one.detach(), other))


def _shallow(value: Any) -> Any:
    return value.copy() if isinstance(value, (list, dict, set)) else value


def _same_items(one: Any, other: Any) -> bool:
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(key in other and other[key] is item for key, item in one.items())
    if isinstance(one, set):
        return bool(one == other)
    return all(a is b for a, b in zip(one, other, strict=True))


def _refill(target: Any, content: Any) -> None:
    if isinstance(target, list):
        target[:] = content
        return
    target.clear()
    target.update(content)


def _is_object(value: Any) -> bool:
    """Whether this is an instance whose attributes may hold a loss's state."""
    if isinstance(value, (type, ModuleType, FunctionType, Tensor, torch.Generator)):
        return False
    module = type(value).__module__
    return hasattr(value, "__dict__") and (
        isinstance(value, nn.Module) or module.partition(".")[0] not in ("builtins", "torch")
    )


class State:
    """What a loss remembers.

    Args:
        owner: the loss itself: a module, a callable object, or a function.
        sources: tells the user's own functions, whose globals count, from everybody else's.
    """

    def __init__(self, owner: Any, sources: Sources) -> None:
        self._sources = sources
        self._slots: list[_Slot] = []
        self._dictionaries: list[tuple[str, dict[str, Any], frozenset[str]]] = []
        self._seen: set[int] = set()
        self._visit("", owner)

    def _visit(self, path: str, value: Any, depth: int = 0) -> None:
        if id(value) in self._seen or depth > 6:
            return
        self._seen.add(id(value))
        if isinstance(value, MethodType):
            self._visit(path, value.__self__, depth)
            self._visit_function(path, value.__func__, depth)
        elif isinstance(value, FunctionType):
            self._visit_function(path, value, depth)
        elif isinstance(value, type):
            self._visit_methods(path, value, depth)
        elif hasattr(value, "func") and hasattr(value, "keywords"):
            self._visit(path, value.func, depth)
        elif _is_object(value):
            self._visit_object(path, value, depth)

    def _visit_object(self, path: str, value: Any, depth: int) -> None:
        prefix = f"{path}." if path else "self."
        self._add_dictionary(prefix, vars(value), depth)
        if isinstance(value, nn.Module):
            for group in (value._parameters, value._buffers):
                self._add_dictionary(prefix, group, depth)
            for name, child in value._modules.items():
                self._visit(f"{prefix}{name}", child, depth + 1)
        self._visit_methods(path, type(value), depth)

    def _visit_methods(self, path: str, cls: type, depth: int) -> None:
        """A method's globals count as a function's do."""
        for base in cls.__mro__:
            for member in vars(base).values():
                function = getattr(member, "__func__", member)
                if isinstance(function, FunctionType):
                    self._visit_function(path, function, depth)

    def _add_dictionary(self, prefix: str, dictionary: dict[str, Any], depth: int) -> None:
        self._dictionaries.append((prefix, dictionary, frozenset(dictionary)))
        for name, value in list(dictionary.items()):
            if name in ("_parameters", "_buffers", "_modules") or name.endswith("_hooks"):
                continue
            self._add_slot(f"{prefix}{name}", dictionary, name, value, depth)

    def _add_slot(self, path: str, container: Any, key: str, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            copy: Any = value.detach().clone()
            version = value._version
        else:
            copy, version = _shallow(value), 0
        self._slots.append(_Slot(path, container, key, value, copy, version))
        if isinstance(value, (list, tuple)):
            for position, item in enumerate(value[:64]):
                self._visit(f"{path}[{position}]", item, depth + 1)
        elif isinstance(value, dict):
            for name, item in list(value.items())[:64]:
                self._visit(f"{path}[{name!r}]", item, depth + 1)
        else:
            self._visit(path, value, depth + 1)

    def _visit_function(self, path: str, function: FunctionType, depth: int) -> None:
        if (
            id(function) in self._seen
            and depth
            or not self._sources.owns(function.__code__.co_filename)
        ):
            return
        self._seen.add(id(function))
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            with contextlib.suppress(ValueError):  # a cell that is not filled yet
                self._add_slot(name, _Cell(cell), name, cell.cell_contents, depth + 1)
        for name in sorted(_global_names(function)):
            value = function.__globals__[name]
            if isinstance(value, (FunctionType, type)):
                self._visit(name, value, depth + 1)
            elif not isinstance(value, ModuleType) and not callable(value) or _is_object(value):
                self._add_slot(name, function.__globals__, name, value, depth + 1)
        for default in (function.__defaults__ or (), (function.__kwdefaults__ or {}).values()):
            for value in default:
                if isinstance(value, (list, dict, set)):
                    self._add_slot("a default argument", {"value": value}, "value", value, depth)

    def changes(self) -> list[Change]:
        """What is different now from when this was made or last restored."""
        found = [change for change in (slot.change() for slot in self._slots) if change]
        for prefix, dictionary, names in self._dictionaries:
            found += [
                Change(f"{prefix}{name}", "new", None, dictionary[name])
                for name in dictionary
                if name not in names
            ]
        return found

    def restore(self) -> None:
        """Put everything back as it was found."""
        for slot in self._slots:
            slot.restore()
        for _, dictionary, names in self._dictionaries:
            for name in [name for name in dictionary if name not in names]:
                del dictionary[name]

    @contextlib.contextmanager
    def lent(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Give the loss its tensors in ``dtype`` for the time of the block, then restore."""
        try:
            if dtype is not None:
                for slot in self._slots:
                    self._lend(slot, dtype)
            yield
        finally:
            self.restore()

    def _lend(self, slot: _Slot, dtype: torch.dtype) -> None:
        value = slot.value
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return
        twin = slot.copy.to(dtype).clone()
        if isinstance(value, nn.Parameter):
            twin = nn.Parameter(twin, requires_grad=value.requires_grad)
        elif value.requires_grad:
            twin.requires_grad_()
        slot.container[slot.key] = twin

    def parameters(self) -> dict[str, Tensor]:
        """The leaves that require a gradient, as they hang at this moment, by path."""
        found: dict[str, Tensor] = {}
        known: set[int] = set()
        for slot in self._slots:
            value = slot.current()
            if isinstance(value, Tensor) and value.is_leaf and value.requires_grad:
                if id(value) not in known:
                    known.add(id(value))
                    found[slot.path] = value
        return found


def _global_names(function: FunctionType) -> set[str]:
    """The globals a function reads, and those of the functions and lambdas within it."""
    names: set[str] = set()
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        names |= set(code.co_names)
        waiting += [constant for constant in code.co_consts if inspect.iscode(constant)]
    return {name for name in names if name in function.__globals__}
