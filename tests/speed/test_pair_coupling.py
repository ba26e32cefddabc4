"""Functions that look at more than one pair are told from those that do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lossproof.speed.pair_coupling import CoupledPairsError
from lossproof.speed.pairing import pairs


def product(a, b):
    return a @ b.T


def masked_eye(a, b):
    return product(a, b).masked_fill(torch.eye(len(a), dtype=torch.bool), -1e9)


def numbered(a, b):
    return product(a, b) + torch.arange(len(a))[:, None]


COUPLED = {
    "softmax over y": lambda a, b: product(a, b).softmax(1),
    "softmax over x": lambda a, b: product(a, b).softmax(0),
    "less the largest": lambda a, b: product(a, b) - product(a, b).max(),
    "divided by the number": lambda a, b: product(a, b) / len(b),
    "centred": lambda a, b: product(a - a.mean(0), b),
    "standardised": lambda a, b: (
        (product(a, b) - product(a, b).mean()) / product(a, b).std(correction=0)
    ),
    "the best of a row": lambda a, b: (
        product(a, b) * (product(a, b) == product(a, b).amax(1, True))
    ),
    "the diagonal of the block": masked_eye,
    "the number in the block": numbered,
    "beside a large mask": lambda a, b: product(a, b).softmax(1) - 1e9 * (b[:, 0] > 1),
    "with infinities": lambda a, b: (
        product(a, b).masked_fill(product(a, b) < 0, -torch.inf).softmax(1).log()
    ),
}


@pytest.mark.parametrize("function", COUPLED.values(), ids=COUPLED.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [3, 20])
def test_coupled_pairs_are_refused(function, dtype, count):
    torch.manual_seed(3)
    x = torch.randn(count, 4, dtype=dtype)
    with pytest.raises(CoupledPairsError, match="`pair_fn` gives .* for the same pair in one of"):
        pairs(function, "sum")(x, x.flip(0))


LAYER = nn.Linear(4, 4)


def closed_over(a, b):
    return LAYER(a) @ b.T


SEPARATE = {
    "product": product,
    "cosine": lambda a, b: nn.functional.normalize(a, dim=1) @ nn.functional.normalize(b, dim=1).T,
    "distance": torch.cdist,
    "squares": lambda a, b: (
        (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0) + 1e-12
    ).sqrt(),
    "kernel": lambda a, b: torch.exp(-torch.cdist(a, b).square()),
    "a layer of float32": closed_over,
    "infinite": lambda a, b: product(a, b).masked_fill(a[:, :1] > 0, -torch.inf),
    "nan": lambda a, b: product(a, b).masked_fill(a[:, :1] > 0, torch.nan),
    "nothing": lambda a, b: 0 * product(a, b),
    "flags": lambda a, b: product(a, b) > 0,
}


@pytest.mark.parametrize("function", SEPARATE.values(), ids=SEPARATE.keys())
@pytest.mark.parametrize("count", [1, 2, 20])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_pairs_that_are_computed_one_by_one_are_taken(function, count, shift):
    x = torch.randn(count, 4) + shift
    y = x if count % 2 else torch.randn(7, 4) + shift
    pairs(function, "sum")(x, y)


CANCELLING = {
    "a product less another": lambda a, b: product(a, b) - a.square().sum(1, keepdim=True),
    "squares": lambda a, b: a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T,
    "which is larger": lambda a, b: product(a, b).masked_fill(
        product(a, b) <= a.square().sum(1, keepdim=True), -torch.inf
    ),
}


@pytest.mark.parametrize("function", CANCELLING.values(), ids=CANCELLING.keys())
@pytest.mark.parametrize("spread", [0.0, 1e-15, 1e-12, 1e-8])
def test_what_rounding_makes_of_nearly_equal_rows_is_no_coupling(function, spread):
    generator = torch.Generator().manual_seed(0)
    x = 3 + spread * torch.randn(40, 64, generator=generator, dtype=torch.float64)
    pairs(function, "sum")(x)


@pytest.mark.parametrize("spread", [0.0, 1e-12])
def test_coupled_pairs_of_nearly_equal_rows_are_refused(spread):
    x = 3 + spread * torch.randn(40, 64, dtype=torch.float64)
    with pytest.raises(CoupledPairsError):
        pairs(lambda a, b: product(a, b).softmax(1), "sum")(x)


def test_what_has_the_size_of_the_batch_is_refused():
    labels = torch.arange(40)
    mask = labels[:, None] == labels
    with pytest.raises(CoupledPairsError, match=r"what belongs to the rows must be given with"):
        pairs(lambda a, b: product(a, b) * mask, "sum")(torch.randn(40, 4))


def test_a_function_is_tried_once():
    calls = []

    def function(a, b):
        calls.append(len(a))
        return product(a, b)

    reduction = pairs(function, "sum")
    reduction(torch.randn(20, 4))
    assert calls == [12, 3, 3, 20]
    reduction(torch.randn(20, 4))
    assert calls == [12, 3, 3, 20, 20]


def test_a_pair_that_is_alone_is_no_trial():
    reduction = pairs(lambda a, b: product(a, b).softmax(1), "sum")
    reduction(torch.ones(1, 4))
    with pytest.raises(CoupledPairsError):
        reduction(torch.randn(20, 4))


def test_what_is_drawn_at_random_is_told():
    state = torch.get_rng_state()
    with pytest.warns(RuntimeWarning, match="`pair_fn` draws random numbers"):
        pairs(lambda a, b: product(a, b).softmax(1) + torch.randn(len(a), 1), "sum")(
            torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
        )
    torch.set_rng_state(state)


def test_the_warning_points_to_the_call():
    with pytest.warns(RuntimeWarning) as caught:
        pairs(lambda a, b: product(a, b) + torch.randn(1), "sum")(torch.randn(20, 4))
    assert caught[0].filename == __file__
