"""Balancers under DistributedDataParallel whose weights are held: accumulation, rare refreshes."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from tests.terms.balance.every_balancer import make
from tests.terms.on_ranks import (
    NAMES,
    batch,
    ddp,
    grads_of,
    net,
    own_part,
    parameters_of,
    terms,
    trained,
)


def accumulate_on_ranks(name: str, parts: int) -> Any:
    model, balancer = ddp(net()), make(name, NAMES)
    weights, refreshed = [], []
    for part in range(parts):
        last = part == parts - 1
        with contextlib.nullcontext() if last else model.no_sync():
            step = balancer.backward(
                terms(model, own_part(part)), list(model.parameters()), refresh=part == 0
            )
        weights.append(step.weights.tolist())
        refreshed.append(step.refreshed)
    return grads_of(model), weights, refreshed, balancer.steps


def weighted_by_one_process(weights: list[list[float]]) -> Any:
    """What accumulates where one process minimises the sums with these weights."""
    model = net()
    for part, each in enumerate(weights):
        found = terms(model, batch(part, 2)).values()
        sum(weight * term for weight, term in zip(each, found, strict=True)).backward()
    return grads_of(model)


@pytest.mark.parametrize("name", ["UPGrad", "LearningRateAnnealing", "DWA"])
def test_micro_batches_accumulate_under_the_weights_of_the_first(two_ranks, name):
    first, second = two_ranks.run(accumulate_on_ranks, name, 3)
    assert first == second
    grads, weights, refreshed, steps = first
    assert weights[0] == weights[1] == weights[2]
    assert (refreshed, steps) == ([True, False, False], 1)
    for ours, expected in zip(grads, weighted_by_one_process(weights), strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(expected))


def train_every_third_on_ranks(name: str) -> Any:
    return trained_every_third(name, ddp(net()), own_part)


def trained_every_third(name: str, model: Any, data: Any) -> Any:
    balancer = make(name, NAMES)
    balancer.every = 3
    return trained(name, model, data, range(5), balancer)


@pytest.mark.parametrize("name", ["UPGrad", "LearningRateAnnealing"])
def test_held_weights_train_as_those_weights_do_in_one_process(two_ranks, name):
    first, second = two_ranks.run(train_every_third_on_ranks, name)
    assert first == second
    weights = first[1]
    assert weights[0] == weights[1] == weights[2] != weights[3] == weights[4]
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step, each in enumerate(weights):
        optimizer.zero_grad()
        found = terms(model, batch(step, 2)).values()
        sum(weight * term for weight, term in zip(each, found, strict=True)).backward()
        optimizer.step()
    for ours, expected in zip(first[0], parameters_of(model), strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(expected))


def test_weights_of_values_that_are_held_are_those_of_one_process(two_ranks):
    alone = trained_every_third("DWA", net(), lambda step: batch(step, 2))
    first, second = two_ranks.run(train_every_third_on_ranks, "DWA")
    assert first == second
    for ours, expected in zip(first[1] + first[0], alone[1] + alone[0], strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(expected))
