"""Leaves that a function uses without being given them."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from lossproof.errors import UnsupportedGraphError
from lossproof.speed.captured import captured_leaves, now
from lossproof.write.hooks import hooks_held_back


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


class Holder:
    def __init__(self):
        self.weight = leaf(3)

    def scaled(self, x):
        return x * self.weight


def leaves_of(function, x, known=()):
    since = now()
    return captured_leaves([function(x)], known, since, "`loss`")


def test_closures_bound_methods_attributes_and_partial_functions():
    weight, holder, module = leaf(3), Holder(), nn.Linear(3, 3)
    x = torch.randn(2, 3)
    for function, expected in (
        (lambda x: x * weight, [weight]),
        (holder.scaled, [holder.weight]),
        (functools.partial(torch.mul, other=weight), [weight]),
        (module, [module.bias, module.weight]),
        (lambda x: x * weight.detach(), []),
        (lambda x: (x * weight + weight.exp()).tanh(), [weight]),
    ):
        found = leaves_of(function, x)
        assert {id(one) for one in found} == {id(one) for one in expected}


def test_what_is_given_is_not_captured():
    weight, x = leaf(3), leaf(2, 3)
    assert leaves_of(lambda x: x * weight, x, [x, weight]) == []
    (found,) = leaves_of(lambda x: x * weight, x, [x])
    assert found is weight


def test_what_was_computed_outside_is_refused():
    computed = leaf(3) * 2
    with pytest.raises(UnsupportedGraphError, match=r"`loss` uses a tensor .*\(by MulBackward0\)"):
        leaves_of(lambda x: x + computed, torch.randn(2, 3))


def test_hooks_are_held_back_and_come_again():
    weight, seen = leaf(3), []
    weight.register_hook(seen.append)
    with hooks_held_back([weight]):
        torch.autograd.grad(weight.square().sum(), weight)
    assert not seen
    torch.autograd.grad(weight.square().sum(), weight)
    assert len(seen) == 1
