from __future__ import annotations

import pytest
import torch

from lossproof.terms.balance.fixed import FixedWeights


def step(balancer, values):
    x = torch.ones(len(values), requires_grad=True)
    terms = {name: x[k] * value for k, (name, value) in enumerate(values.items())}
    return balancer.backward(terms, [x]), x.grad


def test_the_gradient_is_that_of_the_sum_written_by_hand() -> None:
    torch.manual_seed(0)
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    other.load_state_dict(model.state_dict())
    inputs = torch.randn(5, 3)

    def terms(net):
        out = net(inputs)
        return {"data": out[:, 0].square().mean(), "pde": out[:, 1].abs().mean()}

    done = FixedWeights({"data": 2.0, "pde": 0.25}).backward(terms(model), model)
    by_hand = 2.0 * terms(other)["data"] + 0.25 * terms(other)["pde"]
    by_hand.backward()
    torch.testing.assert_close(done.total.float(), by_hand.detach())
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_a_weight_of_zero_switches_off_and_a_negative_one_turns_round() -> None:
    done, grad = step(FixedWeights({"a": 0.0, "b": -1.0}), {"a": 3.0, "b": 2.0})
    assert grad.tolist() == [0.0, -2.0]
    assert done.total == -2.0


def test_without_weights_every_one_is_1() -> None:
    done, _ = step(FixedWeights(), {"a": 3.0, "b": 2.0})
    assert done.weights.tolist() == [1.0, 1.0]
    assert done.total == 5.0


def test_the_weights_go_by_name_and_not_by_place() -> None:
    balancer = FixedWeights({"a": 2.0, "b": 3.0})
    assert balancer.names == ("a", "b")
    with pytest.raises(ValueError, match="terms of this balancer are"):
        step(balancer, {"a": 1.0, "c": 1.0})


def test_the_weights_in_the_code_count_after_a_checkpoint_is_loaded() -> None:
    old = FixedWeights({"a": 2.0, "b": 3.0})
    step(old, {"a": 1.0, "b": 1.0})
    new = FixedWeights({"a": 5.0, "b": 7.0})
    new.load_state_dict(old.state_dict())
    assert step(new, {"a": 1.0, "b": 1.0})[0].weights.tolist() == [5.0, 7.0]


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0, 2.0], TypeError, "`weights` must be a mapping"),
        ({}, ValueError, "`weights` must hold a number for each term, got an empty mapping"),
        ({1: 1.0}, TypeError, "names in `weights` must be strings, got 1"),
        ({"a": "x"}, TypeError, r"`weights\['a'\]` must be a finite number, got 'x'"),
        ({"a": float("nan")}, ValueError, r"`weights\['a'\]` must be a finite number, got nan"),
        ({"a": True}, TypeError, r"`weights\['a'\]` must be a finite number, got True"),
    ],
)
def test_wrong_weights(weights, error, message) -> None:
    with pytest.raises(error, match=message):
        FixedWeights(weights)
