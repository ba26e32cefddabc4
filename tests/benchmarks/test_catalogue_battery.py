"""Each check of the battery fails on a loss that is wrong in its way, and holds for a right one."""

import dataclasses

import pytest
import torch
from benchmarks.catalogue.battery import COMMON, NotApplicable, failures
from benchmarks.catalogue.contract import CONTRACT
from benchmarks.catalogue.properties import PROPERTIES
from benchmarks.catalogue.subject import of_catalogue

from lossproof.losses.catalogue import named
from lossproof.losses.regression import log_cosh_loss

(RIGHT,) = of_catalogue(named("log_cosh_loss"))


class NoForwardMode(torch.autograd.Function):
    """Half the square, without a forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().sum() / 2

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return upstream * x


class Once(torch.autograd.Function):
    """Half the square, of which the second derivative comes out as 0."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().sum() / 2

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return upstream * x.detach()


def detached(input, target):
    return ((input - target).square() * (input - target).detach()).mean()


def in_float32(input, target):
    return log_cosh_loss(input.float(), target.float())


def overflows(input, target):
    return (input - target).cosh().log().sum()


def clamped(input, target):
    return (input - target).abs().clamp(max=50.0).sum()


def adds_eps(input, target):
    # e to minus the distance is 0 in float32 from a distance of 104 on, in float64 from 745 on.
    return -((-(input - target).abs()).exp() + torch.finfo(input.dtype).tiny).log().sum()


def overflows_in_half(input, target):
    return (input - target).mul(200.0).square().sum() / 40_000


def refuses_half(input, target):
    if torch.is_autocast_enabled("cpu"):
        raise RuntimeError("not implemented for 'Half'")
    return log_cosh_loss(input, target)


def deviation(input, target):
    return ((input - target) / input.std(0)).square().sum()


def mean_of_nothing(input, target):
    return (input - target).square().mean()


def root(input, target):
    return (input - target).square().sum().sqrt()


def broadcasts(input, target):
    return (input - target).square().sum()


def branches_on_a_value(input, target):
    distance = (input - target).abs().sum()
    return distance if distance.item() > 1 else distance.square()


def branches_on_a_size(input, target):
    distance = (input - target).abs()
    return distance.sum() if len(input) > 20 else distance.mean()  # of 16, and then of 24


def selects(input, target):
    distance = input - target
    return distance[distance > 0].sum()


def views(input, target):
    return (input.view(-1) - target.view(-1)).square().sum()


def swallows(input, target):
    return (input - target).nan_to_num().square().sum()


def writes(input, target):
    target.mul_(1.5)
    return (input - target).square().sum()


WRONG = [
    ("smoke", lambda input, target: (input - target).abs()),
    ("gradient", detached),
    ("gradient", in_float32),
    ("second gradient", lambda input, target: Once.apply(input - target)),
    ("extreme", overflows),
    ("accuracy", adds_eps),
    ("half", overflows_in_half),
    ("autocast", refuses_half),
    ("one item", deviation),
    ("no items", mean_of_nothing),
    ("degenerate", root),
    ("wrong shapes", broadcasts),
    ("fullgraph", branches_on_a_value),
    ("dynamic shapes", branches_on_a_size),
    ("vmap of grad", selects),
    ("forward mode", lambda input, target: NoForwardMode.apply(input - target)),
    ("non-contiguous", views),
    ("NaN is seen", swallows),
    ("inputs unchanged", writes),
]


def wrong_loss(call):
    return dataclasses.replace(RIGHT, call=call, ours=False, options=frozenset())


def test_every_check_has_a_loss_that_fails_it():
    assert {check for check, _ in WRONG} == set(COMMON)


@pytest.mark.parametrize(("check", "call"), WRONG, ids=[name for name, _ in WRONG])
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_loss_fails(check, call):
    found = failures(wrong_loss(call), {check: COMMON[check]})
    assert isinstance(found[check], str)


def test_a_right_loss_passes():
    found = failures(RIGHT, {**COMMON, **CONTRACT, **PROPERTIES})
    assert set(found) >= set(COMMON)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_what_fails_for_one_cause_is_counted_once():
    found = failures(wrong_loss(in_float32), COMMON)
    assert found["gradient"] == "float64 in, torch.float32 out"
    assert "second gradient" not in found
    found = failures(wrong_loss(branches_on_a_value), COMMON)
    assert found["fullgraph"] is not None
    assert "dynamic shapes" not in found


def mean_of_weighted(input, target, *, weight=None, mask=None, reduction="mean", normalizer=None):
    """A log-cosh loss with the mistakes of reductions."""
    values = log_cosh_loss(input, target, reduction="none")
    if mask is not None:
        values = values * mask  # NaN times 0 is NaN
    if weight is not None:
        values = values * weight
    if reduction == "none":
        return values
    # Divided by the number of items, whatever they weigh; and another word is the mean, too.
    return values.sum() if reduction == "sum" else values.mean()


@pytest.mark.parametrize(
    "check", ["reductions", "normalizer", "batch split", "weights", "masked NaN"]
)
def test_a_loss_that_breaks_the_contract_fails(check):
    subject = dataclasses.replace(RIGHT, call=mean_of_weighted)
    found = failures(subject, {check: CONTRACT[check]})
    assert isinstance(found[check], str)


def test_a_false_claim_of_a_page_fails():
    entry = RIGHT.entry
    turned = dataclasses.replace(
        entry.properties,
        convex=not entry.properties.convex,
        bounded_gradient=not entry.properties.bounded_gradient,
        coupled=not entry.properties.coupled,
    )
    subject = dataclasses.replace(RIGHT, entry=dataclasses.replace(entry, properties=turned))
    for check in ("convex", "bounded gradient", "coupled"):
        assert "its page" in failures(subject, {check: PROPERTIES[check]})[check]


def test_a_check_that_asks_nothing_has_no_verdict():
    def of_nobody(_):
        raise NotApplicable

    def raises(_):
        raise ValueError("no\nand why")

    found = failures(RIGHT, {"of nobody": of_nobody, "raises": raises})
    assert found == {"raises": "ValueError: no"}
