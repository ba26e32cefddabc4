"""Which Modules a function is seen to use."""

from __future__ import annotations

import functools

import torch
from torch import nn

from lossproof.speed.owners import modules_of

GLOBAL = nn.Linear(2, 2)


class Trainer:
    def __init__(self) -> None:
        self.model = nn.Linear(2, 2)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def test_modules_are_seen_wherever_a_function_has_them() -> None:
    module, trainer = nn.Sequential(nn.Linear(2, 2)), Trainer()
    assert modules_of(module) == [module]
    assert modules_of(module.forward) == [module]
    assert modules_of(functools.partial(module, 1)) == [module]
    assert modules_of(trainer.loss) == [trainer.model]
    assert modules_of(lambda x: module(x)) == [module]
    assert modules_of(lambda x: GLOBAL(x)) == [GLOBAL]
    assert modules_of(lambda x, one=module: one(x)) == [module]

    def inner(x):
        return module(x)

    assert modules_of(lambda x: inner(inner(x))) == [module]


def test_functions_of_nothing_and_of_themselves() -> None:
    def again(count: int) -> int:
        return again(count - 1) if count else later

    assert modules_of(again) == []
    later = 1
    assert again(2) == later
    assert modules_of(torch.exp) == modules_of(3) == []
