"""An optimizer that is given a closure computes the gradients within its step."""

import pytest
import torch

import lossproof


def quadratic(model):
    return lambda: (model.weight - 3.0).square().sum()


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("kind", ["SGD", "LBFGS"])
def test_the_gradient_of_a_step_is_that_of_its_closure(kind, by_name):
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1)
    norms = []
    with lossproof.watch(model) as guard:
        compute = guard.wrap(quadratic(model))

        def closure():
            optimizer.zero_grad()
            loss = compute()
            loss.backward()
            return loss

        for _ in range(3):
            norms.append(float((2 * (model.weight.detach() - 3.0)).norm()))
            optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        assert [step.norm for step in guard.history] == pytest.approx(norms)
        assert len(guard.history[0].values) == 1
    assert guard.retired is None


def searched(watched):
    model = torch.nn.Linear(2, 1)
    torch.nn.init.ones_(model.weight)
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (model.weight - 3.0).pow(4).sum()
        loss.backward()
        return loss

    guard = lossproof.watch(model)
    if watched:
        guard.start()
    loss = optimizer.step(closure)
    guard.stop()
    return loss.item(), model.weight.tolist()


def test_a_closure_does_what_it_does_without_a_guard():
    assert searched(watched=True) == searched(watched=False)


def test_a_gradient_that_is_not_finite_stops_the_step_that_computed_it():
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = (model.weight - model.weight.detach()).abs().sqrt().sum()
        loss.backward()
        return loss

    with lossproof.watch(model, on_alarm="raise"):
        with pytest.raises(lossproof.errors.TrainingAlarmError):
            optimizer.step(closure)
    assert torch.equal(model.weight, before)
