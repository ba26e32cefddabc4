"""Whether another value of something changes what a loss gives, and where the change vanishes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.agreement import tensors_agree, variations
from lossproof.checks.report import Location
from lossproof.checks.sources import Sources
from lossproof.checks.subject import Subject
from lossproof.checks.trace import Operation, Recorder, tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination

Tensor = torch.Tensor
Values = tuple[Any, ...]

VALUE = 1e-3
"""The largest relative change that counts as none: a stabiliser may let a little through."""
GRADIENT = 1e-3


CANCELLING = frozenset(
    """
    div divide true_divide __truediv__ __rtruediv__ __rdiv__ div_ normalize cosine_similarity
    softmax log_softmax layer_norm batch_norm sign
    """.split()
)
"""Operations in which a factor or a summand that all operands share is lost."""


@dataclass(frozen=True)
class Vanishing:
    """A change that reached the arithmetic of a loss and did not come out of it."""

    seen: Operation
    """The last operation whose result differs."""
    by: Operation
    """The operation that takes the change away."""

    @property
    def location(self) -> Location | None:
        """Where the change cancels."""
        return self.by.site.location


class Effects:
    """Compares a loss with variants of it at several points.

    Args:
        case: the examination of the loss.
    """

    def __init__(self, case: Examination) -> None:
        self.case = case
        self._at: list[tuple[Values, Evaluation]] = []
        self._points = _points(case)

    def points(self) -> Iterator[tuple[Values, Evaluation]]:
        """Each point with what the loss gives there; evaluated when first asked for."""
        yield from self._at
        for values in self._points:
            found = self.evaluate(values)
            if found.value is not None and not found.failed:
                self._at.append((values, found))
                yield values, found

    def evaluate(self, values: Values, subject: Subject | None = None) -> Evaluation:
        """Call the loss, or a variant, in float64."""
        return self.case.evaluate(values, dtype=torch.float64, subject=subject)

    def none(
        self,
        variants: Sequence[Subject],
        change: Callable[[Values, int], Values] | None = None,
    ) -> int:
        """How many comparisons showed no effect; 0 as soon as one shows any.

        Args:
            variants: the loss with other values of something; one that raises is left out.
            change: gives other arguments for the variant, where the something is an argument.
        """
        comparisons = 0
        for number, subject in enumerate(variants):
            for values, own in self.points():
                other = self.evaluate(values if change is None else change(values, number), subject)
                if other.failed:
                    continue
                if other.value is None or not _alike(own, other):
                    return 0
                comparisons += 1
        return comparisons

    def vanishing(
        self,
        variants: Sequence[Subject],
        change: Callable[[Values, int], Values] | None = None,
    ) -> Vanishing | None:
        """Where a change without effect cancels; ``None`` where it never came in or met a kink.

        Args:
            variants: as for :meth:`none`, which must have found no effect.
            change: as there.
        """
        values = next(iter(self.points()))[0]
        own = self._flow(values, self.case.subject)
        gone = None
        for number, subject in enumerate(variants):
            new = values if change is None else change(values, number)
            other = self._flow(new, subject)
            gone = None if own is None or other is None else _vanishing(own, other)
            if gone is None:
                break
        return gone

    def _flow(self, values: Values, subject: Subject) -> _Flow | None:
        flows: list[_Flow] = []

        def call(*arguments: Any) -> Any:
            flows.append(_Flow(subject.sources))
            with flows[-1]:
                return subject.call(*arguments)

        found = self.case.evaluate(
            values, dtype=torch.float64, backward=False, subject=replace(subject, call=call)
        )
        return flows[-1] if found.error is None else None


class _Flow(Recorder):
    """Records a call with the operands of every operation."""

    def __init__(self, sources: Sources) -> None:
        super().__init__(sources, lift=True)
        self.operands: dict[int, list[Tensor]] = {}

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        out = super().operate(func, name, args, kwargs)
        self.operands[self.operations[-1].index] = [*tensors_in(args), *tensors_in(kwargs)]
        return out


def _points(case: Examination) -> Iterator[Values]:
    if case.small is not case.inputs:
        yield case.small.values
        return
    yield from variations(case)


def _alike(own: Evaluation, other: Evaluation) -> bool:
    assert own.value is not None and other.value is not None
    if own.value.shape != other.value.shape:
        return False
    one, two = own.value.detach().double(), other.value.detach().double()
    if not one.numel() or not torch.isfinite(one).all():
        return False
    if float((one - two).abs().max()) > VALUE * float(one.abs().max()):
        return False
    return all(
        tensors_agree(own.gradient(leaf), other.gradient(leaf), GRADIENT)
        for leaf in range(min(len(own.leaves), len(other.leaves)))
    )


def _vanishing(own: _Flow, other: _Flow) -> Vanishing | None:
    """The operation whose operands differ and whose result does not; all such must be divisions."""
    if [one.name for one in own.operations] != [one.name for one in other.operations]:
        return None  # another way through the code: the change did something after all
    mine, theirs = _results(own), _results(other)
    changed: dict[int, Operation] = {}
    gone = None
    for operation in own.operations:
        if _differ(mine.get(operation.index, []), theirs.get(operation.index, [])):
            changed |= {id(result): operation for result in mine[operation.index]}
            continue
        operands = own.operands.get(operation.index, [])
        seen = next((changed[id(one)] for one in operands if id(one) in changed), None)
        if seen is None and not _operands_differ(own, other, operation):
            continue
        # What stops at a kink (a margin that is kept) or at a zero is only not felt here.
        if operation.name not in CANCELLING:
            return None
        gone = Vanishing(seen or operation, operation)
    return gone


def _operands_differ(own: _Flow, other: _Flow, operation: Operation) -> bool:
    index = operation.index
    return _differ(own.operands.get(index, []), other.operands.get(index, []))


def _results(trace: Recorder) -> dict[int, list[Tensor]]:
    found: dict[int, list[Tensor]] = {}
    for operation, result in trace.results.values():
        found.setdefault(operation.index, []).append(result)
    return found


def _differ(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    for one, other in zip(mine, theirs, strict=False):
        if one.shape == other.shape and one.is_floating_point() and other.is_floating_point():
            a, b = one.detach().double(), other.detach().double()
            if a.numel() and float((a - b).abs().max()) > 1e-3 * float(a.abs().max()):
                return True
    return False


class _Scaled(Recorder):
    """Performs a call with one operation's result multiplied element by element."""

    def __init__(self, case: Examination, index: int, factors: Tensor) -> None:
        # Casts to narrower types are lifted by the recording around this one.
        super().__init__(case.subject.sources)
        self.index = index
        self.factors = factors

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        out = super().operate(func, name, args, kwargs)
        if self.operations[-1].index != self.index or not isinstance(out, Tensor):
            return out
        with torch._C.DisableTorchFunction():
            return out * self.factors.to(out) if out.shape == self.factors.shape else out


def scaled_result(case: Examination, operation: Operation, shape: Sequence[int]) -> Subject:
    """The loss with the result of one recorded operation multiplied by positive random numbers."""
    generator = torch.Generator().manual_seed(31_415)
    factors = 0.3 + 2 * torch.rand(tuple(shape), generator=generator, dtype=torch.float64)

    def call(*arguments: Any) -> Any:
        with _Scaled(case, operation.index, factors):
            return case.subject.call(*arguments)

    return replace(case.subject, call=call)


def floating_result(trace: Recorder, operation: Operation) -> Tensor | None:
    """The one floating tensor that an operation made."""
    made = [
        result
        for other, results in trace.results.values()
        if other is operation
        for result in tensors_in(results)
    ]
    return made[0] if len(made) == 1 and made[0].is_floating_point() else None
