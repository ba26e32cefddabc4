"""Options whose names promise an effect on the numbers, and the loss with other values of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lossproof.checks.options import instance_of, keyword_options, with_attribute, with_keyword
from lossproof.checks.roles import roles_of
from lossproof.checks.subject import Subject

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Values = tuple[Any, ...]

PROMISES = re.compile(
    r"(^|_)(w|weights?|alpha|beta|gamma|lambda|lam|lamb|lmbda|margin|temperature|temp|tau|scale|"
    r"smoothing|coeff?|coefficient|focal|ratio|penalty|sharpness|power|strength)(_|\d*$)",
    re.I,
)


@dataclass(frozen=True)
class Promise:
    """An option with an effect by its name, and how to change it."""

    name: str
    variants: tuple[Subject, ...]
    change: Callable[[Values, int], Values] | None = None
    """Gives other arguments of the call, where the option is one of those."""


def promises(case: Examination) -> Iterator[Promise]:
    """Attributes and buffers, keywords of the call, and weights among its arguments."""
    instance = instance_of(case)
    if instance is not None:
        for name, value in _attributes(instance):
            if PROMISES.search(name):
                variants = [
                    with_attribute(case.subject, instance, name, v) for v in _magnitudes(value)
                ]
                yield from _promise(name, variants)
    for name, value in keyword_options(case).items():
        if PROMISES.search(name):
            variants = [with_keyword(case.subject, name, other) for other in _magnitudes(value)]
            yield from _promise(name, variants)
    yield from _arguments(case)


def _promise(name: str, variants: list[Subject]) -> Iterator[Promise]:
    if variants:
        yield Promise(name, tuple(variants))


def _attributes(instance: Any) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(instance, "__dict__", {}).items())
    if isinstance(instance, nn.Module):
        yield from instance._buffers.items()


def _magnitudes(value: Any) -> list[Any]:
    """Smaller and larger values, one factor for all elements never."""
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point() or value.numel() == 0:
            return []
        if value.numel() == 1:
            return [value.detach() * factor + 0.1 * factor for factor in (0.2, 3.0)]
        return [value.detach() * _factors(value, seed) for seed in (0, 1)]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return []
    larger = [abs(value) * 3 + 1, abs(value) * 30 + 5]
    return larger if isinstance(value, int) else [*larger, value * 0.1 + 0.01]


def _factors(value: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(27_183 + seed)
    return (0.3 + 2.5 * torch.rand(value.shape, generator=generator, dtype=torch.float64)).to(value)


def _arguments(case: Examination) -> Iterator[Promise]:
    for position, (argument, role) in enumerate(
        zip(case.inputs.arguments, roles_of(case.inputs), strict=True)
    ):
        value = argument.value
        tensor = isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1
        if role != "weight" or not tensor or argument.differentiable:
            continue

        def change(values: Values, number: int, position: int = position) -> Values:
            other = values[position] * _factors(values[position], number)
            return (*values[:position], other, *values[position + 1 :])

        yield Promise(argument.name, (case.subject, case.subject), change)
