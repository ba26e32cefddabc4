"""A backward that was written by hand, checked with the arguments of a recorded call."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lossproof.checks.report import Finding, Severity
from lossproof.checks.run import check
from lossproof.checks.trace import tensors_in
from lossproof.errors import LossproofError
from lossproof.watcher.alarm import Diagnosis
from lossproof.watcher.batch import mapped
from lossproof.watcher.kept import everything_kept
from lossproof.watcher.lines import nodes_from
from lossproof.watcher.record import Call, StepRecord

Tensor = torch.Tensor

RULES = ("LP202", "LP203", "LP206", "LP207")
"""What can be wrong with a backward."""
LARGE = 2**16
"""Of arguments with more elements some rows are taken, where the loss is content with them."""
FIRST_ROWS = "seen with the first rows of the batch"
NOT_THEIRS, DEMO = ("torch.", "lossproof."), "lossproof.demo."
"""Packages whose backward is not in question; what the demo shows is such as users write."""


def has_handwritten_backward(result: Any, arguments: Any = ()) -> bool:
    """Whether a result was made with an ``autograd.Function`` that is neither torch's nor ours.

    Args:
        result: what a call returned, with its graph.
        arguments: what it was given; the graph is not searched beyond them.
    """
    ends = [tensor.grad_fn for tensor in tensors_in(arguments) if tensor.grad_fn is not None]
    roots = [tensor.grad_fn for tensor in tensors_in(result)]
    return any(_is_handwritten(node) for node in nodes_from(roots, ends) if node not in ends)


def _is_handwritten(node: Any) -> bool:
    made_by = getattr(type(node), "_forward_cls", None)
    if made_by is None:
        return False
    name = f"{made_by.__module__}."
    return name.startswith(DEMO) or not name.startswith(NOT_THEIRS)


def examine_backward(call: Call, *, seconds: float = 20.0) -> tuple[Finding, ...]:
    """Check the backward of a recorded call with its own arguments, on copies of them.

    Args:
        call: the call. Of a large batch the first rows are taken, where the loss accepts them.
        seconds: after so long the check is given up, and nothing is said.

    Returns:
        The errors that the check convicted, each with its line and mend.
    """
    found: dict[tuple[str, str], Finding] = {}
    end = time.perf_counter() + seconds
    with everything_kept([call], nn.Module()):
        for place in _handwritten_results(call):
            left = end - time.perf_counter()
            if left <= 0:
                break
            function, inputs, cut = _as_a_loss(call, place)
            try:
                report = check(function, *inputs, select=RULES, time_limit=left)
            except LossproofError:  # it cannot be called in this way: nothing is convicted
                continue
            for one in report.findings:
                if one.code in RULES and one.severity is Severity.ERROR:
                    notes = (*one.notes, FIRST_ROWS) if cut else one.notes
                    found.setdefault((one.code, one.message), replace(one, notes=notes))
    return tuple(found.values())


def wrong_backward(record: StepRecord, model: nn.Module, term: str | None) -> Diagnosis:
    """What is wrong with the hand-written backward of a step's terms."""
    for call in record.calls:
        if call.role == "terms" and term in (None, call.name, *_keys(call.result)):
            findings = examine_backward(call)
            if findings:
                first = findings[0]
                return Diagnosis(
                    "loss", "backward", location=first.location, help=first.help, findings=findings
                )
    return Diagnosis(caveat="no backward of this step could be convicted")


def _keys(result: Any) -> Iterable[str]:
    return map(str, result) if isinstance(result, dict) else ()


def _handwritten_results(call: Call) -> list[int]:
    """The places of the results that were made with a hand-written backward."""
    return [
        place
        for place, tensor in enumerate(tensors_in(call.result))
        if has_handwritten_backward(tensor, [call.args, call.kwargs])
    ]


def _as_a_loss(call: Call, place: int) -> tuple[Callable[..., Any], list[Any], bool]:
    """Something to check, its inputs, and whether these are only the first rows of the batch."""
    args, kwargs = _positional(call)
    rows = _enough_rows(call.function, args, kwargs)
    if rows is not None:
        args, kwargs = mapped((args, kwargs), lambda one: _first_rows(one, *rows))
    args, kwargs = mapped((args, kwargs), _fresh)
    function = call.function
    if len(list(tensors_in(call.result))) > 1:
        function = _one_of(function, place)
    hidden = [one for one in (*args, *kwargs.values()) if not isinstance(one, Tensor)]
    if any(isinstance(one, Tensor) for one in kwargs.values()) or list(tensors_in(hidden)):
        function, args = _flat(function, args, kwargs)
    elif kwargs:
        function = functools.partial(function, **kwargs)
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        function = owner  # a check knows a Function by its class
    return function, args, rows is not None


def _positional(call: Call) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, by position where they can be given so, as a check gives them."""
    function = call.function
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        bound = inspect.signature(target).bind(*call.args, **call.kwargs)
    except (TypeError, ValueError):
        return list(call.args), dict(call.kwargs)
    return list(bound.args), dict(bound.kwargs)


def _flat(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], list[Tensor]]:
    """The function with each tensor as an argument of its own: a check looks into no dictionary."""

    def flat(*tensors: Tensor) -> Any:
        following = iter(tensors)
        own, named = mapped((args, kwargs), lambda _: next(following))
        return function(*own, **named)

    flat.__qualname__ = getattr(function, "__qualname__", type(function).__name__)
    return flat, list(tensors_in((args, kwargs)))


def _one_of(function: Callable[..., Any], place: int) -> Callable[..., Any]:
    """The function that returns one of the terms alone."""

    @functools.wraps(function)
    def one(*args: Any, **kwargs: Any) -> Any:
        return list(tensors_in(function(*args, **kwargs)))[place]

    return one


def _enough_rows(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> tuple[int, int] | None:
    """To how many rows of how many a large batch is cut; ``None`` where it stays as it is."""
    tensors = list(tensors_in((args, kwargs)))
    numbers = sum(tensor.numel() for tensor in tensors)
    size = next((int(tensor.shape[0]) for tensor in tensors if tensor.dim()), 0)
    if numbers <= LARGE or size < 4:
        return None
    rows = max(int(size * LARGE / numbers), 2)
    own, named = mapped((args, kwargs), lambda one: _first_rows(one.detach(), rows, size).clone())
    try:
        with torch.no_grad():
            function(*own, **named)
    except Exception:  # it needs the whole batch
        return None
    return rows, size


def _first_rows(tensor: Tensor, rows: int, size: int) -> Tensor:
    if isinstance(tensor, nn.Parameter) or not tensor.dim() or tensor.shape[0] != size:
        return tensor
    return tensor[:rows]


def _fresh(tensor: Tensor) -> Tensor:
    """A leaf of its own with the same numbers."""
    copy = tensor.detach().clone()
    return copy.requires_grad_() if tensor.requires_grad else copy
