"""Fresh inputs of the kind that was given: the domain, the labels and the shapes stay."""

from __future__ import annotations

import re
from typing import Any

import torch

from lossproof.checks.domain import Domain, Kind, domain_of
from lossproof.checks.examination import Examination

Tensor = torch.Tensor
LARGEST_LOGIT = 5.0
SHRUNK = 0.15
_COSINE = re.compile(r"cos|sim", re.I)


class Draws:
    """A series of inputs for a loss; the first are the given ones.

    Weights and masks are set to one, so that what is left is the loss itself.
    """

    def __init__(self, case: Examination, neutral: dict[int, Tensor]) -> None:
        self.case = case
        self._neutral = neutral
        self._made: list[tuple[Any, ...]] = []
        self._domains: dict[int, Domain] = {}
        for position, argument in enumerate(case.inputs.arguments):
            if isinstance(argument.value, Tensor):
                self._domains[position] = domain_of(
                    argument.value, argument.name, smooth=argument.differentiable
                )

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        while len(self._made) <= number:
            self._made.append(self._draw(len(self._made)))
        return self._made[number]

    def _draw(self, number: int) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(self.case.seed * 1009 + number)
        values = []
        for position, given in enumerate(self.case.inputs.values):
            value = self._neutral.get(position, given)
            if value is given and isinstance(given, Tensor) and number:
                value = self._fresh(
                    value.detach(), self.case.inputs.arguments[position].name,
                    self._domains[position], generator, number,
                )  # fmt: skip
            values.append(value)
        return tuple(values)

    def _fresh(
        self, value: Tensor, name: str, domain: Domain, generator: torch.Generator, number: int
    ) -> Any:
        if value.is_complex() or value.numel() < 2:
            return value
        if not value.is_floating_point():
            return _permuted(value, generator)
        size = (1.0, 0.5, 2.0)[number % 3]
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
        wide = value.double()
        if domain.is_free and _are_boxes(wide):
            return _moved_boxes(wide, noise).to(value.dtype)
        moved = _moved(wide, size * noise, domain, generator)
        if domain.kind is Kind.REAL and number % 4 == 3:
            moved = SHRUNK * moved  # what is near: within a margin, on the inner branch
        if _COSINE.search(name) and float(wide.abs().max()) <= 1:
            moved = moved.clamp(-0.99, 0.99)
        return moved.to(value.dtype)


def _permuted(value: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(value.numel(), generator=generator).to(value.device)
    return value.reshape(-1)[order].reshape(value.shape)


def _moved(value: Tensor, noise: Tensor, domain: Domain, generator: torch.Generator) -> Tensor:
    kind, axis = domain.kind, domain.axis
    if kind in (Kind.BINARY, Kind.SIGN, Kind.INTEGER, Kind.ROTATION):
        return _permuted(value, generator)
    if kind is Kind.PROBABILITY and axis is not None:
        if bool(((value == 0) | (value == 1)).all()):  # one-hot: other samples' labels
            rows = value.movedim(axis, -1).reshape(-1, value.shape[axis])
            order = torch.randperm(len(rows), generator=generator)
            moved = value.movedim(axis, -1)
            return rows[order].reshape(moved.shape).movedim(-1, axis)
        return torch.softmax((value.clamp_min(1e-6)).log() + noise, axis)
    if kind is Kind.LOG_PROBABILITY and axis is not None:
        return torch.log_softmax(value + noise, axis)
    if kind is Kind.UNIT_NORM and axis is not None:
        return torch.nn.functional.normalize(value + 0.5 * noise, dim=axis)
    if kind is Kind.UNIT:
        return torch.sigmoid(torch.logit(value.clamp(0.02, 0.98)) + noise).clamp(1e-3, 1 - 1e-3)
    if kind in (Kind.POSITIVE, Kind.NONNEGATIVE):
        return value.clamp_min(1e-3) * torch.exp(0.3 * noise)
    if kind is Kind.NEGATIVE:
        return -(value.abs().clamp_min(1e-3) * torch.exp(0.3 * noise))
    return _real(value, noise)


def _real(value: Tensor, noise: Tensor) -> Tensor:
    spread = value.std(unbiased=False).clamp_min(0.1)
    if value.dim() == 2 and value.shape[0] == value.shape[1] and bool((value == value.t()).all()):
        noise = (noise + noise.t()) / 2  # a similarity matrix: its diagonal is no similarity
        noise.fill_diagonal_(0)
    largest = torch.maximum(value.abs().max(), torch.tensor(LARGEST_LOGIT, dtype=value.dtype))
    return (value + spread * noise).clamp(-largest, largest)


def _are_boxes(value: Tensor) -> bool:
    if value.dim() != 2 or value.shape[1] != 4:
        return False
    return bool((value[:, 2:] > value[:, :2]).all()) and bool((value >= 0).all())


def _moved_boxes(value: Tensor, noise: Tensor) -> Tensor:
    size = value[:, 2:] - value[:, :2]
    corner = (value[:, :2] + 0.3 * size * noise[:, :2]).clamp_min(0)
    return torch.cat([corner, corner + size * torch.exp(0.3 * noise[:, 2:])], 1)
