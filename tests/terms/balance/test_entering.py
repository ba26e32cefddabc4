"""How ranks enter a step together, where one of them is different."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.terms.balance.every_balancer import make
from tests.terms.on_ranks import NAMES, ddp, grads_of, net, own_part, terms


def step_with(changes: dict[int, dict[str, Any]], name: str = "UPGrad", **options: Any) -> Any:
    """A step in which some ranks change their terms, and what came of it; then an ordinary one."""
    model, balancer = ddp(net(), find_unused_parameters=True), make(name, NAMES)
    if not options.pop("at_once", False):
        balancer.backward(terms(model, own_part(0)), list(model.parameters()))
        model.zero_grad()
    found = terms(model, own_part(1))
    for key, change in changes.get(dist.get_rank(), {}).items():
        if change == "missing":
            del found[key]
        elif change == "none":
            found[key] = None
        elif change == "nan":
            found[key] = found[key] * float("nan")
        elif change == "nan gradient":
            found[key] = found[key] + (0.0 * found[key]).sqrt()
        elif change == "refresh":
            options["refresh"] = False
    try:
        step = balancer.backward(found, list(model.parameters()), **options)
    except Exception as error:
        return type(error).__name__, str(error)
    return step.names, step.weights.tolist(), step.dropped, grads_of(model)


@pytest.mark.parametrize("name", ["UPGrad", "UncertaintyWeights"])
def test_a_value_that_is_not_finite_on_one_rank_raises_on_all(two_ranks, name):
    answers = two_ranks.run(step_with, {1: {"pde": "nan"}}, name)
    assert [kind for kind, _ in answers] == ["NonFiniteTermError"] * 2
    assert all("'pde'" in words for _, words in answers)


def test_a_gradient_that_is_not_finite_on_one_rank_raises_on_all(two_ranks):
    answers = two_ranks.run(step_with, {1: {"pde": "nan gradient"}})
    assert [kind for kind, _ in answers] == ["NonFiniteTermError"] * 2


@pytest.mark.parametrize("change", ["nan", "nan gradient"])
def test_a_term_that_is_not_finite_on_one_rank_is_dropped_on_all(two_ranks, change):
    def finite(grads: Any) -> bool:
        return all(torch.tensor(one).isfinite().all() for one in grads if one is not None)

    one, other = two_ranks.run(dropping_step, change)
    assert one == other
    assert one[2] == ("pde",)
    assert one[1][1] == 0.0
    assert finite(one[3])


def dropping_step(change: str) -> Any:
    return step_with({1: {"pde": change}}, nonfinite="drop")


def zero_for_none(name: str) -> Any:
    model, balancer = ddp(net(), find_unused_parameters=True), make(name, NAMES)
    balancer.backward(terms(model, own_part(0)), list(model.parameters()))
    model.zero_grad()
    found = terms(model, own_part(1))
    if dist.get_rank() == 1:
        found["bc"] = 0.0 * found["bc"]
    step = balancer.backward(found, list(model.parameters()))
    return step.names, step.weights.tolist(), step.dropped, grads_of(model)


@pytest.mark.parametrize("name", ["UPGrad", "UncertaintyWeights"])
def test_a_term_that_is_none_on_one_rank_counts_as_zero_there(two_ranks, name):
    one, other = two_ranks.run(step_with, {1: {"bc": "none"}}, name)
    assert one == other
    assert one == two_ranks.run(zero_for_none, name)[0]


def test_a_term_that_is_none_on_every_rank_is_absent(two_ranks):
    changes = {rank: {"bc": "none"} for rank in range(2)}
    one, other = two_ranks.run(step_with, changes)
    assert one == other
    assert one[0] == ("data", "pde")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_term_that_one_rank_forgets_is_told_to_all(two_ranks, at_once):
    answers = two_ranks.run(forgetful_step, at_once)
    assert [kind for kind, _ in answers] == ["AnotherRankError", "ValueError"]
    assert all("['bc'] missing" in words for _, words in answers)
    assert "rank 1: ValueError" in answers[0][1]


def forgetful_step(at_once: bool) -> Any:
    return step_with({1: {"bc": "missing"}}, at_once=at_once)


def fail_while_measuring() -> Any:
    from torch.utils.checkpoint import checkpoint

    model, balancer = ddp(net()), make("UPGrad", NAMES)
    found = terms(model, own_part(0))
    if dist.get_rank():
        found["pde"] = checkpoint(torch.square, found["pde"], use_reentrant=True)
    try:
        balancer.backward(found, list(model.parameters()))
    except Exception as error:
        return type(error).__name__, str(error)
    return "fine", ""


def test_a_rank_that_cannot_measure_is_told_to_all(two_ranks):
    answers = two_ranks.run(fail_while_measuring)
    assert [kind for kind, _ in answers] == ["AnotherRankError", "UnsupportedGraphError"]
    assert all("use_reentrant=True" in words for _, words in answers)


def test_ranks_that_mean_to_do_different_things_are_told(two_ranks):
    answers = two_ranks.run(step_with, {1: {"any": "refresh"}})
    assert [kind for kind, _ in answers] == ["ValueError"] * 2
    assert all("`refresh` must be the same on every rank" in words for _, words in answers)


def first_step_differs(what: str) -> Any:
    rank = dist.get_rank()
    model = ddp(net())
    balancer = make("UPGrad", NAMES)
    found = terms(model, own_part(0))
    parameters = list(model.parameters())
    if what == "names" and rank:
        balancer, found = make("UPGrad", NAMES[::-1]), dict(reversed(found.items()))
    elif what == "state" and rank:
        balancer.weights += 1
    elif what == "class" and rank:
        balancer = make("MGDA", NAMES)
    elif what == "params" and rank:
        parameters = parameters[2:]
    elif what == "no params":
        parameters = None
    try:
        balancer.backward(found, parameters)
    except ValueError as error:
        return str(error)
    return "fine"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("names", "the names of its terms must be the same on every rank"),
        ("state", "the state of the balancer (load the same checkpoint) must be the same"),
        ("class", "the class of the balancer must be the same on every rank, got 'UPGrad' on rank"),
        ("params", "`params` and `on` must name the same parameters"),
        ("no params", "`params` must be given where several ranks measure gradients"),
    ],
)
def test_what_differs_between_the_ranks_is_named_on_all_of_them(two_ranks, what, words):
    assert all(words in told for told in two_ranks.run(first_step_differs, what))
