"""Autocast and random generators as they were."""

from __future__ import annotations

import torch

from lossproof.speed.surroundings import plain_precision, surroundings


def test_the_generator_is_set_back_and_goes_on_afterwards():
    torch.manual_seed(0)
    kept = surroundings([torch.zeros(2)])
    first = torch.rand(3)
    state = torch.get_rng_state()
    for _ in range(2):
        with kept.again():
            assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.get_rng_state(), state)


def test_autocast_is_what_it_was():
    x = torch.randn(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = surroundings([x])
    outside = surroundings([x])
    for enter in ("again", "autocast_again"):
        with getattr(inside, enter)():
            assert (x @ x).dtype == torch.bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16), getattr(outside, enter)():
            assert (x @ x).dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")


def test_autocast_keeps_no_copies_that_have_no_gradient():
    weight = torch.randn(2, 2, requires_grad=True)
    x = torch.randn(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = surroundings([x])
        with kept.autocast_again(), torch.no_grad():
            x @ weight
        assert (x @ weight).requires_grad


def test_plain_precision():
    x = torch.randn(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), plain_precision("cpu"):
        assert (x @ x).dtype == torch.float32
    with plain_precision("meta"):
        pass
