"""Options that a loss takes and never reads, told from its source."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lossproof.checks.causes.source import FunctionSource
from lossproof.checks.definitions import definitions
from lossproof.checks.options import (
    Constructor,
    assignments,
    constructor_of,
    constructor_source,
    instance_of,
    keyword_options,
    remade,
    with_argument,
    with_attribute,
    with_keyword,
)
from lossproof.checks.report import Location
from lossproof.checks.roles import roles_of
from lossproof.checks.subject import Subject

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

# What describes a loss, or names it, and computes nothing.
_DESCRIBES = re.compile(
    r"^_|^(num|n|nb|no|in|out)_|(^|_)(classes|class_num|nclass|c|names?|devices?|dtype|"
    r"gpu|cuda|verbose|debug|log|logger|rank|world_size|seed|cfg|config|args|kwargs|opt|hparams|"
    r"dims?|size|channels|features|ndim|step|epoch|iter|iteration|inplace|training|mode|cache|"
    r"reduction|reduce|size_average|average|batch_size)$",
    re.I,
)
_DECLARED = re.compile(
    r"unused|not used|never used|no effect|ignored(?! (when|if|unless|for))|"
    r"compatib|consistency|placeholder|for api|kept for|reserved",
    re.I,
)
_NEXT_ARGUMENT = re.compile(r"\n\s*(?!note)`*\w+`*\s*(\([^)]*\))?\s*:", re.I)
_SHOWS = ("extra_repr", "__repr__", "__str__")


@dataclass(frozen=True)
class Unread:
    """An option that nothing reads."""

    name: str
    where: str
    """``constructor`` or ``call``."""
    location: Location | None
    shadowed: Location | None
    """Where the loss assigns a constant to the same name, and so hides the option."""
    variants: tuple[Subject, ...]
    """The loss with other values of the option."""


def unread_options(case: Examination) -> Iterator[Unread]:
    """Every option of the loss that its source stores or takes, and never reads."""
    yield from _of_constructor(case)
    yield from _of_call(case)


def declared_unused(case: Examination, name: str) -> bool:
    """Whether the documentation says that an option does nothing."""
    instance = instance_of(case)
    owner = case.subject.call if instance is None else type(instance)
    texts = [
        getattr(owner, "__doc__", None),
        getattr(getattr(owner, "__init__", None), "__doc__", None),
    ]
    texts += [ast.get_docstring(source.tree) for source in definitions(case.subject)]
    start = rf"^\s*(:param\s+)?[`*]*{re.escape(name)}[`*]*\s*(\([^)]*\))?\s*:"
    pattern = re.compile(rf"{start}(?P<text>.{{0,300}})", re.S | re.M)
    for text in texts:
        for match in pattern.finditer(text or ""):
            own = _NEXT_ARGUMENT.split(match["text"])[0].partition("\n\n")[0]
            if _DECLARED.search(own) or "deprecated" in own.partition("\n")[0].lower():
                return True
    return False


def _of_constructor(case: Examination) -> Iterator[Unread]:
    instance = instance_of(case)
    source = None if instance is None else constructor_source(type(instance))
    if source is None or not case.subject.sources.owns(source.file):
        return
    constructor = constructor_of(instance)
    # A class that overrides `forward` inherits the options of the one above it, and need not read
    # them all: it is enough that the one above does.
    everything = definitions(case.subject, overridden=True)
    methods = [source for source in everything if source.tree.name not in _SHOWS]
    if any(_reads_by_name(method) for method in methods):
        return
    for argument in _arguments(source)[1:]:
        name = argument.arg
        if _DESCRIBES.search(name) or declared_unused(case, name):
            continue
        stored = _stored_only(source, name)
        if stored is None or any(_reads_attribute(methods, attribute) for attribute in stored):
            continue
        variants = _variants(case, constructor, name, stored)
        if variants:
            place = _storing(source, name) or argument
            yield Unread(
                name, "constructor", source.location(place), _constant(methods, name),
                tuple(variants),
            )  # fmt: skip


def _variants(
    case: Examination, constructor: Constructor | None, name: str, stored: list[str]
) -> list[Subject]:
    """The loss made again with other values, else with other values of what keeps the option."""
    instance = instance_of(case)
    if constructor is not None and name in constructor.parameters:
        value = constructor.arguments.get(name, constructor.parameters[name].default)
        made = [remade(case, constructor, **{name: other}) for other in other_values(value)]
        variants = [subject for subject in made if subject is not None]
        if variants:
            return variants
    return [
        with_attribute(case.subject, instance, attribute, other)
        for attribute in stored[:1]
        for other in other_values(getattr(instance, attribute, None))
    ]


def _of_call(case: Examination) -> Iterator[Unread]:
    source = _called(case)
    if source is None or _overrides(case, source) or _reads_locals(source):
        return
    read = {
        node.id
        for statement in source.tree.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Load, ast.Del))
    }
    arguments = {argument.arg: argument for argument in _arguments(source)}
    for name, default in keyword_options(case).items():
        if name not in arguments or name in read:
            continue
        if _DESCRIBES.search(name) or declared_unused(case, name):
            continue
        yield Unread(
            name, "call", source.location(arguments[name]), _constant([source], name),
            tuple(with_keyword(case.subject, name, other) for other in other_values(default)),
        )  # fmt: skip
    roles = roles_of(case.inputs)
    for position, (argument, role) in enumerate(zip(case.inputs.arguments, roles, strict=True)):
        name = argument.name
        if role not in ("weight", "mask", "length") or name in read or name not in arguments:
            continue
        if isinstance(argument.value, torch.Tensor) and not declared_unused(case, name):
            other = 1 - argument.value.to(torch.uint8) if role == "mask" else 3 * argument.value
            variant = with_argument(case.subject, position, other.to(argument.value.dtype))
            yield Unread(name, "call", source.location(arguments[name]), None, (variant,))


def other_values(value: Any) -> Iterator[Any]:
    """Other values that an option with this one could have."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield value + 1
        yield value + 7
    elif isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
        yield value.detach() * torch.linspace(0.5, 3, value.numel()).reshape(value.shape).to(value)
    elif isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
        yield type(value)(v * (2 + i) + 1 for i, v in enumerate(value))
    elif value is None:
        yield 0.5


def _arguments(source: FunctionSource) -> list[ast.arg]:
    arguments = source.tree.args
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def _stored_only(source: FunctionSource, name: str) -> list[str] | None:
    """The attributes that an argument goes into; ``None`` where the constructor uses it otherwise.

    Whether it is `None`, or within its bounds, may be asked.
    """
    into: dict[int, str] = {}
    for attribute, value in (*assignments(source.tree), *_registered(source.tree)):
        into |= {id(node): attribute for node in ast.walk(value)}
    asked = {
        id(node)
        for statement in ast.walk(source.tree)
        if isinstance(statement, (ast.If, ast.IfExp, ast.Assert, ast.Raise))
        for part in [getattr(statement, "test", statement)]
        for node in ast.walk(part)
    }
    loads = [
        id(node)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
    ]
    if any(load not in into and load not in asked for load in loads):
        return None
    return list(dict.fromkeys(into[load] for load in loads if load in into))


def _registered(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Every ``self.register_buffer("name", value)``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("register_buffer", "register_parameter") and len(node.args) > 1:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value, node.args[1]


def _storing(source: FunctionSource, name: str) -> ast.AST | None:
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.Expr)):
            if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node)):
                return node
    return None


def _reads_attribute(methods: list[FunctionSource], attribute: str) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == attribute
        and isinstance(node.ctx, ast.Load)
        for method in methods
        for node in ast.walk(method.tree)
    )


def _reads_by_name(method: FunctionSource) -> bool:
    """Whether attributes may be read by a text, or by whoever is handed the loss itself."""
    for node in ast.walk(method.tree):
        if isinstance(node, ast.Attribute) and node.attr == "__dict__":
            return True
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            if called in ("getattr", "vars", "locals", "setattr", "eval", "exec"):
                return True
            if called not in ("super", "isinstance", "type", "len", "hasattr") and any(
                isinstance(argument, ast.Name) and argument.id == "self" for argument in node.args
            ):
                return method.tree.name != "__init__" or called != "super"
    return False


def _reads_locals(source: FunctionSource) -> bool:
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("locals", "eval", "exec")
        for node in ast.walk(source.tree)
    )


def _called(case: Examination) -> FunctionSource | None:
    """The function whose arguments are those of the call."""
    instance = instance_of(case)
    sources = list(definitions(case.subject))
    if instance is None:
        return sources[0] if len(sources) == 1 and case.subject.kind == "function" else None
    name = "forward" if isinstance(instance, nn.Module) else "__call__"
    name = getattr(case.subject.call, "__name__", name)
    return next((source for source in sources if source.tree.name == name), None)


def _overrides(case: Examination, source: FunctionSource) -> bool:
    """Whether the function fulfils a signature that somebody else gave: of a class above it."""
    instance = instance_of(case)
    if instance is None:
        return False
    owners = [
        base
        for base in type(instance).__mro__
        if base is not nn.Module and inspect.isfunction(vars(base).get(source.tree.name))
    ]
    return len(owners) > 1


def _constant(methods: list[FunctionSource], name: str) -> Location | None:
    """Where a constant is assigned to the name of an option."""
    for method in methods:
        for node in ast.walk(method.tree):
            if not isinstance(node, ast.Assign):
                continue
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=False))
                for one, value in pairs:
                    if isinstance(one, ast.Name) and one.id == name:
                        if isinstance(value, (ast.Constant, ast.UnaryOp)):
                            return method.location(node)
    return None
