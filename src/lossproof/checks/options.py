"""The options of a loss, and the same loss with another value for one of them.

An option sits in the constructor of the loss's class, in an attribute, in a keyword of the call, or
among the values it is called with. A constructor's option is changed by making the object again
with all its other options as they are, which is the only way that shows what becomes of it where
the constructor turns it into something else.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lossproof.checks.causes.source import FunctionSource, source_of
from lossproof.checks.subject import Subject, subject_of

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Constructor:
    """How an instance was made: its class, and the value of each argument as far as it is known."""

    instance: Any
    parameters: Mapping[str, inspect.Parameter]
    arguments: Mapping[str, Any]

    def again(self, **changes: Any) -> Any:
        """Another instance, with some arguments changed, and the parameters of this one."""
        made = type(self.instance)(**{**self.arguments, **changes})
        if isinstance(made, nn.Module) and isinstance(self.instance, nn.Module):
            _copy_parameters(self.instance, made)
            made.train(self.instance.training)
        return made


def _copy_parameters(old: nn.Module, new: nn.Module) -> None:
    mine = dict(old.named_parameters())
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            if name in mine and mine[name].shape == parameter.shape:
                parameter.copy_(mine[name])


def instance_of(case: Examination) -> Any:
    """The object that holds the loss's options; ``None`` for a plain function."""
    call = case.subject.call
    owner = getattr(call, "__self__", call)
    if isinstance(owner, functools.partial) or inspect.isroutine(owner) or isinstance(owner, type):
        return None
    return owner


def constructor_of(instance: Any) -> Constructor | None:
    """Recover what an instance was made with; ``None`` where an argument cannot be told."""
    try:
        signature = inspect.signature(type(instance))
    except (TypeError, ValueError):
        return None
    stored = stored_arguments(type(instance))
    arguments = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind not in PLAIN:
            continue
        found, value = _recovered(instance, stored.get(name, name))
        if found:
            arguments[name] = value
        elif parameter.default is parameter.empty:
            return None
    parameters = {n: p for n, p in signature.parameters.items() if p.kind in PLAIN}
    return Constructor(instance, parameters, arguments)


def _recovered(instance: Any, attribute: str | None) -> tuple[bool, Any]:
    if attribute is None or not hasattr(instance, attribute):
        return False, None
    value = getattr(instance, attribute)
    if callable(value) and inspect.ismethod(value):
        return False, None
    return True, value


def constructor_source(cls: type) -> FunctionSource | None:
    """The source of the constructor that a class uses, where it is Python of somebody's own."""
    for base in cls.__mro__:
        if "__init__" in vars(base):
            return source_of(vars(base)["__init__"])
    return None


def stored_arguments(cls: type) -> dict[str, str | None]:
    """Constructor argument -> the attribute that keeps it as it is.

    ``None`` where it is kept under its own name only after it was turned into something else.
    """
    source = constructor_source(cls)
    found: dict[str, str | None] = {}
    if source is None:
        return found
    for attribute, value in assignments(source.tree):
        name = handed_on(value)
        if name is not None:
            found.setdefault(name, attribute)
        else:
            for inner in ast.walk(value):
                if isinstance(inner, ast.Name) and inner.id == attribute:
                    found.setdefault(attribute, None)
    return found


def assignments(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Every ``self.attribute = value`` of a method; tuples are taken apart."""
    arguments = getattr(tree, "args", None)
    own = arguments.args[0].arg if arguments is not None and arguments.args else "self"
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            targets: list[ast.expr] = [node.target]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        else:
            continue
        assert node.value is not None
        for target in targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for one, value in pairs:
                if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name):
                    if one.value.id == own:
                        yield one.attr, value


def handed_on(value: ast.expr) -> str | None:
    """The name that is stored as it is, or as a plain number."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and len(value.args) == 1:
        if value.func.id in ("float", "int", "bool", "str"):
            value = value.args[0]
    return value.id if isinstance(value, ast.Name) else None


# ---------------------------------------------------------------------- variants


def keyword_options(case: Examination) -> dict[str, Any]:
    """The keywords of the call that the inputs leave at their defaults, with those."""
    signature = case.subject.signature
    if signature is None:
        return {}
    positional = case.subject.parameter_names[: len(case.inputs.arguments)]
    return {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if name not in positional
        and parameter.kind in PLAIN
        and parameter.default is not parameter.empty
    }


def with_keyword(subject: Subject, name: str, value: Any) -> Subject:
    """The loss, called with a keyword."""
    return replace(subject, call=functools.partial(subject.call, **{name: value}))


def with_argument(subject: Subject, position: int, value: Any) -> Subject:
    """The loss, called with another value for one of its positional arguments."""

    def call(*arguments: Any) -> Any:
        return subject.call(*arguments[:position], value, *arguments[position + 1 :])

    return replace(subject, call=call)


def with_attribute(subject: Subject, owner: Any, name: str, value: Any) -> Subject:
    """The loss with another value for an attribute; the state puts it back after the call."""

    def call(*arguments: Any) -> Any:
        setattr(owner, name, value)
        return subject.call(*arguments)

    return replace(subject, call=call)


def remade(case: Examination, constructor: Constructor, **changes: Any) -> Subject | None:
    """The loss made again with other options; ``None`` where that raises."""
    try:
        made = constructor.again(**changes)
    except Exception:
        return None
    call: Callable[..., Any] = made
    bound = case.subject.call
    if inspect.ismethod(bound):
        call = getattr(made, bound.__name__)
    return subject_of(call)
