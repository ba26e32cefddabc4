"""The modules that a loss calls, each examined as a loss of its own.

A loss is often handed over inside a lambda (``lambda x, y: criterion(x, y[0])``) or is one term of
a module that adds several. The module inside is examined with the arguments that it is called with.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lossproof.checks.definitions import functions
from lossproof.checks.inputs import inputs_for
from lossproof.checks.subject import subject_of
from lossproof.errors import UsageError

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

MOST = 4
"""How many modules are looked at."""


def inner_losses(case: Examination) -> Iterator[Examination]:
    """An examination of each module of the user's own that the loss calls once with tensors."""
    modules = _modules(case)[:MOST]
    if not modules:
        return
    for module, calls in zip(modules, _calls(case, modules), strict=True):
        if len(calls) == 1 and any(isinstance(value, torch.Tensor) for value in calls[0]):
            inner = _examination(case, module, calls[0])
            if inner is not None:
                yield inner


def _modules(case: Examination) -> list[nn.Module]:
    held: dict[int, nn.Module] = {}
    call = case.subject.call
    own = getattr(call, "__self__", call)
    if isinstance(own, nn.Module):
        candidates: list[Any] = [part for part in own.modules() if part is not own]
    else:
        candidates = [value for function in functions(case.subject) for value in _seen(function)]
    for value in candidates:
        if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
            if case.subject.sources.owns(_file(type(value))):
                held[id(value)] = value
    return list(held.values())


def _seen(function: Any) -> Iterator[Any]:
    """The values of the names that a function closes over or reads from its globals."""
    names = inspect.getclosurevars(function)
    yield from names.nonlocals.values()
    yield from names.globals.values()


def _file(cls: type) -> str:
    try:
        return inspect.getsourcefile(cls) or ""
    except TypeError:
        return ""


def _calls(case: Examination, modules: list[nn.Module]) -> list[list[tuple[Any, ...]]]:
    """The positional arguments of every call of each module."""
    calls: list[list[tuple[Any, ...]]] = [[] for _ in modules]

    def call(*arguments: Any) -> Any:
        # The state takes these attributes away again after the call.
        for module, heard in zip(modules, calls, strict=True):
            module.forward = _listening(module.forward, heard)
        return case.subject.call(*arguments)

    case.evaluate(backward=False, subject=replace(case.subject, call=call))
    return calls


def _listening(forward: Any, heard: list[tuple[Any, ...]]) -> Any:
    def listen(*arguments: Any, **keywords: Any) -> Any:
        kept = tuple(
            value.detach().clone().requires_grad_(value.requires_grad)
            if isinstance(value, torch.Tensor)
            else value
            for value in arguments
        )
        heard.append(() if keywords else kept)
        return forward(*arguments, **keywords)

    return listen


def _examination(
    case: Examination, module: nn.Module, arguments: tuple[Any, ...]
) -> Examination | None:
    try:
        subject = subject_of(module)
        inner = type(case)(subject, inputs_for(subject, arguments, case.seed), case.seed)
    except UsageError:
        return None
    return None if inner.base.failed or inner.base.value is None else inner
