"""The list of the balancers."""

import pytest
import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.listing import KINDS, NAMES, BalancerEntry, balancers

ENTRIES = {entry.name: entry for entry in balancers()}


def below(cls):
    return {cls}.union(*map(below, cls.__subclasses__()))


def test_every_public_balancer_is_listed_once_and_bases_are_not():
    ours = {
        one
        for one in below(Balancer) - {Balancer}
        if one.__module__.startswith("lossproof.") and not one.__name__.startswith("_")
    }
    bases = {base for one in ours for base in one.__mro__[1:]}
    assert {entry.balancer for entry in ENTRIES.values()} == ours - bases
    assert len(ENTRIES) == len(balancers())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("FixedWeights", "values"), ("LearningRateAnnealing", "statistics"), ("UPGrad", "gramian"),
     ("GradDrop", "gradients"), ("NTKTrace", "points"), ("CausalWeighting", "points"),
     ("MoDo", "gramian"), ("FromTorchJD", "adapter")],
)  # fmt: skip
def test_what_the_weights_come_from(name, kind):
    assert ENTRIES[name].kind == kind


def test_the_cheapest_come_first():
    kinds = [KINDS.index(entry.kind) for entry in balancers()]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_every_entry_says_what_it_is(entry):
    assert entry.summary.endswith(".")
    assert len(entry.summary) <= 100
    unpublished = {"FixedWeights", "ScheduledWeights"}
    assert bool(entry.source) is (entry.name not in unpublished)


@pytest.mark.parametrize(
    "entry", [one for one in ENTRIES.values() if one.kind != "adapter"], ids=lambda one: one.name
)
def test_every_entry_has_an_example(entry):
    balancer = entry.example()
    assert type(balancer) is entry.balancer
    if balancer.names is not None:
        assert {name.partition("[")[0] for name in balancer.names} == set(NAMES)


def test_a_source_is_one_line_of_prose():
    class Own(Balancer):
        """Weights of my own.

        Args:
            names: the names.

        Source:
            Me and You (2026), A paper
            with two lines.
        """

    assert BalancerEntry(Own).source == "Me and You (2026), A paper with two lines."
    assert torch.equal(BalancerEntry(Own).example().weights, torch.ones(3, dtype=torch.float64))
