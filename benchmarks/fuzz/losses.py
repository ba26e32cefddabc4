"""Calls of the catalogue: every loss, as a function and as a Module."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from random import Random
from typing import Any

import torch

from benchmarks.catalogue.subject import Subject, of_catalogue
from benchmarks.fuzz import odd
from benchmarks.fuzz.examine import Call, with_gradients
from lossproof.losses.catalogue import catalogue

Tensor = torch.Tensor


@functools.lru_cache(maxsize=1)
def subjects() -> tuple[Subject, ...]:
    """Every loss with each of its example inputs."""
    return tuple(subject for entry in catalogue() for subject in of_catalogue(entry))


@functools.cache
def shape_of_values(number: int) -> tuple[int, ...]:
    """The shape of the values of the items of a subject."""
    subject = subjects()[number]
    if "reduction" not in subject.options:
        return ()
    return tuple(subject.call(*subject.draw().tensors, reduction="none").shape)


def call_of_function(random: Random) -> Callable[[], Call]:
    """A call of a loss as a function."""
    return _call(random, module=False)


def call_of_module(random: Random) -> Callable[[], Call]:
    """A loss as a Module: made, shown, and called."""
    return _call(random, module=True)


def _call(random: Random, *, module: bool) -> Callable[[], Call]:
    """Right inputs, changed in a few places, and a few options."""
    number = random.randrange(len(subjects()))
    subject = subjects()[number]
    tensors: list[Any] = list(subject.draw(random.randrange(2**16)).tensors)
    ordinary = True
    if random.random() < 0.25:
        tensors = [_doubled(one) for one in tensors]
    for _ in range(random.randint(0, 2)):
        place = random.randrange(len(tensors))
        if isinstance(tensors[place], Tensor):
            tensors[place] = odd.unusual_layout(random, tensors[place])
    for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
        place = random.randrange(len(tensors))
        if isinstance(tensors[place], Tensor):
            tensors[place] = odd.changed(random, tensors[place])
            ordinary = False
    if random.random() < 0.02:
        tensors = random.choice((tensors[:-1], [*tensors, tensors[0]], []))
        ordinary = False
    options: dict[str, Any] = {}
    for _ in range(random.choice((0, 0, 1, 1, 2, 3))):
        name = random.choice(sorted({*subject.options, "no_such_option", "size_average"}))
        options[name], usual = _option(random, number, name)
        ordinary = ordinary and usual
    return _made(subject, tuple(tensors), options, ordinary, module)


def _doubled(one: Any) -> Any:
    return one.double() if isinstance(one, Tensor) and one.is_floating_point() else one


def _option(random: Random, number: int, name: str) -> tuple[Any, bool]:
    """A value for an option, and whether it is a usual one."""
    subject = subjects()[number]
    if random.random() < 0.35:
        return odd.option(random), False
    if name == "reduction":
        return random.choice(("none", "mean", "sum")), True
    if name == "mask":
        return torch.full(shape_of_values(number), random.random() < 0.5), True
    if name == "weight":
        shape = shape_of_values(number)
        first = subject.draw().tensors[0]
        if first.ndim > 1 and random.random() < 0.5:
            shape = (first.shape[1],)
        return torch.full(shape, random.choice((0.0, 0.5, 1.0, -1.0, float("nan")))), False
    if name == "normalizer":
        return random.choice((1, 7.5, torch.tensor(3.0))), True
    default = _default(subject, name)
    given = default is not inspect.Parameter.empty
    return (default, True) if given else (odd.option(random), False)


def _default(subject: Subject, name: str) -> Any:
    if name in subject.entry.options:
        return subject.entry.options[name]
    function = subject.entry.function or subject.entry.module
    parameter = inspect.signature(function).parameters.get(name)
    return inspect.Parameter.empty if parameter is None else parameter.default


def _made(
    subject: Subject,
    tensors: tuple[Any, ...],
    options: dict[str, Any],
    ordinary: bool,
    module: bool,
) -> Callable[[], Call]:
    function = subject.entry.function or subject.entry.module
    signature = inspect.signature(function).parameters
    names = {*signature, *options, *subject.draw().names}
    if subject.entry.function is None:
        names |= set(inspect.signature(subject.entry.module.forward).parameters)
    floating = {t.dtype for t in tensors if isinstance(t, Tensor) and t.is_floating_point()}
    constructor = {**subject.entry.options, **options}

    def run() -> Any:
        if subject.entry.function is None:
            layer = subject.entry.module(**constructor)
            if ordinary:
                layer.to(tensors[0].dtype)
            return with_gradients(layer(*tensors), [*tensors, *layer.parameters()])
        if module:
            layer = subject.entry.module(**constructor)
            repr(layer)
            layer.state_dict()
            return with_gradients(layer(*tensors), tensors)
        return with_gradients(subject.entry.function(*tensors, **constructor), tensors)

    def made() -> Call:
        return Call(
            run,
            [tensors, options],
            frozenset(names),
            ordinary=ordinary,
            draws=subject.entry.function is None,  # a new Module draws its parameters
            warns=("`size_average` and `reduce` are deprecated",),
            dtype=floating.pop() if ordinary and len(floating) == 1 else None,
        )

    return made
