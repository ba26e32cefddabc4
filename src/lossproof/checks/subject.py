"""What is being checked: the loss as something to call, with its source and its state."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lossproof.checks.construction import made_with_natural_values
from lossproof.checks.exception_words import words_of
from lossproof.checks.report import Location
from lossproof.checks.sources import Sources, is_library, is_machinery
from lossproof.checks.state import State
from lossproof.errors import UsageError
from lossproof.write.accelerated import Accelerated

Kind = Literal["function", "module", "autograd.Function", "callable"]
CONTEXT_NAMES = ("ctx", "_ctx", "context", "self", "_")
"""What people call the first argument of a ``forward`` that gets the context."""

SCRIPTED = (
    "the loss is TorchScript: its operations have no lines, and the gradients of its own "
    "parameters were not looked at; check the Python it was made from",
)

COMPILED = (
    "compiled code cannot be looked into: what is said here is of the loss as it was written; that "
    "what is compiled of it gives the same is for LP103 to say",
)


@dataclass(eq=False)
class Subject:
    """A loss, ready to be called again and again without leaving a trace.

    Make one with :func:`subject_of`.
    """

    call: Callable[..., Any]
    kind: Kind
    name: str
    origin: Any
    """The object as it was given."""
    location: Location | None
    sources: Sources
    state: State = field(repr=False)
    signature: inspect.Signature | None = None
    assumptions: tuple[str, ...] = ()
    """What was taken for granted about the loss."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the positional arguments."""
        if self.signature is None:
            return ()
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return tuple(p.name for p in self.signature.parameters.values() if p.kind in kinds)

    @property
    def required(self) -> int:
        """How many positional arguments have no default."""
        if self.signature is None:
            return 0
        return sum(
            p.default is inspect.Parameter.empty
            for name, p in self.signature.parameters.items()
            if name in self.parameter_names
        )

    def option(self, name: str) -> Any:
        """The value of an option: a module's attribute or a parameter's default; else ``None``."""
        if isinstance(self.origin, functools.partial) and name in self.origin.keywords:
            return self.origin.keywords[name]
        target = getattr(self.call, "__self__", self.call)
        if not inspect.isfunction(target) and hasattr(target, name):
            return getattr(target, name)
        if self.signature is not None and name in self.signature.parameters:
            default = self.signature.parameters[name].default
            return None if default is inspect.Parameter.empty else default
        return None


def subject_of(loss: Any) -> Subject:
    """Wrap a loss.

    A module is copied, so that the caller's own is never touched. A module class is made with no
    arguments, or with the usual ones where it needs some, which the assumptions then say. An
    ``autograd.Function`` is called through ``apply``.

    Raises:
        UsageError: ``loss`` is not callable, or its class can be made neither without arguments nor
            with the usual ones.
    """
    eager = _eager(loss)
    if eager is not loss:
        subject = subject_of(eager)
        subject.origin = loss
        subject.assumptions = ("the loss is compiled: its eager original was checked",)
        return subject
    if isinstance(loss, type) and issubclass(loss, torch.autograd.Function):
        return _function_subject(loss)
    if isinstance(loss, type):
        instance, assumptions = _made(loss)
        subject = _instance_subject(instance, loss)
        subject.assumptions += assumptions
        return subject
    if not callable(loss):
        raise UsageError(
            f"`loss` must be a function, an `nn.Module` or an `autograd.Function`, "
            f"got {type(loss).__name__}"
        )
    if isinstance(loss, nn.Module):
        return _instance_subject(loss, loss)
    base: Any = loss
    while isinstance(base, functools.partial):
        base = base.func
    if inspect.isroutine(base) or inspect.isfunction(inspect.unwrap(base)):
        return _plain_subject(loss, base)
    return _instance_subject(loss, loss)


def _eager(loss: Any) -> Any:
    """What ``torch.compile`` was given: compiled code cannot be looked into."""
    if isinstance(loss, nn.Module):
        return getattr(loss, "_orig_mod", loss)
    try:
        return getattr(loss, "_torchdynamo_orig_callable", loss)
    except Exception as error:
        raise UsageError(
            f"`{type(loss).__name__}` cannot be looked into: reading an attribute that it has not "
            f"raises `{type(error).__name__}`, and should raise `AttributeError`"
        ) from error


def _made(cls: type) -> tuple[Any, tuple[str, ...]]:
    """An instance of a class, and with which arguments it was made, if it needs any."""
    if not any("__call__" in vars(base) for base in cls.__mro__):
        raise UsageError(f"an instance of `{cls.__name__}` is not callable")
    try:
        return cls(), ()
    except Exception as error:
        found = made_with_natural_values(cls)
        if found is None:
            raise UsageError(
                f"`{cls.__name__}` cannot be made without arguments "
                f"({type(error).__name__}: {words_of(error)}); pass an instance, such as "
                f"`{cls.__name__}(...)`"
            ) from error
    instance, call = found
    return instance, (f"the loss was made as `{call}`; pass an instance to check another",)


def _function_subject(cls: type[torch.autograd.Function]) -> Subject:
    location, sources = _source(cls)
    try:
        parameters = list(inspect.signature(cls.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    takes_context = bool(parameters) and parameters[0].name in CONTEXT_NAMES
    if takes_context:
        parameters = parameters[1:]
    # What takes no `ctx` and has no `setup_context` is misused, which is for LP207 to explain.
    usable = bool(parameters) and (takes_context or separate_setup(cls))
    signature = inspect.Signature(parameters) if usable else None
    return Subject(
        cls.apply, "autograd.Function", cls.__name__, cls, location, sources,
        State(cls, sources), signature,
    )  # fmt: skip


def separate_setup(cls: type[torch.autograd.Function]) -> bool:
    """Whether ``forward`` takes no ``ctx`` because the class has a ``setup_context``."""
    return bool(cls.setup_context is not torch.autograd.Function.setup_context)


def _instance_subject(instance: Any, origin: Any) -> Subject:
    cls = type(instance)
    location, sources = _source(_written(instance))
    kind: Kind = "callable"
    if isinstance(instance, nn.Module):
        kind = "module"
        _refuse_missing_forward(instance)
        instance = _copied(instance)
    named = getattr(instance, "__name__", cls.__name__)  # it may stand for a function
    name = getattr(instance, "original_name", named)  # of a scripted module
    scripted = isinstance(instance, (torch.jit.ScriptModule, torch.jit.ScriptFunction))
    assumptions = SCRIPTED if scripted else ()
    if isinstance(instance, Accelerated) and instance.compiles:
        assumptions = COMPILED
    return Subject(
        instance, kind, name, origin, location, sources,
        State(instance, sources), _signature_of_instance(instance), assumptions,
    )  # fmt: skip


def _written(instance: Any) -> Any:
    """What the user wrote of an instance: its class, or the function it was made to accelerate."""
    cls = type(instance)
    if isinstance(instance, Accelerated) and is_machinery(inspect.getfile(cls)):
        function = _accelerated(instance)
        return type(function) if isinstance(function, nn.Module) else function
    return cls


def _accelerated(instance: Accelerated) -> Callable[..., Any]:
    """The function or Module that an accelerated loss was made of; else its plain computation."""
    made_of = (getattr(instance, name, None) for name in ("_function", "loss", "pair_fn"))
    return next((function for function in made_of if callable(function)), instance.plain)


def _refuse_missing_forward(module: nn.Module) -> None:
    cls = type(module)
    own_call = cls.__call__ is not nn.Module.__call__
    if not isinstance(module, torch.jit.ScriptModule) and not own_call:
        if getattr(module.forward, "__func__", None) is nn.Module.forward:
            raise UsageError(f"`{cls.__name__}` has no `forward`")


def _signature_of_instance(instance: Any) -> inspect.Signature | None:
    compiled = instance.forward if isinstance(instance, torch.jit.ScriptModule) else instance
    if isinstance(compiled, (torch._C.ScriptMethod, torch.jit.ScriptFunction)):
        schema: Any = compiled.schema
        bound = isinstance(compiled, torch._C.ScriptMethod)
        return _signature_of_schema(schema.arguments[bound:])
    if isinstance(instance, Accelerated):
        return _signature_as_written(instance)
    if isinstance(instance, nn.Module):
        return _signature(instance.forward)
    return _signature(instance)


def _signature_as_written(instance: Accelerated) -> inspect.Signature | None:
    """The signature of an accelerated loss, with the loss's own names in the place of ``*args``."""
    signature = _signature(instance.forward)
    function = _accelerated(instance)
    inner = _signature(function.forward if isinstance(function, nn.Module) else function)
    if signature is None or inner is None:
        return signature
    parameters = list(signature.parameters.values())
    anything = [p for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL]
    if not anything:
        return signature
    named = parameters[: parameters.index(anything[0])]
    if not named:
        return inner
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = [p for p in inner.parameters.values() if p.kind in positional][len(named) :]
    needed = [p for p in own if p.default is inspect.Parameter.empty]
    return inspect.Signature([*named, *needed])


def _signature_of_schema(arguments: Iterable[Any]) -> inspect.Signature:
    """The signature of TorchScript code, which Python cannot look into."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(
                argument.name,
                kind,
                default=argument.default_value
                if argument.has_default_value()
                else inspect.Parameter.empty,
            )
            for argument in arguments
        ]
    )


def _plain_subject(loss: Callable[..., Any], base: Callable[..., Any]) -> Subject:
    location, sources = _source(inspect.unwrap(base))
    name = getattr(base, "__qualname__", repr(loss)).replace("<locals>.", "")
    return Subject(
        loss, "function", name, loss, location, sources, State(loss, sources), _signature(loss)
    )


def _signature(target: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def _source(target: Any) -> tuple[Location | None, Sources]:
    """Where an object is defined, and what counts as the user's own code around it."""
    try:
        file = inspect.getsourcefile(target) or inspect.getfile(target)
        _, line = inspect.getsourcelines(target)
    except (OSError, TypeError):
        return None, Sources()
    name = getattr(target, "__qualname__", None)
    root = file
    if is_library(file) and not is_machinery(file):
        # A library's own loss: its whole package counts as the code under test.
        package = str(getattr(target, "__module__", "")).partition(".")[0]
        parts = Path(file).parts
        if package in parts:
            root = str(Path(*parts[: len(parts) - parts[::-1].index(package)]))
    return Location.at(file, max(line, 1), function=name), Sources(root)


def _copied(module: nn.Module) -> nn.Module:
    """A deep copy, also of a module that holds tensors with a history (which torch refuses)."""
    memo: dict[int, Any] = {}
    for value in _tensors_with_history(module, set()):
        memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise UsageError(
            f"`{type(module).__name__}` cannot be copied "
            f"({type(error).__name__}: {words_of(error)}); a check works on a copy so that your "
            "module stays as it is"
        ) from error


def _tensors_with_history(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        if value.grad_fn is not None:
            yield value
        return
    items: Any = ()
    if isinstance(value, (list, tuple, set)):
        items = value
    elif isinstance(value, dict):
        items = value.values()
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        items = vars(value).values()
    with contextlib.suppress(RuntimeError):  # a container that changes while it is read
        for item in items:
            yield from _tensors_with_history(item, seen)
