"""What every operation of a step made: the first non-finite one, and how much each enlarged."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import CodeType

import torch

from lossproof.checks.nonfinite_watch import (
    Event,
    Maker,
    NonFiniteWatch,
    first_number,
    makers_before,
    numbers_in,
    size_of,
)
from lossproof.checks.report import Location
from lossproof.checks.sources import Sources
from lossproof.watcher.batch import rows_of

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Detail:
    """What is known of an event beyond its operation."""

    rows: tuple[int, ...] | None
    """The samples in whose rows the result is not finite; ``None`` where rows are no samples."""
    size: int | None
    """How many samples the batch has."""
    made: float | None
    """The number that it made there: NaN or an infinity."""
    second: float | None
    """The number that its second operand held there."""
    finite: bool
    """Whether its operands were finite: an infinity may become a NaN."""
    dtype: torch.dtype
    """The type of the result."""
    module: str | None
    part: str


@dataclass(frozen=True, eq=False)
class Growth:
    """An operation whose result is larger than what it was given."""

    operation: str
    location: Location | None
    module: str | None
    part: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """How many times larger the result is."""
        return self.after / self.before


class StepWatch(NonFiniteWatch):  # type: ignore[no-untyped-call]
    """Notes for each non-finite birth its samples, and for each operation its growth, if asked.

    Args:
        sources: tells the user's files from the rest.
        boundary: the code that performs the step again.
        where: gives the part and the name of the module that is being called.
        measure: whether to note how large operands and results are.
    """

    def __init__(
        self,
        sources: Sources,
        boundary: Collection[CodeType],
        where: Callable[[], tuple[str, str | None]],
        *,
        measure: bool = False,
    ) -> None:
        super().__init__(sources, boundary)
        self.where = where
        self.measure = measure
        self.samples: int | None = None
        """How many samples the batch of the call in progress has."""
        self.details: dict[Event, Detail] = {}
        self._growths: dict[Maker, Growth] = {}

    def found(self, event: Event, operands: list[Tensor], results: list[Tensor]) -> None:
        """Note the samples while the tensors are there."""
        result = results[0].detach()
        if result.layout is not torch.strided:
            result = numbers_in(result).flatten().sum(0, keepdim=True)  # rows are no samples
        bad = ~torch.isfinite(result)
        rows = rows_of(bad, self.samples)
        second = operands[1] if len(operands) > 1 else None
        part, module = self.where()
        self.details[event] = Detail(
            None if rows is None else tuple(rows), self.samples, _at(result, bad), _at(second, bad),
            all(math.isfinite(size_of(one)) for one in operands),
            result.dtype,
            module, part,
        )  # fmt: skip

    def performed(
        self, maker: Maker, before: list[float], operands: list[Tensor], results: list[Tensor]
    ) -> None:
        """Note how much larger the results are than the operands."""
        largest = max(before, default=0.0)
        if not self.measure or not 0 < largest < maker.size < float("inf"):
            return
        place, reached = self._place()
        if reached:
            part, module = self.where()
            self._growths[maker] = Growth(maker.name, place, module, part, largest, maker.size)

    def births_before(self, tensors: Collection[Tensor]) -> list[Event]:
        """The events that made these tensors non-finite, in order.

        An infinity that was dealt with on the way, as by a softmax, led to nothing.
        """
        found: set[Event] = set()
        waiting = [maker for tensor in tensors if (maker := self.maker_of(tensor)) is not None]
        seen: set[Maker] = set()
        while waiting:
            maker = waiting.pop()
            if maker in seen or math.isfinite(maker.size):
                continue
            seen.add(maker)
            if maker.event is not None:
                found.add(maker.event)
            waiting += maker.operands
        return [event for event in self.events if event in found]

    def largest_growth(self, tensor: Tensor) -> Growth | None:
        """The operation among those that led to a tensor that enlarged most."""
        maker = self.maker_of(tensor)
        if maker is None:
            return None
        growths = [self._growths[one] for one in makers_before([maker]) if one in self._growths]
        return max(growths, key=lambda growth: growth.ratio, default=None)


def _at(operand: Tensor | None, bad: Tensor) -> float | None:
    """The number that an operand held where the result is bad first."""
    if operand is None or operand.is_complex():
        return None
    try:
        spread = operand.detach().expand(bad.shape)
    except RuntimeError:
        return None
    return first_number(spread, bad)
