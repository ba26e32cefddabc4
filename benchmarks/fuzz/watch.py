"""Calls of `watch`: three steps of a small training under a guard."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch

import lossproof
from benchmarks.fuzz import odd, users_own
from benchmarks.fuzz.examine import Call
from lossproof.errors import TrainingAlarmError

Tensor = torch.Tensor
OPTIONS = ("on_alarm", "ring", "share", "memory")
USUAL: dict[str, tuple[Any, ...]] = {
    "on_alarm": ("warn", "raise"),
    "ring": (4, 16),
    "share": (0.02, 1.0),
    "memory": (0, 2**20),
}


def call_of_watch(random: Random) -> Callable[[], Call]:
    """A guard, what it is told of the loss, and a training that may go wrong."""
    seed = random.randrange(2**16)
    options: dict[str, Any] = {}
    for name in random.sample(OPTIONS, random.choice((0, 0, 1, 2))):
        usual = random.random() < 0.7
        options[name] = random.choice(USUAL[name]) if usual else odd.no_function(random)
    model = odd.no_function(random) if random.random() < 0.05 else None
    loss = odd.no_function(random) if random.random() < 0.05 else None
    seen = random.choice(("a Module", "wrapped", "noted", "told otherwise"))
    told = odd.option(random)
    warns = isinstance(how := options.get("on_alarm", "warn"), str) and how == "warn"
    spoilt = random.choice((*(None,) * 4, "not finite", "huge", "detached"))

    def make() -> Call:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = users_own.Encoder()
            batch, target = torch.randn(4, 3), torch.randn(4, 2)
        criterion = users_own.Squared()
        watched = encoder if model is None else model
        own = criterion if loss is None else loss

        def run() -> Any:
            guard = lossproof.watch(watched, own if seen == "a Module" else None, **options)
            optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
            with guard:
                compute = guard.wrap(criterion) if seen == "wrapped" else criterion
                for step in range(3):
                    optimizer.zero_grad()
                    value = compute(encoder(batch), target)
                    value = _spoilt(value, spoilt if step == 1 else None)
                    if seen == "noted":
                        guard.note({"fit": value})
                    if seen == "told otherwise":
                        guard.note(told)
                    if value.requires_grad:
                        value.backward()
                    optimizer.step()
            assert guard.retired is None, guard.retired
            return [str(type(guard)), [alarm.kind.value for alarm in guard.alarms]]

        return Call(
            run,
            [batch, target, told, options],
            frozenset({"model", "loss", "term", "terms", "name", "fn", *OPTIONS}),
            errors=((TrainingAlarmError, ""),),
            warns=("",) if warns else (),
        )

    return make


def _spoilt(value: Tensor, how: str | None) -> Tensor:
    changes: dict[str | None, Callable[[Tensor], Tensor]] = {
        "not finite": lambda one: one * float("nan"),
        "huge": lambda one: one * 1e30,
        "detached": Tensor.detach,
    }
    return changes.get(how, lambda one: one)(value)
