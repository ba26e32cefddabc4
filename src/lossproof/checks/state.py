"""Everything a loss remembers between two calls, so that no call can leave a trace.

A loss keeps state in its module's parameters, buffers and attributes, in an object or a class it
belongs to, in the variables it closes over, in its default arguments and in the globals it reads;
and in whatever lists, dictionaries, tensors, arrays and random generators hang there.
:class:`State` finds those places once, can tell what a call changed there, can put everything back
as it was (the very same objects, bit for bit), and can lend the loss float64 versions of its
tensors for the time of one call.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from lossproof.checks.sources import Sources

Tensor = torch.Tensor
DEPTH = 8
"""How far to follow objects that hold objects."""
STANDARD = ("builtins", "collections")
"""Where containers come from that can be copied and asked for their items without a side effect."""


@dataclass(frozen=True)
class Change:
    """One thing that a call left different from what it found."""

    path: str
    kind: str
    """``new``, ``rebound`` (or removed), ``written`` (in place), ``grown`` (a container)."""
    before: Any
    after: Any


class _Bindings:
    """Names bound to values: a ``__dict__``, some globals, a class's attributes, a closure cell."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.kept = dict(self.current())
        self._found = self._as_it_is()

    def _everything(self) -> Mapping[str, Any]:
        """The names and values as they lie there, with those that are no data."""
        return self.current()

    def _as_it_is(self) -> tuple[list[str], list[int], list[Any]]:
        """Names, identities and values; the values live on, so that no id is used twice."""
        everything = self._everything()
        values = list(everything.values())
        return list(everything), list(map(id, values)), values

    def _is_untouched(self) -> bool:
        """Whether every name is bound as it was, in the same order: so it is after most calls."""
        everything = self._everything()
        names, identities, _ = self._found
        return list(map(id, everything.values())) == identities and list(everything) == names

    def current(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def assign(self, name: str, value: Any) -> None:
        raise NotImplementedError

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def changes(self) -> Iterator[Change]:
        if self._is_untouched():
            return
        now = self.current()
        for name, value in self.kept.items():
            if name not in now or now[name] is not value:
                yield Change(f"{self.prefix}{name}", "rebound", value, now.get(name))
        for name in now:
            if name not in self.kept:
                yield Change(f"{self.prefix}{name}", "new", None, now[name])

    def restore(self) -> None:
        if self._is_untouched():
            return
        now = self.current()
        for name in [name for name in now if name not in self.kept]:
            self.remove(name)
        for name, value in self.kept.items():
            if name not in now or now[name] is not value:
                self.assign(name, value)


class _Dictionary(_Bindings):
    """All names of a dictionary: of an instance, of a module's buffers, of a function."""

    def __init__(self, prefix: str, dictionary: dict[str, Any]) -> None:
        self.dictionary = dictionary
        super().__init__(prefix)

    def current(self) -> Mapping[str, Any]:
        return self.dictionary

    def assign(self, name: str, value: Any) -> None:
        self.dictionary[name] = value

    def remove(self, name: str) -> None:
        del self.dictionary[name]

    def restore(self) -> None:
        if self._is_untouched():
            return
        super().restore()
        if list(self.current()) != list(self.kept):
            # The order of a module's children is the order in which they are called.
            for name in self.kept:
                self.dictionary[name] = self.dictionary.pop(name)


class _Globals(_Dictionary):
    """The globals that a function names, those included that it has yet to make."""

    def __init__(self, prefix: str, dictionary: dict[str, Any], names: set[str]) -> None:
        self.names = sorted(n for n in names if n in dictionary or not hasattr(builtins, n))
        super().__init__(prefix, dictionary)

    def current(self) -> Mapping[str, Any]:
        return {name: self.dictionary[name] for name in self.names if name in self.dictionary}


class _Class(_Bindings):
    """The data among a class's attributes."""

    def __init__(self, prefix: str, cls: type) -> None:
        self.cls = cls
        super().__init__(prefix)

    def _everything(self) -> Mapping[str, Any]:
        return vars(self.cls)

    def current(self) -> Mapping[str, Any]:
        return {
            name: value
            for name, value in vars(self.cls).items()
            if not (name.startswith("__") or isinstance(value, type) or hasattr(value, "__get__"))
        }

    def assign(self, name: str, value: Any) -> None:
        setattr(self.cls, name, value)

    def remove(self, name: str) -> None:
        delattr(self.cls, name)


class _Cell(_Bindings):
    """A variable that a function closes over."""

    def __init__(self, name: str, cell: CellType) -> None:
        self.name = name
        self.cell = cell
        super().__init__("")

    def current(self) -> Mapping[str, Any]:
        try:
            return {self.name: self.cell.cell_contents}
        except ValueError:  # a cell that is not filled yet
            return {}

    def assign(self, name: str, value: Any) -> None:
        self.cell.cell_contents = value

    def remove(self, name: str) -> None:
        del self.cell.cell_contents


class _Container:
    """A list, dictionary, set or deque, and what is in it."""

    def __init__(self, path: str, value: Any) -> None:
        self.path = path
        self.value = value
        self.kept = _copied(value)

    def changes(self) -> Iterator[Change]:
        if not _same_items(self.value, self.kept):
            yield Change(self.path, "grown", _listed(self.kept), _listed(_copied(self.value)))

    def restore(self) -> None:
        if _same_items(self.value, self.kept):
            return
        self.value.clear()
        fill = self.value.extend if isinstance(self.value, (list, deque)) else self.value.update
        fill(self.kept)

    def assign(self, name: Any, value: Any) -> None:
        self.value[name] = value


def _copied(value: Any) -> Any:
    """What is in a container."""
    if type(value).__module__ in STANDARD:
        return value.copy()
    if isinstance(value, dict):
        return dict(_items(value))
    if isinstance(value, deque):
        return deque(value, value.maxlen)
    return list(value) if isinstance(value, list) else set(value)


def _items(value: dict[Any, Any]) -> Iterable[tuple[Any, Any]]:
    """What is in a dictionary, without asking a class that loads an item when it is asked for."""
    return value.items() if type(value).__module__ in STANDARD else dict.items(value)


def _same_items(one: Any, other: Any) -> bool:
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        pairs = zip(_items(one), _items(other), strict=True)
        return all(a is b and here is there for (a, here), (b, there) in pairs)
    if isinstance(one, set):
        return bool(one == other)
    return all(a is b for a, b in zip(one, other, strict=True))


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, (set, deque)) else value


class _Memory:
    """A tensor: its numbers, and whether and with which gradient it was left."""

    def __init__(self, path: str, tensor: Tensor) -> None:
        self.path = path
        self.tensor = tensor
        self.storage = tensor.detach()
        self.kept = self.storage.clone()
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self.kept_grad = None if self.grad is None else self.grad.detach().clone()

    def changes(self) -> Iterator[Change]:
        # Many writes put back what was there (`clamp_` of a buffer); those change nothing.
        if not _equal(self.tensor, self.kept):
            yield Change(self.path, "written", self.kept, self.tensor.detach().clone())

    def restore(self) -> None:
        # Through `.data`: graphs of earlier calls that are still read must not see a new version.
        if self.tensor.data_ptr() != self.storage.data_ptr():
            self.tensor.data = self.storage
        if not _equal(self.tensor, self.kept):
            self.tensor.data.copy_(self.kept)
        if not self.tensor.is_leaf:
            return
        if self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        if self.tensor.grad is not self.grad:
            self.tensor.grad = self.grad
        if self.grad is not None and self.kept_grad is not None:
            self.grad.data.copy_(self.kept_grad)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same, counting NaN as equal to itself."""
    one = one.detach()
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if torch.equal(one, other):
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


class _Array:
    """A numpy array and its numbers."""

    def __init__(self, path: str, array: np.ndarray[Any, Any]) -> None:
        self.path = path
        self.array = array
        self.kept = array.copy()

    def changes(self) -> Iterator[Change]:
        if not np.array_equal(self.array, self.kept, equal_nan=self.kept.dtype.kind in "fc"):
            yield Change(self.path, "written", self.kept, self.array.copy())

    def restore(self) -> None:
        if self.array.flags.writeable:
            self.array[...] = self.kept


class _Generator:
    """A random number generator of the loss's own: each call draws from where it was found."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], Any]) -> None:
        self.write = write
        self.kept = read()

    def changes(self) -> Iterator[Change]:
        return iter(())  # drawing numbers is what a generator is for

    def restore(self) -> None:
        self.write(self.kept)


def _generator(value: Any) -> _Generator | None:
    if isinstance(value, torch.Generator):
        return _Generator(value.get_state, value.set_state)
    if isinstance(value, random.Random):
        return _Generator(value.getstate, value.setstate)
    if isinstance(value, np.random.RandomState):
        return _Generator(value.get_state, value.set_state)
    if isinstance(value, np.random.Generator):
        bits: Any = value.bit_generator
        return _Generator(lambda: bits.state, lambda state: setattr(bits, "state", state))
    return None


def _record(path: str, value: Any) -> _Memory | _Array | _Generator | None:
    """What to keep of a value that holds numbers of its own."""
    if isinstance(value, Tensor):
        # Sparse tensors are not written in place.
        return _Memory(path, value) if value.layout is torch.strided else None
    return _Array(path, value) if isinstance(value, np.ndarray) else _generator(value)


def _is_readable(value: Any) -> bool:
    """Whether this can be looked at: a stand-in for a missing package may raise at a glance."""
    try:
        isinstance(value, Tensor), hasattr(value, "__dict__")
    except Exception:
        return False
    return True


def _is_object(value: Any) -> bool:
    """Whether this is an instance whose attributes may hold a loss's state."""
    if isinstance(value, (type, ModuleType, FunctionType, MethodType)):
        return False
    module = type(value).__module__
    return hasattr(value, "__dict__") and (
        isinstance(value, nn.Module) or module.partition(".")[0] not in ("builtins", "torch")
    )


class State:
    """What a loss remembers.

    Args:
        owner: the loss itself: a module, a callable object, a class, or a function.
        sources: tells the user's own functions, whose globals count, from everybody else's.
    """

    def __init__(self, owner: Any, sources: Sources) -> None:
        self._sources = sources
        self._records: list[_Bindings | _Container | _Memory | _Array | _Generator] = []
        self._places: list[tuple[str, _Bindings | _Container, Any, Any]] = []
        """Path, holder, key and value of everything that is or contains a tensor."""
        self._seen: dict[int, Any] = {}
        """What was visited, kept alive so that no id is used twice."""
        self._visit("", owner, 0)

    # ------------------------------------------------------------------ finding the places
    def _visit(self, path: str, value: Any, depth: int) -> None:
        if depth > DEPTH or id(value) in self._seen or not _is_readable(value):
            return
        if isinstance(value, (int, float, str, bytes)):
            return
        self._seen[id(value)] = value
        record = _record(path, value)
        if record is not None:
            self._records.append(record)
        elif isinstance(value, (list, dict, set, deque)):
            self._visit_container(path, value, depth)
        elif isinstance(value, tuple):
            for position, item in enumerate(value):
                self._visit(f"{path}[{position}]", item, depth + 1)
        elif isinstance(value, MethodType):
            self._visit(path, value.__self__, depth)
            self._visit(path, value.__func__, depth)
        elif isinstance(value, FunctionType):
            self._visit_function(value, depth)
        elif isinstance(value, type):
            self._visit_class(path, value, depth)
        elif _is_object(value):
            self._visit_object(path, value, depth)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._visit(path or "an argument of the partial", part, depth)

    def _visit_object(self, path: str, value: Any, depth: int) -> None:
        prefix = f"{path}." if path else "self."
        if isinstance(value, torch.jit.ScriptModule):
            # TorchScript holds its tensors itself: they can be put back, but not exchanged.
            for name, tensor in (*value.named_parameters(), *value.named_buffers()):
                self._visit(f"{prefix}{name}", tensor, depth + 1)
            return
        if isinstance(value, nn.Module):
            for group in (value._parameters, value._buffers, value._modules):
                self._add(_Dictionary(prefix, group), depth)
        self._add(_Dictionary(prefix, vars(value)), depth)
        if isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._visit(path, part, depth)
        self._visit(path, type(value), depth)

    def _visit_class(self, path: str, cls: type, depth: int) -> None:
        """A class's own data, and what its methods read."""
        prefix = f"{path}." if path else "self."
        for base in cls.__mro__:
            functions = [
                function
                for member in vars(base).values()
                for function in [getattr(member, "__func__", getattr(member, "fget", member))]
                if isinstance(function, FunctionType)
            ]
            if any(self._sources.owns(function.__code__.co_filename) for function in functions):
                self._add(_Class(prefix, base), depth)
            for function in functions:
                self._visit(path, function, depth)

    def _visit_function(self, function: FunctionType, depth: int) -> None:
        if not self._sources.owns(function.__code__.co_filename):
            return
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            self._add(_Cell(name, cell), depth)
        names = _names(function)
        self._add(_Globals("", function.__globals__, names), depth)
        for name in names:
            module = function.__globals__.get(name)
            is_module = issubclass(type(module), ModuleType)
            file = getattr(module, "__file__", None) if is_module else None
            if file is not None and self._sources.owns(file):
                self._add(_Globals(f"{name}.", vars(module), names), depth)
        self._add(_Dictionary(f"{function.__name__}.", vars(function)), depth)
        defaults = function.__defaults__ or ()
        positional = function.__code__.co_varnames[: function.__code__.co_argcount]
        named = dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
        for name, default in {**named, **(function.__kwdefaults__ or {})}.items():
            self._visit(name, default, depth + 1)

    def _add(self, bindings: _Bindings, depth: int) -> None:
        self._records.append(bindings)
        for name, value in bindings.kept.items():
            if name in ("_parameters", "_buffers", "_modules") or not _is_readable(value):
                continue
            self._note_place(f"{bindings.prefix}{name}", bindings, name, value)
            self._visit(f"{bindings.prefix}{name}", value, depth + 1)

    def _visit_container(self, path: str, value: Any, depth: int) -> None:
        container = _Container(path, value)
        self._records.append(container)
        pairs = _items(value) if isinstance(value, dict) else enumerate(value)
        for name, item in list(pairs):
            if isinstance(item, (int, float, str, bytes)):
                continue
            inner = f"{path}[{name!r}]"
            if not isinstance(value, set):
                self._note_place(inner, container, name, item)
            self._visit(inner, item, depth + 1)

    def _note_place(self, path: str, holder: _Bindings | _Container, name: Any, value: Any) -> None:
        if isinstance(value, (Tensor, tuple)):
            self._places.append((path, holder, name, value))

    # ------------------------------------------------------------------ telling and restoring
    def changes(self) -> list[Change]:
        """What is different now from when this was made or last restored."""
        return [change for record in self._records for change in record.changes()]

    def restore(self) -> None:
        """Put everything back as it was found."""
        for record in self._records:
            record.restore()

    # ------------------------------------------------------------------ lending
    @contextlib.contextmanager
    def lent(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Give the loss its tensors in ``dtype`` for the time of the block, then restore."""
        try:
            if dtype is not None:
                self._lend(dtype)
            yield
        finally:
            self.restore()

    def _lend(self, dtype: torch.dtype) -> None:
        twins: dict[int, Any] = {}
        for _, holder, name, value in self._places:
            twin = _twin(value, dtype, twins)
            if twin is not value:
                holder.assign(name, twin)

    def parameters(self) -> dict[str, Tensor]:
        """The leaves that require a gradient, as they hang at this moment, by path."""
        found: dict[str, Tensor] = {}
        known: set[int] = set()
        for path, holder, name, _ in self._places:
            value = _now(holder, name)
            if isinstance(value, Tensor) and value.is_leaf and value.requires_grad:
                if id(value) not in known:
                    known.add(id(value))
                    found[path] = value
        return found


def _now(holder: _Bindings | _Container, name: Any) -> Any:
    if isinstance(holder, _Bindings):
        return holder.current().get(name)
    try:
        return holder.value[name]
    except (KeyError, IndexError):
        return None


def _twin(value: Any, dtype: torch.dtype, twins: dict[int, Any]) -> Any:
    """A tensor, or a tuple with tensors, in another floating type; itself where nothing changes."""
    if id(value) in twins:
        return twins[id(value)]
    twin = value
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.dtype != dtype:
            twin = value.detach().to(dtype)
            if isinstance(value, nn.Parameter):
                twin = nn.Parameter(twin, requires_grad=value.requires_grad)
            elif value.requires_grad:
                twin.requires_grad_()
    elif isinstance(value, tuple):
        items = [_twin(item, dtype, twins) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            # A named tuple takes its items one by one.
            twin = type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    twins[id(value)] = twin
    return twin


def _names(function: FunctionType) -> set[str]:
    """The names a function reads, and those of the functions and lambdas within it."""
    names: set[str] = set()
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        names |= set(code.co_names)
        waiting += [constant for constant in code.co_consts if inspect.iscode(constant)]
    return names
