"""A call that does what no call may do is seen."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmarks.fuzz import examine
from benchmarks.fuzz.examine import Call, examined, with_gradients

GIVEN = torch.ones(3)


def call(run: Callable[[], Any], **more: Any) -> Call:
    return Call(run, [GIVEN], frozenset({"input", "weight"}), **more)


def raises(error: Exception) -> Callable[[], Any]:
    def run() -> Any:
        raise error

    return run


def writes() -> None:
    GIVEN.add_(0)


def changes() -> None:
    GIVEN.data += 1


def fills() -> None:
    GIVEN.grad = torch.ones(3)


def defaults() -> None:
    torch.set_default_dtype(torch.float64)


def eager() -> None:
    torch.compiler.set_stance("force_eager")


def warns() -> None:
    warnings.warn("so", UserWarning, stacklevel=1)


def endless() -> None:
    while True:
        pass


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    GIVEN.fill_(1)
    GIVEN.grad = None
    torch.set_default_dtype(torch.float32)
    torch.compiler.set_stance("default")


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (writes, r"\[0\] was written to"),
        (changes, r"\[0\] has other values"),
        (fills, r"\[0\] has another `.grad`"),
        (defaults, "default dtype is another"),
        (eager, "what is compiled is another"),
        (lambda: torch.rand(1), "the random numbers of torch are others"),
        (random.random, "the random numbers of random are others"),
        (warns, "warns: UserWarning: so"),
        (raises(IndexError("`input`")), "raises IndexError"),
        (raises(ValueError("dimensions do not match")), "raises ValueError"),
        (raises(RuntimeError("`input`")), "raises RuntimeError"),
        (lambda: torch.ones(2) @ torch.ones(3), "raises RuntimeError"),
    ],
)
def test_what_a_call_may_not_do(run: Callable[[], Any], fault: str) -> None:
    faults = examined(lambda: call(run)).faults
    assert any(re.search(fault, one) for one in faults)


def test_a_call_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "PATIENCE", 0.05)
    outcome = examined(lambda: call(endless))
    assert outcome.kind == "hung"
    assert "does not come to an end" in outcome.faults


def test_a_second_call_that_differs() -> None:
    values = iter((1.0, 2.0))
    assert examined(lambda: call(lambda: next(values))).faults == [
        "gives something else the second time"
    ]
    outcomes = iter((raises(ValueError("`input` is 1")), raises(ValueError("`input` is 2"))))
    (fault,) = examined(lambda: call(next(outcomes))).faults
    assert fault.startswith("the second time: refused")


def test_what_is_promised_of_ordinary_calls() -> None:
    nan = call(lambda: torch.tensor(float("nan")), ordinary=True)
    assert examined(lambda: nan).faults == ["result is not finite for what is finite and valid"]
    wide = call(lambda: torch.ones(2).double(), dtype=torch.float32)
    assert examined(lambda: wide).faults == ["returns torch.float64 for torch.float32"]
    leaf = torch.zeros(1, requires_grad=True)
    steep = call(lambda: with_gradients(leaf.sqrt(), [leaf]), ordinary=True)
    assert len(examined(lambda: steep).faults) == 1


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (lambda: 3, "returned"),
        (raises(ValueError("`weight` must be positive")), "refused"),
        (raises(TypeError("f() got an unexpected keyword argument 'x'")), "refused"),
        (raises(KeyError("of the page")), "documented error"),
    ],
)
def test_what_a_call_may_do(run: Callable[[], Any], kind: str) -> None:
    outcome = examined(lambda: call(run, errors=((KeyError, "of the page"),)))
    assert (outcome.kind, outcome.faults) == (kind, [])
