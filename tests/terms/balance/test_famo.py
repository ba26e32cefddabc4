from __future__ import annotations

import numpy as np
import pytest
import torch

from lossproof.terms.balance.famo import FAMO

VALUES = np.random.default_rng(0).uniform(0.2, 3.0, (8, 2, 3))  # steps, before and after, terms


def terms(x, row):
    return {f"t{k}": x[k] * value for k, value in enumerate(row)}


def backward(balancer, row):
    x = torch.ones(len(row), dtype=torch.float64, requires_grad=True)
    return balancer.backward(terms(x, row), [x]).weights


def update(balancer, row):
    balancer.update(terms(torch.ones(len(row), dtype=torch.float64), row))


def by_the_paper(pairs, lr, decay, bounds=0.0):
    """Algorithm 1 with torch's own Adam on the logits, as the authors' code has it."""
    logits = torch.zeros(pairs.shape[2], dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=lr, weight_decay=decay)
    weights = []
    for before, after in torch.tensor(pairs - bounds):
        shares = torch.softmax(logits, 0)
        weights.append(((shares / before) / (shares / before).sum()).detach())
        delta = before.log() - after.log()
        (logits.grad,) = torch.autograd.grad(shares, logits, delta)
        adam.step()
    return torch.stack(weights), logits.detach()


@pytest.mark.parametrize("decay", [0.0, 1e-3, 0.5])
def test_the_algorithm_of_the_paper_with_adam(decay) -> None:
    balancer, found = FAMO(lr=0.1, weight_decay=decay), []
    for before, after in VALUES:
        found.append(backward(balancer, before))
        update(balancer, after)
    expected, logits = by_the_paper(VALUES, 0.1, decay)
    torch.testing.assert_close(torch.stack(found), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(balancer.logits, logits, rtol=1e-9, atol=1e-12)


def test_without_update_the_next_values_stand_in() -> None:
    steps = VALUES[:, 0]
    balancer = FAMO(lr=0.1)
    found = [backward(balancer, row) for row in steps]
    pairs = np.stack([steps, np.roll(steps, -1, axis=0)], axis=1)
    torch.testing.assert_close(torch.stack(found), by_the_paper(pairs, 0.1, 1e-3)[0], rtol=1e-9,
                               atol=0)  # fmt: skip


def test_a_second_update_after_one_step_changes_nothing() -> None:
    balancer = FAMO()
    backward(balancer, VALUES[0, 0])
    update(balancer, VALUES[0, 1])
    logits = balancer.logits.clone()
    update(balancer, VALUES[1, 1])
    assert torch.equal(balancer.logits, logits)


def test_the_term_that_falls_most_loses_weight() -> None:
    balancer = FAMO(["t0", "t1"], lr=0.1)
    backward(balancer, [1.0, 1.0])
    update(balancer, [0.5, 0.9])
    assert balancer.logits[0] < 0 < balancer.logits[1]


def test_torchjd_has_the_same_weights() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    peer, ours = scalarization.FAMO(3, lr=0.05), FAMO(lr=0.05)
    for before, after in VALUES:
        leaf = torch.tensor(before, requires_grad=True)
        peer(leaf).backward()
        peer.update(torch.tensor(after))
        torch.testing.assert_close(backward(ours, before), leaf.grad, rtol=1e-5, atol=1e-7)
        update(ours, after)


def test_lower_bounds() -> None:
    bounds = {"t0": 0.1, "t1": -2.0, "t2": 0.0}
    balancer, found = FAMO(lr=0.1, min_losses=bounds), []
    for before, after in VALUES:
        found.append(backward(balancer, before))
        update(balancer, after)
    expected, _ = by_the_paper(VALUES, 0.1, 1e-3, np.array([0.1, -2.0, 0.0]))
    torch.testing.assert_close(torch.stack(found), expected, rtol=1e-9, atol=0)
    with pytest.raises(
        ValueError, match="FAMO needs values of at least `min_losses`, but that of term 't0' is"
    ):
        backward(balancer, [0.05, 1.0, 1.0])


def test_a_term_on_its_bound_gets_no_weight() -> None:
    weights = backward(FAMO(), [0.0, 1.0, 3.0])
    torch.testing.assert_close(weights, torch.tensor([0.0, 0.75, 0.25], dtype=torch.float64))


def test_the_weights_sum_to_1_over_forty_orders_of_magnitude() -> None:
    weights = backward(FAMO(), [1e-20, 1.0, 1e20])
    assert weights.sum().item() == pytest.approx(1.0)
    assert weights[0].item() == pytest.approx(1.0)


def test_resuming_between_backward_and_update_is_bit_equal() -> None:
    straight, first = FAMO(), FAMO()
    for balancer in (straight, first):
        backward(balancer, VALUES[0, 0])
    resumed = FAMO()
    resumed.load_state_dict(first.state_dict())
    for balancer in (straight, resumed):
        update(balancer, VALUES[0, 1])
    assert torch.equal(backward(straight, VALUES[1, 0]), backward(resumed, VALUES[1, 0]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "`lr` must be a number of at least 0"),
        ({"weight_decay": "x"}, TypeError, "`weight_decay` must be a number of at least 0"),
        ({"min_losses": 3.0}, TypeError, "`min_losses` must be a mapping"),
        ({"min_losses": {"t0": None}}, TypeError, r"`min_losses\['t0'\]` must be a finite number"),
    ],
)
def test_wrong_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        FAMO(**options)


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match="`update` must be called after `backward`"):
        update(FAMO(), [1.0, 1.0])
    with pytest.raises(ValueError, match=r"`min_losses` must hold a number for each of the terms"):
        backward(FAMO(min_losses={"t0": 0.0}), [1.0, 1.0])
