"""What a loss takes for granted about its arguments, and calls that break it.

One module per convention. Each has a function that reads the recorded call and yields what it
found as :class:`Fault`; rule LP109 turns these into findings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from lossproof.checks.dataflow import Flow, Operand
from lossproof.checks.report import Location, Number, Severity
from lossproof.checks.roles import Role, roles_of
from lossproof.checks.trace import Operation

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Tensor = torch.Tensor


@dataclass(frozen=True)
class Fault:
    """One broken convention."""

    message: str
    location: Location | None
    cause: str
    help: str
    evidence: dict[str, Number] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    severity: Severity = Severity.ERROR


class Call:
    """The recorded call, with what each argument is for."""

    def __init__(self, case: Examination) -> None:
        self.case = case
        self.roles: tuple[Role, ...] = roles_of(case.inputs)
        self.predictions = self._with_role("prediction")
        self.targets = self._with_role("target")

    def _with_role(self, role: Role) -> frozenset[int]:
        return frozenset(i for i, found in enumerate(self.roles) if found == role)

    @cached_property
    def flow(self) -> Flow:
        """The recorded operations, joined."""
        return Flow(self.case.trace.operations, self.case.base.passed)

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """The operations outside of custom functions, whose forward is their own business."""
        return tuple(o for o in self.flow.operations if o.inside is None)

    def is_predicted(self, operand: Operand) -> bool:
        """Whether any prediction went into the operand."""
        return bool(self.flow.inputs(operand) & self.predictions)

    def is_target(self, operand: Operand) -> bool:
        """Whether the operand was made from targets alone."""
        inputs = self.flow.inputs(operand)
        return bool(inputs) and inputs <= self.targets

    def is_label(self, operand: Operand) -> bool:
        """Whether the numbers are a target as it was given, but for shape, type and order."""
        return all(origin.position in self.targets for origin in self.flow.origins(operand))

    def is_given(self, operand: Operand) -> bool:
        """Whether the numbers are an argument other than a prediction, as it was given."""
        positions = {origin.position for origin in self.flow.origins(operand)}
        return None not in positions and positions.isdisjoint(self.predictions)

    def location(self, operation: Operation) -> Location | None:
        """Where the operation is called in the user's code."""
        return operation.site.location or self.case.subject.location

    def name(self, operand: Operand) -> str:
        """What to call an operand in a message: its argument, or what made it."""
        positions = {origin.position for origin in self.flow.origins(operand)}
        position = positions.pop() if len(positions) == 1 else None
        if position is not None:
            return f"`{self.case.inputs.arguments[position].name}`"
        return f"the result of `{operand.maker.name}`" if operand.maker else "a constant"


def distinct(values: Tensor, most: int = 8) -> tuple[float, ...] | None:
    """The different values of a tensor, ascending; ``None`` where there are more than ``most``."""
    found = torch.unique(values.detach().double())
    return tuple(found.tolist()) if len(found) <= most else None


def sums_to_one(values: Tensor, axis: int, slack: float = 4e-3) -> bool:
    """Whether these are probabilities along the axis."""
    total = values.detach().double().sum(axis)
    return bool((values >= 0).all()) and bool(((total - 1).abs() < slack).all())
