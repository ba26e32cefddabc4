"""Balancers under FSDP2: exactly what one process does with the whole batch."""

from __future__ import annotations

import os
from time import monotonic
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.terms.balance.every_balancer import make
from tests.terms.on_ranks import (
    NAMES,
    Told,
    batch,
    grads_of,
    net,
    own_part,
    parameters_of,
    sharded,
    terms,
    whole,
)
from tests.terms.ranks import WAIT, Processes

from lossproof.terms import term_gradients

if torch.__version__ < (2, 6):
    pytest.skip("fully_shard came with torch 2.6", allow_module_level=True)

EXACT = ("FixedWeights", "UPGrad", "LearningRateAnnealing", "UncertaintyWeights", "PCGrad", "RLW")
WANT = ("norm", "mean", "mean_abs", "max_abs", "gramian")


def trained(name: str, model: Any, data: Any, **options: Any) -> Any:
    balancer = make(name, NAMES)
    optimizer = torch.optim.Adam([*model.parameters(), *balancer.parameters()], lr=1e-2)
    weights = []
    for step in range(5):
        optimizer.zero_grad()
        outcome = balancer.backward(terms(model, data(step)), list(model.parameters()), **options)
        optimizer.step()
        weights.append(outcome.weights.tolist())
    return parameters_of(model), weights, [one.tolist() for one in balancer.parameters()]


def trained_with_own(name: str, model: Any, data: Any, given: str, options: Any) -> Any:
    """Train a net whose outermost module has parameters of its own."""
    balancer = make(name, NAMES)
    balancer.every = 2
    optimizer = torch.optim.Adam([*model.parameters(), *balancer.parameters()], lr=1e-2)
    for step in range(4):
        optimizer.zero_grad()
        found = terms(model, data(step))
        chosen = {"module": model, "parameters": list(model.parameters()), "all": None}[given]
        balancer.backward(found, chosen, **options)
        optimizer.step()
    return parameters_of(model)


def train_with_own_on_ranks(name: str, given: str, options: Any, resharding: Any) -> Any:
    model = sharded(net(own=True), reshard_after_forward=resharding)
    return trained_with_own(name, model, own_part, given, options)


def train_on_ranks(name: str, shape: Any, options: dict[str, Any]) -> Any:
    return trained(name, sharded(net(), shape), own_part, **options)


def assert_close(ours: Any, expected: Any) -> None:
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"clip": 0.5}, {"clip_terms": 0.5}], ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_sharded_training_is_that_of_one_process(two_ranks, name, options):
    alone = trained(name, net(), lambda step: batch(step, 2), **options)
    first, second = two_ranks.run(train_on_ranks, name, None, options)
    assert first == second
    for ours, expected in zip(first, alone, strict=True):
        assert_close(ours, expected)


@pytest.mark.parametrize(
    ("name", "given", "options", "resharding"),
    [
        ("UPGrad", "module", {}, None),
        ("UPGrad", "parameters", {"clip": 0.5}, None),
        ("UPGrad", "module", {}, False),
        ("LearningRateAnnealing", "parameters", {"clip_terms": 0.5}, True),
        ("FixedWeights", "module", {}, None),
        ("FixedWeights", "all", {"clip": 0.5}, None),
        ("UncertaintyWeights", "all", {}, None),
    ],
)
def test_parameters_that_are_whole_between_the_passes_are_trained_too(
    two_ranks, name, given, options, resharding
):
    model = net(own=True)
    before = parameters_of(model)
    alone = trained_with_own(name, model, lambda step: batch(step, 2), given, options)
    assert all(one != other for one, other in zip(alone, before, strict=True))
    first, second = two_ranks.run(train_with_own_on_ranks, name, given, options, resharding)
    assert first == second
    assert_close(first, alone)


def test_parameters_that_stay_sharded_over_fewer_ranks_are_trained_too(four_ranks):
    alone = trained_with_own("UPGrad", net(own=True), lambda step: batch(step, 4), "module", {})
    for ours in four_ranks.run(train_with_own_on_ranks, "UPGrad", "module", {}, 2):
        assert_close(ours, alone)


@pytest.mark.parametrize("shape", [(4,), (2, 2)], ids=["shards", "replicas of shards"])
@pytest.mark.parametrize("name", ["UPGrad", "LearningRateAnnealing"])
def test_four_ranks_with_empty_shards_and_replicas(four_ranks, name, shape):
    alone = trained(name, net(), lambda step: batch(step, 4))
    answers = four_ranks.run(train_on_ranks, name, shape, {})
    assert all(answer == answers[0] for answer in answers)
    for ours, expected in zip(answers[0], alone, strict=True):
        assert_close(ours, expected)


@pytest.mark.parametrize("name", ["GradDrop", "SignAgreement", "TrimmedMean", "DBMTL"])
def test_whole_gradients_are_treated_shard_by_shard(two_ranks, name):
    first, second = two_ranks.run(train_on_ranks, name, None, {})
    assert first == second
    if name != "GradDrop":  # which draws for every entry, here in another order
        alone = trained(name, net(), lambda step: batch(step, 2))
        assert_close(first[0], alone[0])


def figures_of_a_step() -> Any:
    figures = term_gradients(terms(model := sharded(net()), own_part(0)), model, want=WANT)
    statistics = {name: figures.by_parameter(name).tolist() for name in WANT[:-1]}
    return statistics, figures.gramian.tolist(), figures.values.tolist(), figures.unreached


def test_term_gradients_of_sharded_parameters_are_those_of_the_whole_batch(two_ranks):
    model = net()
    expected = term_gradients(terms(model, batch(0, 2)), model, want=WANT)
    for statistics, gramian, values, unreached in two_ranks.run(figures_of_a_step):
        for name, ours in statistics.items():
            assert_close(ours, expected.by_parameter(name).tolist())
        assert_close(gramian, expected.gramian.tolist())
        assert_close(values, expected.values.tolist())
        assert unreached == expected.unreached


def accumulated(model: Any, data: Any, balancer: Any) -> Any:
    x, y = data
    x = x.clone().requires_grad_()
    for part in range(2):
        balancer.backward(
            terms(model, (x[part::2], y[part::2])),
            list(model.parameters()),
            refresh=part == 0,
        )
    return grads_of(model), x.grad is None


def accumulate_on_ranks(every: int) -> Any:
    balancer = Told(NAMES)
    balancer.every = every
    return accumulated(sharded(net()), own_part(0), balancer)


def test_what_is_in_grad_is_kept_and_inputs_are_left_alone(two_ranks):
    expected, _ = accumulated(net(), batch(0, 2), Told(NAMES))
    for grads, _ in two_ranks.run(accumulate_on_ranks, 1):
        assert_close(grads, expected)


def measured_input() -> bool:
    model = sharded(net())
    x, y = own_part(0)
    x = x.clone().requires_grad_()
    Told(NAMES).backward(terms(model, (x, y)), list(model.parameters()))
    return x.grad is None


def test_inputs_that_require_a_gradient_get_none_while_terms_are_measured(two_ranks):
    assert two_ranks.run(measured_input) == [True, True]


def accumulated_without_sync() -> Any:
    model, balancer = sharded(net()), make("FixedWeights", NAMES)
    for step, last in enumerate((False, True)):
        model.set_requires_gradient_sync(last)
        balancer.backward(terms(model, own_part(step)), list(model.parameters()))
    return grads_of(model)


def test_plain_steps_accumulate_without_communication_as_ever(two_ranks):
    model, balancer = net(), make("FixedWeights", NAMES)
    for step in range(2):
        balancer.backward(terms(model, batch(step, 2)), model)
    first, second = two_ranks.run(accumulated_without_sync)
    assert first == second
    assert_close(first, grads_of(model))


def refused(what: str) -> str:
    model, balancer = sharded(net()), Told(NAMES)
    parameters, options = list(model.parameters()), {}
    found = terms(model, own_part(0))
    if what == "subset":
        parameters = parameters[4:]
    elif what == "sync":
        model.set_requires_gradient_sync(False)
    elif what == "hook":
        parameters[0].register_post_accumulate_grad_hook(lambda _: None)
    elif what == "graph" and dist.get_rank():
        found["bc"] = None
    elif what in ("on", "shared"):
        options["on"] = parameters[:2] if what == "on" else "shared"
    elif what == "exclusive":
        options["exclusive"] = "plain"
    try:
        balancer.backward(found, parameters, **options)
    except ValueError as error:
        return str(error)
    return "fine"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("subset", "with fully_shard, give the parameters of the whole model"),
        ("sync", "set_requires_gradient_sync(False)"),
        ("hook", "register_post_accumulate_grad_hook"),
        ("graph", "'bc' on the ranks [0] only"),
        ("on", "`on` must be None where parameters are sharded"),
        ("shared", "`on` must be None where parameters are sharded"),
        ("exclusive", "`exclusive` must be 'weighted' where parameters are sharded"),
    ],
)
def test_what_cannot_be_done_with_shards_is_refused_on_every_rank(two_ranks, what, words):
    assert all(words in told for told in two_ranks.run(refused, what))
    assert two_ranks.run(refused, "nothing") == ["fine", "fine"]


def nonfinite_on_one_rank(nonfinite: str) -> Any:
    model = sharded(net())
    found = terms(model, own_part(0))
    if dist.get_rank():
        found["pde"] = found["pde"] + (0.0 * found["pde"]).sqrt()
    try:
        step = make("UPGrad", NAMES).backward(found, list(model.parameters()), nonfinite=nonfinite)
    except Exception as error:
        return type(error).__name__
    gradients = [whole(one.grad) for one in model.parameters() if one.grad is not None]
    return step.dropped, all(bool(one.isfinite().all()) for one in gradients)


def test_what_is_not_finite_on_one_rank_is_seen_by_all(two_ranks):
    assert two_ranks.run(nonfinite_on_one_rank, "raise") == ["NonFiniteTermError"] * 2
    assert two_ranks.run(nonfinite_on_one_rank, "drop") == [(("pde",), True)] * 2


def test_parameters_of_fsdp1_are_refused():
    model = net()
    for parameter in model.parameters():
        parameter._fsdp_flattened = True  # as FullyShardedDataParallel marks them
    with pytest.raises(ValueError, match=r"FullyShardedDataParallel \(FSDP1\)"):
        term_gradients(terms(model, batch(0, 1)), model)


def die_while_the_other_waits() -> None:
    model, balancer = net(), make("UPGrad", NAMES)
    for step in range(2):
        if step and dist.get_rank():
            os._exit(1)
        balancer.backward(terms(model, own_part(step)), model)


def test_a_rank_that_dies_is_found_out_by_the_others(two_ranks: Processes):
    start = monotonic()
    with pytest.raises(AssertionError, match="rank 0: (.|\\n)*Error(.|\\n)*rank 1 died"):
        two_ranks.run(die_while_the_other_waits)
    assert monotonic() - start < WAIT
