"""A rewritten loop is run on the inputs of the check before anybody is shown it."""

from __future__ import annotations

import ast
import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.agreement import VALUE_TOLERANCE, agreement, tensors_agree, variations
from lossproof.checks.causes.source import FunctionSource, source_of
from lossproof.checks.definitions import functions
from lossproof.checks.loops.elements import NotRewrittenError
from lossproof.checks.loops.rewriting import rewritten
from lossproof.checks.measurement import UnmeasurableError, timed_run
from lossproof.checks.report import Location

if TYPE_CHECKING:
    from lossproof.checks.examination import Evaluation, Examination

POINTS = 2
RUNS = 2
MANY_RUNS = 15
FAST = 2e-3
"""A loss that takes fewer seconds is timed in more runs."""
SLOW = 0.3
"""A loss whose one call takes more seconds is compared at one point, and timed once."""
TOO_SLOW = 4.0
"""A loss whose one call takes more seconds is not called again for this."""


@dataclass(frozen=True)
class Vectorised:
    """A loss without its loop."""

    code: str
    before: float
    """Seconds for value and gradient with the loop."""
    after: float
    """The same without."""

    @property
    def times(self) -> float:
        """How many times faster it is."""
        return self.before / self.after if self.after > 0 else math.inf


def vectorised(case: Examination, place: Location) -> Vectorised | None:
    """The function around a loop with ``torch.vmap`` in its place, if that gives the same.

    The value and the gradients must agree at the inputs and at other draws of them, and it must be
    faster. The user's function has the other code only while it is called.

    Args:
        case: the check.
        place: the loop.
    """
    case = case.few_rows
    found = _function_around(case, place)
    if found is None or case.call_seconds > TOO_SLOW:
        return None
    function, source = found
    name = _name_of_torch(function)
    if name is None:
        return None
    try:
        tree = rewritten(source.tree, place.line, name)
    except NotRewrittenError:
        return None
    code = _compiled(tree, function)
    if code is None or not _same(case, function, code):
        return None
    try:
        before = _seconds(case)
        with _replaced(function, code):
            after = _seconds(case)
    except UnmeasurableError:
        return None
    gain = Vectorised(ast.unparse(tree), before, after)
    return gain if gain.times > 1 else None


def _seconds(case: Examination) -> float:
    """How long value and gradient take; a loss that is fast is called more often."""
    first = timed_run(case)[1]
    if first > SLOW:
        return first
    runs = RUNS if first > FAST else MANY_RUNS
    return median(timed_run(case)[1] for _ in range(runs))


def _function_around(
    case: Examination, place: Location
) -> tuple[FunctionType, FunctionSource] | None:
    """The user's function that a loop stands in: the loss, one of its methods, or a helper."""
    for function in _candidates(case):
        source = source_of(function)
        if source is None or source.file != place.file:
            continue
        if source.tree.lineno <= place.line <= (source.tree.end_lineno or 0):
            return function, source
    return None


def _candidates(case: Examination) -> Iterator[FunctionType]:
    for function in functions(case.subject):
        yield function
        for name in function.__code__.co_names:
            helper = function.__globals__.get(name)
            if isinstance(helper, FunctionType):
                yield helper


def _name_of_torch(function: FunctionType) -> str | None:
    return next((name for name, value in function.__globals__.items() if value is torch), None)


def _compiled(tree: ast.FunctionDef, function: FunctionType) -> CodeType | None:
    """The code of the rewritten function, with the variables that the old one closes over."""
    free = function.__code__.co_freevars
    around = ast.parse(f"def around({', '.join(free)}):\n    pass")
    outer = around.body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.body = [tree]
    code = compile(ast.fix_missing_locations(around), "<rewritten>", "exec")
    inner = _named(_named(code, "around"), tree.name)
    return inner if inner.co_freevars == free else None


def _named(code: CodeType, name: str) -> CodeType:
    return next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)


@contextlib.contextmanager
def _replaced(function: FunctionType, code: CodeType) -> Iterator[None]:
    before = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = before


def _same(case: Examination, function: FunctionType, code: CodeType) -> bool:
    count = 1 if case.call_seconds > SLOW else POINTS
    points = list(itertools.islice(variations(case), count))
    for values in points:
        one: Any = case.evaluate(values)
        with _replaced(function, code):
            other: Any = case.evaluate(values)
        if not _agree(one, other):
            return False
    return bool(points)


def _agree(one: Evaluation, other: Evaluation) -> bool:
    if one.failed or other.failed or one.value is None or other.value is None:
        return False
    if one.value.shape != other.value.shape:
        return False
    if not agreement(one.value, other.value, VALUE_TOLERANCE).same:
        return False
    leaves = range(len(one.leaves))
    return all(
        bool(torch.isfinite(other.gradient(leaf)).all())
        and tensors_agree(one.gradient(leaf), other.gradient(leaf))
        for leaf in leaves
    )
