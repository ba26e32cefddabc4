"""The `reduction` option of a loss: where it is, and what each of its values gives."""

from __future__ import annotations

import ast
import enum
import inspect
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.batch import batch_of
from lossproof.checks.dead_options import declared_unused
from lossproof.checks.definitions import definitions
from lossproof.checks.options import (
    constructor_of,
    instance_of,
    keyword_options,
    remade,
    with_argument,
    with_attribute,
    with_keyword,
)
from lossproof.checks.report import Location, Number
from lossproof.checks.subject import Subject

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination

Tensor = torch.Tensor

TOLERANCE = 1e-6
_NAME = re.compile(r"^(loss_)?reduction(_type|_mode|_method)?$", re.I)
_FLAG = re.compile(r"^(size_average|reduce|average|batch_average)$", re.I)
_WORDS = ("none", "mean", "sum")


@dataclass(frozen=True)
class ReductionOption:
    """A `reduction` option, and the loss with each of its values."""

    name: str
    current: Any
    """What the loss was made with, or the default; ``None`` where it cannot be told."""
    variants: dict[Any, Subject]
    constants: frozenset[Any]
    """The texts that the loss's own source names."""

    def known(self, value: Any) -> bool:
        """Whether the loss knows of a value: it was made with it, or names it."""
        return isinstance(value, bool) or value == self.current or value in self.constants

    def known_to(self, values: Sequence[Any]) -> bool:
        """Whether this is the option that it is called, by one value at least."""
        return any(self.known(value) for value in values)

    def named_in_source(self, value: Any) -> bool:
        """Whether the loss's own source names a value."""
        return value in self.constants

    def location(self, case: Examination) -> Location | None:
        """Where the result is made."""
        made = case.trace.results.get(id(case.base.output))
        return (made[0].site.location if made else None) or case.subject.location


@dataclass(eq=False)
class Results:
    """What each value of the option gives at each point."""

    found: dict[Any, list[Evaluation]] = field(default_factory=dict)
    failed: dict[Any, Exception] = field(default_factory=dict)
    points: int = 0
    repeated: bool = False
    """Whether the last point is the first one with every sample twice."""
    why_not: str = "the loss accepts one value of the option only"
    undecided: str = ""

    @property
    def given(self) -> list[Any]:
        """The values that the loss works with."""
        return list(self.found)

    def values(self, value: Any) -> list[Tensor]:
        """The result at each point."""
        return [f.value.detach().double() for f in self.found[value] if f.value is not None]

    def elements(self, value: Any) -> int:
        """How many elements the result has at the first point."""
        return self.values(value)[0].numel()

    def text(self, value: Any) -> str:
        """The result at the first point, for a message."""
        result = self.values(value)[0]
        return f"{float(result):.6g}" if result.numel() == 1 else f"shape {list(result.shape)}"

    @property
    def many_items(self) -> bool:
        """Whether a mean and a sum differ everywhere, as they do where there are many items."""
        if "mean" not in self.found or "sum" not in self.found:
            return False
        pairs = zip(self.values("mean"), self.values("sum"), strict=True)
        return all(not _close(mean, total) for mean, total in pairs)

    def doubles(self, value: Any) -> bool:
        """Whether a value gives twice as much where every sample is there twice."""
        results = self.values(value)
        return self.repeated and _close(results[-1], 2 * results[0])

    def is_mean_in_other_words(self, value: Any) -> bool:
        """Whether a value gives what the other one does everywhere, and stays for twice the batch.

        Everywhere includes the batch with every sample twice, of which a sum would be the double.
        """
        (other,) = [one for one in self.found if one is not value]
        results, others = self.values(value), self.values(other)
        return (
            self.repeated
            and all(map(_close, results, others))
            and _close(results[-1], results[0])
            and not _close(results[0], torch.zeros_like(results[0]))
        )

    def all_points(
        self, value: Any, relation: Callable[[Tensor], Tensor], but: Callable[[Tensor], Tensor]
    ) -> bool:
        """Whether a value stands in a relation to the items everywhere, and in no better one.

        The relation must show when every sample is there twice, too: a sum doubles, a mean stays.
        """
        results, items = self.values(value), self.values("none")
        if not self.repeated or any(result.numel() != 1 for result in results):
            return False
        factor = 2.0 if relation is sum_of else 1.0
        return _close(results[-1], factor * results[0]) and all(
            _close(result, relation(item)) and not _close(result, but(item))
            for result, item in zip(results, items, strict=True)
        )

    def broke(self, value: Any) -> bool:
        """Whether a value failed by accident, and was not refused."""
        return _is_accident(self.failed[value])

    @property
    def numbers(self) -> dict[str, Number]:
        """The evidence: what each value gave."""
        return {f"{value}": self.text(value) for value in self.found}


def sum_of(items: Tensor) -> Tensor:
    """The sum of the items."""
    return items.sum()


def mean_of(items: Tensor) -> Tensor:
    """The mean of the items."""
    return items.mean()


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape.numel() == other.shape.numel() and torch.allclose(
        one.reshape(-1), other.reshape(-1), rtol=TOLERANCE, atol=1e-12, equal_nan=True
    )


def identical(results: Results, one: Any, other: Any) -> bool:
    """Whether two values give the same results everywhere, by the same operations."""
    for first, second in zip(results.found[one], results.found[other], strict=True):
        if first.value is None or second.value is None or first.value.shape != second.value.shape:
            return False
        if not _close(first.value.detach().double(), second.value.detach().double()):
            return False
        if _operations(first) != _operations(second):
            return False
    return True


def _operations(found: Evaluation) -> list[tuple[str, Any]]:
    assert found.trace is not None
    return [
        (operation.name, operation.site.own and operation.site.own[1])
        for operation in found.trace.operations
    ]


def _is_accident(error: Exception) -> bool:
    if isinstance(error, (UnboundLocalError, NameError, AttributeError, KeyError, TypeError)):
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is None:
            return False
        line = inspect.getframeinfo(trace).code_context or [""]
        return not line[0].strip().startswith(("raise", "assert"))
    return False


# ---------------------------------------------------------------------- finding the option


def option_of(case: Examination) -> ReductionOption | None:
    """The loss's `reduction` option, if it has one that can be varied."""
    constants = _constants(case)
    for find in (_by_constructor, _by_keyword, _by_argument, _by_attribute):
        # `size_average` is the old way of saying what `reduction` says, and gives way to it.
        for name, current, variants in sorted(find(case), key=lambda one: not _NAME.match(one[0])):
            if len(variants) > 1 and not declared_unused(case, name):
                return ReductionOption(name, _plain(current), variants, constants)
    return None


Candidate = tuple[str, Any, dict[Any, Subject]]


def _values_for(name: str, current: Any) -> tuple[Any, ...]:
    if _NAME.match(name):
        return _WORDS
    if _FLAG.match(name) and (current is None or isinstance(current, bool)):
        return (True, False)
    return ()


def _by_constructor(case: Examination) -> list[Candidate]:
    instance = instance_of(case)
    constructor = None if instance is None else constructor_of(instance)
    found: list[Candidate] = []
    if constructor is None:
        return found
    for name, parameter in constructor.parameters.items():
        current = constructor.arguments.get(name, parameter.default)
        made = {v: remade(case, constructor, **{name: v}) for v in _values_for(name, current)}
        variants = {value: subject for value, subject in made.items() if subject is not None}
        # What cannot be made again as it was shows nothing.
        if any(_same_loss(case, subject) for subject in variants.values()):
            found.append((name, current, variants))
    return found


def _same_loss(case: Examination, subject: Subject) -> bool:
    own, other = case.base.value, case.evaluate(backward=False, subject=subject).value
    if own is None or other is None or own.shape != other.shape:
        return False
    return _close(own.detach().double(), other.detach().double())


def _by_keyword(case: Examination) -> list[Candidate]:
    return [
        (
            name,
            default,
            {v: with_keyword(case.subject, name, v) for v in _values_for(name, default)},
        )
        for name, default in keyword_options(case).items()
    ]


def _by_argument(case: Examination) -> list[Candidate]:
    return [
        (
            argument.name,
            argument.value,
            {
                value: with_argument(case.subject, position, value)
                for value in _values_for(argument.name, argument.value)
                if isinstance(argument.value, (str, bool))
            },
        )
        for position, argument in enumerate(case.inputs.arguments)
    ]


def _by_attribute(case: Examination) -> list[Candidate]:
    """An attribute that is read when the loss is called, and no argument of the constructor."""
    instance = instance_of(case)
    attributes = getattr(instance, "__dict__", {})
    return [
        (
            name,
            value,
            {v: with_attribute(case.subject, instance, name, v) for v in _values_for(name, value)},
        )
        for name, value in attributes.items()
        if isinstance(value, (str, bool)) and _read_by_methods(case, name)
    ]


def _read_by_methods(case: Examination, name: str) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)
        for source in definitions(case.subject)
        if source.tree.name != "__init__"
        for node in ast.walk(source.tree)
    )


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _constants(case: Examination) -> frozenset[Any]:
    return frozenset(
        node.value
        for source in definitions(case.subject)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


# ---------------------------------------------------------------------- trying it


def results_of(case: Examination, option: ReductionOption) -> Results:
    """Call the loss with every value of the option at every point."""
    points, repeated = _points(case)
    results = Results(points=len(points), repeated=repeated)
    if not case.affordable(len(points) * len(option.variants)):
        results.why_not = "the loss is too slow to be called for every value of the option"
        return results
    for value, subject in option.variants.items():
        found = []
        for values in points:
            one = case.evaluate(
                values, dtype=torch.float64, record=True, backward=False, subject=subject
            )
            if one.error is not None or not isinstance(one.output, Tensor):
                error = one.error or TypeError(f"no tensor but {type(one.output).__name__}")
                results.failed[value] = error
                break
            found.append(one)
        else:
            results.found[value] = found
    if not repeated and _first_length(case) < 2:
        results.undecided = "one item only: all reductions of it are the same"
    return results


def _points(case: Examination) -> tuple[list[tuple[Any, ...]], bool]:
    """The inputs, another draw of the prediction, and the inputs with every sample twice."""
    from lossproof.checks.agreement import variations

    base = case.small.values
    points = [base]
    if case.small is case.inputs:
        points += list(itertools.islice(variations(case), 2, 3))
    batch = batch_of(case)
    if batch is None:
        return points, False
    return [*points, batch.repeated(base, 2)], True


def _first_length(case: Examination) -> int:
    shapes = [
        value.shape for value in case.small.values if isinstance(value, Tensor) and value.dim()
    ]
    return shapes[0][0] if shapes else 1
