"""What is planned for whole models; that every plan gives the same gradients stands elsewhere."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossproof.terms import plan
from lossproof.terms.graph import is_single, read_graph
from lossproof.terms.parameters import chosen_parameters
from lossproof.terms.plan import Plan, make_plan

NAMES = ("trunk.weight", "trunk.bias", "first.weight", "first.bias", "second.weight", "second.bias")


class Heads(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.trunk = nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, 2), nn.Linear(width, 2)

    def terms(self, rows=8):
        hidden = self.trunk(torch.randn(rows, self.trunk.in_features)).tanh()
        return [self.first(hidden).sum(), self.second(hidden).sum()]


def planned(model, terms, *, factors=True, hold=True):
    parameters = chosen_parameters(model)
    found = make_plan(read_graph(terms), parameters, factors=factors, hold=hold)
    return found, [parameters.names[position] for position in found.factored]


def test_a_wide_trunk_stays_in_factors_and_heads_do_not():
    model = Heads(1000)
    found, factored = planned(model, model.terms())
    assert factored == ["trunk.weight"]
    assert len(found.dense) == 5
    assert found.shared
    assert planned(model, model.terms(), factors=False)[1] == []


def test_many_rows_are_cheaper_multiplied_out():
    model = Heads(200)
    assert planned(model, model.terms(8))[1] == ["trunk.weight"]
    assert planned(model, model.terms(5000))[1] == []


def test_cotangents_go_together_through_few_rows(monkeypatch):
    model = Heads(1000)
    assert planned(model, model.terms(8))[0].batched
    assert not planned(model, model.terms(plan.FEW_ROWS + 1))[0].batched


def test_an_operation_that_gains_nothing_ends_batching():
    model = Heads(1000)
    hidden = F.softmax(model.trunk(torch.randn(8, 1000)), 1)
    terms = [model.first(hidden).sum(), model.second(hidden).sum()]
    assert not planned(model, terms)[0].batched


def test_uses_of_which_some_are_shared_have_no_single_form(monkeypatch):
    monkeypatch.setattr(plan, "START", -(10**12))
    layer = nn.Linear(20, 20, bias=False)
    hidden = layer(torch.randn(4, 20)).tanh()
    assert planned(layer, [hidden.sum(), hidden.sin().sum()])[1] == ["weight"]
    assert planned(layer, [layer(hidden).sum(), hidden.sin().sum()])[1] == []
    transposed = hidden @ layer.weight
    assert planned(layer, [transposed.sum(), transposed.sin().sum()])[1] == []


def test_terms_on_passes_of_their_own_share_nothing():
    model = nn.Linear(3, 2)
    apart = [model(torch.randn(4, 3)).sum(), model(torch.randn(4, 3)).sum()]
    assert not planned(model, apart)[0].shared
    out = model(torch.randn(4, 3))
    assert planned(model, [out.sum(), out.sin().sum()])[0].shared


def test_the_plain_plan_holds_all_that_is_reached():
    model = Heads(3)
    parameters = chosen_parameters(model)
    found = Plan.plain(read_graph(model.terms()[:1]), parameters)
    assert [parameters.names[at] for at in found.dense] == list(NAMES[:4])
    assert found.factored == {}
    assert not found.batched


@pytest.mark.parametrize(("mask", "single"), [(0, False), (1, True), (8, True), (3, False)])
def test_masks_of_one_term(mask, single):
    assert is_single(mask) is single
