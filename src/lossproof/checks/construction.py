"""Making a loss of a class whose constructor needs arguments, with what such arguments usually are.

``CenterLoss(num_classes, feat_dim)`` is made as ``CenterLoss(num_classes=5, feat_dim=6)``. The
values are taken from :mod:`~lossproof.checks.natural_values` by name; for an argument of which the
name says nothing, a few values are tried in turn.
"""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from lossproof.checks.natural_values import UNKNOWN, natural_value

UNNAMED: tuple[Any, ...] = (4, 0.5, None, True, "mean")
"""What is tried for an argument of which neither name nor annotation says what it is."""
MOST = 30
"""How many combinations are tried."""


def made_with_natural_values(cls: type) -> tuple[Any, str] | None:
    """An instance, and the call that made it; ``None`` where no combination of values works.

    Args:
        cls: a class that cannot be made without arguments.

    Example:
        >>> class Centers:
        ...     def __init__(self, num_classes, feat_dim, device=None):
        ...         self.sizes = (num_classes, feat_dim)
        >>> instance, call = made_with_natural_values(Centers)
        >>> call, instance.sizes
        ('Centers(num_classes=5, feat_dim=6)', (5, 6))
    """
    parameters = _required(cls)
    if not parameters:
        return None
    generators = torch.get_rng_state()
    try:
        for values in itertools.islice(_combinations(parameters), MOST):
            options = dict(zip((p.name for p in parameters), values, strict=True))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    instance = _call(cls, parameters, options)
            except Exception:
                continue
            shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
            return instance, f"{cls.__name__}({shown})"
    finally:
        torch.set_rng_state(generators)
    return None


def _required(cls: type) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(cls)
    except (TypeError, ValueError):
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        parameter
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in variable
    ]


def _combinations(parameters: list[inspect.Parameter]) -> Iterator[tuple[Any, ...]]:
    """Known values stay; the unknown ones are tried all alike first, then one by one."""
    known = [natural_value(p.name, p.annotation) for p in parameters]
    unknown = [i for i, value in enumerate(known) if value is UNKNOWN]
    if not unknown:
        yield tuple(known)
        return
    alike = [(value,) * len(unknown) for value in UNNAMED]
    for guess in dict.fromkeys((*alike, *itertools.product(UNNAMED, repeat=len(unknown)))):
        values = list(known)
        for position, value in zip(unknown, guess, strict=True):
            values[position] = value
        yield tuple(values)


def _call(cls: type, parameters: list[inspect.Parameter], options: dict[str, Any]) -> Any:
    positional = [
        options[p.name] for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY
    ]
    named = {
        p.name: options[p.name]
        for p in parameters
        if p.kind is not inspect.Parameter.POSITIONAL_ONLY
    }
    return cls(*positional, **named)
