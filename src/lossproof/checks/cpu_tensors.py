"""Tensors that a loss makes for itself on the CPU, found in its source.

Torch's own functions (``torch.zeros``) are seen while they run. What they do not show is found
here: the old constructors (``torch.FloatTensor``) and ``torch.from_numpy``, which run unseen,
attributes that a module's constructor fills, and globals that the file fills.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import re
from collections.abc import Iterator
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import nn

from lossproof.checks.causes.source import source_of
from lossproof.checks.report import Location
from lossproof.checks.sources import Sources, syntax_tree
from lossproof.checks.trace import tensors_in

Tensor = torch.Tensor

UNSEEN = frozenset(
    """
    Tensor FloatTensor DoubleTensor HalfTensor BFloat16Tensor LongTensor IntTensor ShortTensor
    CharTensor ByteTensor BoolTensor from_numpy
    """.split()
)
_MAKES = UNSEEN | frozenset(
    """
    arange as_tensor empty eye full hann_window linspace logspace ones rand randn randint tensor
    zeros one_hot meshgrid stack cat
    """.split()
)
_DEVICE = re.compile(r"\bdevice\b|\.(cuda|is_cuda|type_as|new_(ones|zeros|tensor|full))\b")
_MOVES = frozenset({"to", "cuda", "type_as", "new_tensor"})


def unseen(frame: FrameType, tensor: Tensor) -> tuple[str, Location] | None:
    """The old constructor that made a tensor of a frame, by its name, and where it stands."""
    names = {name for name, value in frame.f_locals.items() if value is tensor}
    code = frame.f_code
    for node in _statements(code.co_filename):
        line, end = node.lineno, node.end_lineno or node.lineno
        if not code.co_firstlineno <= line <= frame.f_lineno:
            continue
        targets = {target.id for target in _targets(node) if isinstance(target, ast.Name)}
        if not (targets & names or (not names and line <= frame.f_lineno <= end)):
            continue
        made = _maker(node.value, UNSEEN)
        if made is not None:
            name, call = made
            return name, Location.at(code.co_filename, call.lineno, function=code.co_name)
    return None


def held_by_module(module: nn.Module, sources: Sources) -> Iterator[tuple[str, Tensor, Location]]:
    """Tensors in plain attributes that a module's own constructor made, and where."""
    for path, part in module.named_modules():
        stored = _stored(type(part), sources)
        for name, value in vars(part).items():
            if name in stored:
                for tensor in tensors_in(value):
                    yield f"{path}.{name}".lstrip("."), tensor, stored[name]


def speaks_of_devices(call: Any, sources: Sources) -> bool:
    """Whether the source of a loss asks for a device, or names one, anywhere."""
    texts = []
    for function in _functions(call):
        if sources.owns(function.__code__.co_filename):
            with contextlib.suppress(OSError, TypeError):
                texts.append(inspect.getsource(function))
    return any(_DEVICE.search(text) for text in texts)


def held_by_globals(call: Any, sources: Sources) -> Iterator[tuple[str, Tensor, Location]]:
    """Tensors that the loss reads from globals which its file fills, and where."""
    for function in _functions(call):
        file = function.__code__.co_filename
        if not sources.owns(file):
            continue
        for name in function.__code__.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, Tensor):
                for node in _module_statements(file):
                    targets = [t.id for t in _targets(node) if isinstance(t, ast.Name)]
                    if name in targets and _maker(node.value, _MAKES):
                        yield name, value, Location.at(file, node.lineno)


def _functions(call: Any) -> Iterator[FunctionType]:
    while isinstance(call, functools.partial):
        call = call.func
    call = getattr(call, "__func__", call)
    if isinstance(call, FunctionType):
        yield call
        return
    for base in type(call).__mro__:
        yield from (member for member in vars(base).values() if isinstance(member, FunctionType))


def _stored(cls: type, sources: Sources) -> dict[str, Location]:
    """Attributes that a constructor assigns a tensor of its own making, and where."""
    found: dict[str, Location] = {}
    for base in cls.__mro__:
        function = vars(base).get("__init__")
        source = source_of(function)
        if source is None or not sources.owns(source.file):
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assign) and _maker(node.value, _MAKES):
                for target in _targets(node):
                    if isinstance(target, ast.Attribute):
                        found.setdefault(target.attr, source.location(node))
    return found


def _targets(node: ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Return) -> Iterator[ast.expr]:
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    for target in targets:
        if isinstance(target, ast.Tuple):
            yield from target.elts
        elif target is not None:
            yield target


def _maker(node: ast.expr | None, makers: frozenset[str]) -> tuple[str, ast.Call] | None:
    """The call in an expression that makes a tensor on the CPU, unless something moves it."""
    calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)] if node else []
    if any(keyword.arg == "device" for call in calls for keyword in call.keywords):
        return None
    names = [(_called(call), call) for call in calls]
    if any(name in _MOVES for name, _ in names):
        return None
    return next(((name, call) for name, call in names if name in makers), None)


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _statements(file: str) -> list[Any]:
    tree = syntax_tree(file)
    kinds = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def _module_statements(file: str) -> list[Any]:
    tree = syntax_tree(file)
    return [node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
