"""Trying a candidate: does the loss run on it, and does the result say that it was meant so?"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.global_state import globals_restored
from lossproof.checks.inference.meanings import PREDICTED, Slot
from lossproof.checks.inputs import Inputs, parse_specifications
from lossproof.checks.silence import Nowhere
from lossproof.checks.subject import Subject
from lossproof.checks.time_limit import time_limit
from lossproof.checks.trace import Broadcast
from lossproof.errors import TimeLimitError, UsageError

Tensor = torch.Tensor

SECONDS = 15.0
"""How long one trial may take: the first call of a loss may import much, which must not be cut."""

MOST_ELEMENTS = 2_000_000
"""Larger inputs, of which a document may speak, are not tried."""

# What a result costs that is not what a loss gives on inputs as its author had them.
NOT_FINITE = 7.0
GRADIENT_NOT_FINITE = 6.0
BACKWARD_FAILS = 6.0
NO_GRADIENT = 5.0
ZERO_GRADIENT = 4.0
BROADCAST = 3.0
ONE_SIDED_BROADCAST = 2.6
IGNORED = 2.5
ONLY_A_NUMBER = 3.2
"""Class indices that are calculated with like any other number."""
MANY_NUMBERS = 0.3


@dataclass(frozen=True)
class Trial:
    """What came of one candidate."""

    inputs: Inputs
    penalty: float
    error: Exception | None = None


class Trials:
    """Calls a loss on candidates. Every call works on copies and leaves nothing behind."""

    def __init__(self, subject: Subject, slots: Sequence[Slot], seed: int) -> None:
        self.subject = subject
        self.slots = slots
        self.wanted = [slot.meaning in PREDICTED for slot in slots]
        """Of each argument, whether a gradient is wanted for it if it is a floating tensor."""
        self.seed = seed

    def run(self, items: Sequence[str]) -> Trial:
        """Call the loss on what these specifications describe."""
        try:
            inputs = self.inputs(items, self.seed)
        except UsageError as error:  # no such boxes, or rotations
            return Trial(Inputs(()), 0.0, error)
        try:
            return self._judged_in_time(inputs, items)
        except TimeLimitError as error:
            return Trial(inputs, 0.0, error)

    def _judged_in_time(self, inputs: Inputs, items: Sequence[str]) -> Trial:
        kept = self.subject.state.lent(None)
        nowhere = contextlib.redirect_stdout(Nowhere())
        with globals_restored(), kept, nowhere, time_limit(SECONDS):
            return self._judged(inputs, items)

    def inputs(self, items: Sequence[str], seed: int) -> Inputs:
        """The arguments that these specifications describe."""
        generator = torch.Generator().manual_seed(seed + 61_803)
        arguments = []
        elements = sum(_elements(item) for item in items)
        if elements > MOST_ELEMENTS:
            raise UsageError(f"{elements} numbers are too many for a trial")
        for slot, item, wanted in zip(self.slots, items, self.wanted, strict=True):
            (argument,) = parse_specifications(item, generator)
            value = argument.value
            floating = isinstance(value, Tensor) and value.is_floating_point()
            arguments.append(replace(argument, name=slot.name, differentiable=wanted and floating))
        return Inputs(tuple(arguments))

    def _judged(self, inputs: Inputs, items: Sequence[str]) -> Trial:
        case = Examination(self.subject, inputs, self.seed)
        found = case.evaluate(record=True)
        if found.error is not None:
            return Trial(inputs, 0.0, found.error)
        if found.value is None:
            return Trial(inputs, 0.0, TypeError("the loss returned no tensor"))
        return Trial(inputs, _penalty(found) + self._misread(case, found, items))

    def _misread(self, case: Examination, found: Evaluation, items: Sequence[str]) -> float:
        """The price of the arguments that do not count, or not as what they are."""
        if found.value is None or not _finite(found.value):
            return 0.0
        redrawn = self.inputs(items, self.seed + 1).values
        gradients = iter(found.gradients)
        price = 0.0
        for position, argument in enumerate(case.inputs.arguments):
            gradient = next(gradients, None) if argument.differentiable else None
            if not isinstance(argument.value, Tensor) or _matters(gradient):
                continue
            if torch.equal(argument.value, redrawn[position]):
                continue  # there is one value only, such as the length of full sequences
            values = list(case.inputs.values)
            values[position] = redrawn[position]
            other = case.evaluate(values, backward=False)
            if other.value is not None and _same(other.value, found.value):
                price += IGNORED
            elif self.slots[position].meaning in ("target", "unknown"):
                price += self._price_of_whole_numbers(case, found, position)
        return price

    def _price_of_whole_numbers(self, case: Examination, found: Evaluation, position: int) -> float:
        """Class indices pick something; what also works as a decimal number is none."""
        values = list(case.inputs.values)
        if values[position].dtype is not torch.int64 or found.value is None:
            return 0.0
        values[position] = values[position].float()
        other = case.evaluate(values, backward=False)
        picks = other.value is None or not _same(other.value, found.value)
        return 0.0 if picks else ONLY_A_NUMBER


def _elements(item: str) -> int:
    sizes = re.search(r"\[([\d,]*)\]", item)
    return math.prod(int(size) for size in sizes[1].split(",") if size) if sizes else 1


def _penalty(found: Evaluation) -> float:
    value = found.value
    assert value is not None
    price = 0.0
    if value.numel() > 1 or value.is_complex():
        price += MANY_NUMBERS * max(value.dim(), 1)
    if not _finite(value):
        return price + NOT_FINITE
    broadcasts = found.trace.broadcasts if found.trace is not None else ()
    price += max((_price_of(broadcast) for broadcast in broadcasts), default=0.0)
    if found.backward_error is not None:
        return price + BACKWARD_FAILS
    reached = [gradient for gradient in found.gradients if gradient is not None]
    if not reached:
        return price + NO_GRADIENT
    if not all(_finite(gradient) for gradient in reached):
        return price + GRADIENT_NOT_FINITE
    if not any(_matters(gradient) for gradient in reached):
        return price + ZERO_GRADIENT
    return price


def _price_of(broadcast: Broadcast) -> float:
    """Two inputs spread over each other: by nobody's wish, or with one of them prepared for it."""
    left, right = broadcast.left_inputs, broadcast.right_inputs
    if not left or not right or left == right:
        return 0.0
    if broadcast.one_sided:
        return ONE_SIDED_BROADCAST
    return 0.0 if broadcast.intended else BROADCAST


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())


def _matters(gradient: Tensor | None) -> bool:
    return gradient is not None and bool((gradient != 0).any())


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.detach(), other.detach())
