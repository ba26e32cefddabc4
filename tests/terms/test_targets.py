import pytest
import torch
from torch import nn

from lossproof.terms.targets import targets
from lossproof.terms.terms import named_terms


class Two(nn.Module):
    """A trunk and two heads, one of which is unused by the second term."""

    def __init__(self):
        super().__init__()
        self.trunk, self.left, self.right = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(2, 1)
        self.x = torch.randn(3, 2, requires_grad=True)

    @property
    def terms(self):
        hidden = self.trunk(self.x)
        return named_terms({"a": self.left(hidden).mean(), "b": self.right(hidden).mean()})


def ids(parameters):
    return None if parameters is None else {id(tensor) for tensor in parameters.tensors}


def of(*modules):
    return {id(parameter) for module in modules for parameter in module.parameters()}


MEASURED = {"measuring": True, "listed": False}
NOT_MEASURED = {"measuring": False, "listed": False}


def test_where_nothing_must_be_known_the_graph_is_not_read():
    goal = targets(Two().terms, None, None, "weighted", **NOT_MEASURED)
    assert goal.filled is goal.measured is None
    assert goal.plain.tensors == ()


def test_all_leaves_are_filled_and_parameters_measured():
    net = Two()
    goal = targets(net.terms, None, None, "weighted", **MEASURED)
    assert ids(goal.filled) == of(net) | {id(net.x)}
    assert ids(goal.measured) == of(net)
    assert not goal.everything_measured


def test_listed_leaves():
    net = Two()
    goal = targets(net.terms, None, None, "weighted", measuring=False, listed=True)
    assert ids(goal.filled) == of(net) | {id(net.x)}
    assert goal.measured is None


def test_chosen_parameters_are_filled_and_measured():
    net = Two()
    goal = targets(net.terms, net, None, "weighted", **MEASURED)
    assert ids(goal.filled) == ids(goal.measured) == of(net)
    assert goal.everything_measured


def test_shared_parameters_are_measured():
    net = Two()
    goal = targets(net.terms, net, "shared", "weighted", **MEASURED)
    assert ids(goal.filled) == of(net)
    assert ids(goal.measured) == of(net.trunk)


@pytest.mark.parametrize("how", [MEASURED, NOT_MEASURED])
def test_exclusive_parameters_are_told_apart(how):
    net = Two()
    goal = targets(net.terms, net, None, "plain", **how)
    assert ids(goal.filled) == of(net.trunk)
    assert ids(goal.plain) == of(net.left, net.right)
    assert ids(goal.measured) == (of(net.trunk) if how is MEASURED else None)
    assert not goal.everything_measured


def test_what_is_measured_need_not_be_filled():
    net = Two()
    goal = targets(net.terms, net.left, [net.trunk], "weighted", **MEASURED)
    assert ids(goal.filled) == of(net.left)
    assert ids(goal.measured) == of(net.trunk)
    assert not goal.everything_measured


def test_of_what_is_measured_only_the_shared_part_where_heads_are_plain():
    net = Two()
    goal = targets(net.terms, net, [net.trunk, net.left], "plain", **MEASURED)
    assert ids(goal.measured) == of(net.trunk)


def test_of_a_single_term_no_parameter_is_shared():
    net = Two()
    terms = net.terms.among(["a"])
    goal = targets(terms, net, "shared", "weighted", **MEASURED)
    assert ids(goal.measured) == of(net)
    goal = targets(terms, net, None, "plain", **MEASURED)
    assert goal.measured is None
    assert ids(goal.plain) == of(net.trunk, net.left)
    assert ids(goal.filled) == of(net.right)


def test_nothing_is_shared():
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    terms = named_terms({"a": x.sum(), "b": y.sum()})
    with pytest.raises(ValueError, match=r"no parameter is shared .*`on=None`"):
        targets(terms, [x, y], "shared", "weighted", **MEASURED)
