"""Calls of `check` and `compare`, with specifications and inputs that may not fit."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import lossproof
from benchmarks.fuzz import odd, users_own
from benchmarks.fuzz.examine import Call
from benchmarks.fuzz.write import tensor_of
from lossproof.errors import FindingsError, UsageError

SPECIFICATIONS = (
    *(("float[4,3]", "float[4,3]"),) * 3,
    *(("float[4]; float[4]",), ("float[0]", "float[0]"), ("float[]", "float[]"), ("float[4,3]",)),
    *(("float[4,3]", "int[4]<3"), ("prob[4,3]", "binary[4]"), ("flot[4]", "float[4]")),
    *(("float[-1]", "float[2]"), ("float[4", "float[4]"), ("int[4]<0", "int[4]<x"), ("",)),
    *(("float[99999999999]",), ("a float[2]; a float[2]",), ("float[2]", "3"), ("None", "True")),
)
LOSSES = (
    *(users_own.squared,) * 4,
    users_own.smooth,
    users_own.quartic,
    functional.mse_loss,
    nn.L1Loss,
)


def call_of_check(random: Random) -> Callable[[], Call]:
    """A loss, its inputs, and a choice of rules; or the demand that it is right."""
    demanded = random.random() < 0.3
    loss: Any = random.choice(LOSSES) if random.random() < 0.8 else odd.no_function(random)
    inputs = _inputs(random)
    options: dict[str, Any] = {}
    for name in ("select", "ignore", "seed", "time_limit", "reference"):
        if random.random() < 0.1:
            options[name] = odd.option(random)
    options.setdefault("select", random.choice((["LP2"], ["LP101", "flat-loss"], ["LP3"])))

    def run() -> Any:
        if demanded:
            return lossproof.assert_right(loss, *inputs, **options)
        report = lossproof.check(loss, *inputs, **options)
        str(report)
        report.to_dict()
        return sorted({finding.code for finding in report.findings})

    return _made(run, [loss, inputs, options])


def call_of_compare(random: Random) -> Callable[[], Call]:
    """Two losses side by side."""
    sides = [random.choice(LOSSES) if random.random() < 0.85 else odd.no_function(random)
             for _ in range(2)]  # fmt: skip
    inputs = _inputs(random)
    options = {
        name: odd.option(random) for name in ("seed", "time_limit") if random.random() < 0.06
    }

    def run() -> Any:
        comparison = lossproof.compare(*sides, *inputs, **options)
        str(comparison)
        return [comparison.same, comparison.relation]

    return _made(run, [sides, inputs, options])


def _inputs(random: Random) -> tuple[Any, ...]:
    if random.random() < 0.6:
        return random.choice(SPECIFICATIONS)
    input, ordinary = tensor_of(random, random.choice(((4, 3), (5,), (0,), ())))
    return input, torch.zeros_like(input) if ordinary else odd.option(random)


def _made(run: Callable[[], Any], given: list[Any]) -> Callable[[], Call]:
    names = {"loss", "a", "b", "inputs", "select", "ignore", "seed", "time_limit", "reference"}
    names |= {"input", "target"}
    # Of what is wrong in a specification its own text is named.
    errors = (UsageError, ""), (FindingsError, "")
    return lambda: Call(run, given, frozenset(names), errors=errors)
