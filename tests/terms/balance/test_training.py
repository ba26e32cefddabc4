"""What every balancer must survive in training: all that the package holds are found and tried."""

from __future__ import annotations

import copy
import io
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
from tests.terms.balance.every_balancer import CLASSES, NAMES, Problem, make, train
from torch import nn

from lossproof.errors import NonFiniteTermError
from lossproof.terms.balance.base import Balancer

every_balancer = pytest.mark.parametrize("name", sorted(CLASSES))


def optimizer_of(problem: Problem, balancer: Balancer) -> torch.optim.Optimizer:
    return torch.optim.Adam([*problem.model.parameters(), *balancer.parameters()], lr=1e-2)


def flat_state(state: Any) -> list[Any]:
    """All that a state holds, in an order that is always the same; NaN is equal to itself."""
    if isinstance(state, dict | OrderedDict):
        return [(str(key), flat_state(state[key])) for key in sorted(state, key=str)]
    if isinstance(state, list | tuple):
        return [flat_state(one) for one in state]
    if isinstance(state, torch.Tensor):
        return [str(state.dtype), state.double().nan_to_num(nan=-1e300).tolist()]
    return [state]


def set_up(name: str, **how: Any) -> tuple[Balancer, Problem, torch.optim.Optimizer]:
    balancer = make(name)
    problem = Problem(balancer, **how)
    return balancer, problem, optimizer_of(problem, balancer)


def saved_and_loaded(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_balancer
@pytest.mark.parametrize("every", [1, 3])
def test_a_resumed_run_is_the_same_to_the_last_bit(name, every):
    balancer, problem, optimizer = set_up(name)
    balancer.every = every
    train(balancer, problem, optimizer, range(4))
    states = saved_and_loaded(
        [problem.model.state_dict(), balancer.state_dict(), optimizer.state_dict()]
    )
    expected = train(balancer, problem, optimizer, range(4, 9))
    torch.manual_seed(77)  # whoever draws from the global stream is found out

    resumed, other, second = set_up(name, seed=5)
    resumed.every = every
    other.x, other.y = problem.x, problem.y
    for part, state in zip([other.model, resumed, second], states, strict=True):
        part.load_state_dict(state)
    assert torch.equal(train(resumed, other, second, range(4, 9)), expected)
    assert torch.equal(other.flat, problem.flat)
    assert flat_state(resumed.state_dict()) == flat_state(balancer.state_dict())


@every_balancer
@pytest.mark.parametrize("how", [copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))])
def test_a_copy_goes_on_as_the_original(name, how):
    if name == "ScheduledWeights" and how is not copy.deepcopy:
        pytest.skip("a schedule that is a lambda cannot be pickled")
    balancer, problem, optimizer = set_up(name)
    train(balancer, problem, optimizer, range(3))
    copied = how(balancer)
    terms = problem.terms(3)
    expected = balancer.backward(terms, problem.model, retain_graph=True).weights
    assert torch.equal(copied.backward(terms, problem.model).weights, expected)


@every_balancer
def test_without_names_the_first_step_and_the_checkpoint_give_them(name):
    balancer, problem, optimizer = set_up(name)
    try:
        unbound = CLASSES[name]()
    except TypeError as error:
        wanted = ("names", "schedules", "window", "points", "causal")
        assert any(word in str(error) for word in wanted)
        pytest.skip("it needs more than nothing")
    if name == "FixedWeights":
        balancer = CLASSES[name]()
    train(balancer, problem, optimizer, range(3))
    unbound.load_state_dict(saved_and_loaded(balancer.state_dict()))
    assert unbound.names == problem.balanced(*NAMES)
    terms = problem.terms(3)
    expected = balancer.backward(terms, problem.model, retain_graph=True).weights
    assert torch.equal(unbound.backward(terms, problem.model).weights, expected)


@every_balancer
def test_a_checkpoint_of_other_terms_is_refused(name):
    balancer, problem, optimizer = set_up(name)
    train(balancer, problem, optimizer, range(2))
    fewer = make(name, NAMES[:2])
    with pytest.raises(
        RuntimeError, match=r"of the terms \['data.*'bc.*\], this balancer of \['data"
    ):
        fewer.load_state_dict(balancer.state_dict())


@every_balancer
def test_a_term_that_is_always_absent_might_as_well_not_be_there(name):
    """The weights, the gradients and the training are those of a balancer of the others."""
    balancer, problem, optimizer = set_up(name)
    fewer = make(name, NAMES[:2])
    other = Problem(fewer)
    second = optimizer_of(other, fewer)
    for step in range(5):
        optimizer.zero_grad()
        second.zero_grad()
        found = balancer.backward(problem.terms(step, absent=["bc"]), problem.model)
        terms = {key: term for key, term in other.terms(step).items() if key != "bc"}
        expected = fewer.backward(terms, other.model)
        assert found.names == expected.names == problem.balanced("data", "pde")
        torch.testing.assert_close(found.weights, expected.weights, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(found.total, expected.total, rtol=1e-12, atol=0.0)
        optimizer.step()
        second.step()
        torch.testing.assert_close(problem.flat, other.flat, rtol=1e-5, atol=1e-6)
    assert problem.heads["bc"].weight.grad is None


@every_balancer
@pytest.mark.parametrize("first", [True, False])
def test_a_term_may_come_and_go(name, first):
    balancer, problem, optimizer = set_up(name)
    absences = [["pde"], ["pde"], [], ["data", "bc"], [], ["pde"], []]
    for step, absent in enumerate(absences if first else absences[2:]):
        before = balancer.weights.tolist()
        optimizer.zero_grad()
        found = balancer.backward(problem.terms(step, absent), problem.model)
        optimizer.step()
        for kept in problem.balanced(*absent):
            at = balancer.names.index(kept)
            assert balancer.weights[at] == before[at]
        assert found.weights.isfinite().all()
        assert found.weights.abs().sum() > 0
        assert problem.flat.isfinite().all()


BREAKS = {
    "value": lambda term: term * float("nan"),
    "gradient": lambda term: term + (0.0 * term).sqrt(),
}


@every_balancer
@pytest.mark.parametrize("kind", BREAKS)
def test_a_term_that_is_not_finite_may_be_dropped_and_poisons_nothing(name, kind):
    balancer, problem, optimizer = set_up(name)
    train(balancer, problem, optimizer, range(3))
    other = copy.deepcopy(balancer)
    if kind == "gradient" and not balancer.needs:
        pytest.skip("the gradients are not looked at")
    terms = problem.changed(problem.terms(3), "pde", BREAKS[kind])
    optimizer.zero_grad()
    found = balancer.backward(terms, problem.model, nonfinite="drop", retain_graph=True)
    gradients = [parameter.grad for parameter in problem.model.parameters()]
    dropped = problem.balanced("pde")
    assert found.dropped == dropped
    assert all(found.weight[one] == 0 for one in dropped)

    optimizer.zero_grad()
    absent = other.backward({**terms, "pde": None}, problem.model)
    assert flat_state(balancer.state_dict()) == flat_state(other.state_dict())
    others = [found.weight[one] for one in problem.balanced("data", "bc")]
    assert torch.equal(torch.stack(others), absent.weights)
    assert found.total == absent.total
    for parameter, gradient in zip(problem.model.parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@every_balancer
def test_a_term_that_is_not_finite_is_named_and_nothing_has_happened(name):
    balancer, problem, optimizer = set_up(name)
    train(balancer, problem, optimizer, range(3))
    optimizer.zero_grad()
    before = flat_state(balancer.state_dict())
    terms = problem.changed(problem.terms(3), "bc", lambda term: term * float("inf"))
    with pytest.raises(NonFiniteTermError, match=r"'bc.*' \(value inf\)") as caught:
        balancer.backward(terms, problem.model)
    assert caught.value.names == problem.balanced("bc")
    assert isinstance(caught.value, FloatingPointError)
    assert flat_state(balancer.state_dict()) == before
    assert all(parameter.grad is None for parameter in problem.model.parameters())
    assert all(parameter.grad is None for parameter in balancer.parameters())


@every_balancer
def test_held_steps_are_one_plain_backward_of_the_weighted_sum(name):
    balancer, problem, optimizer = set_up(name)
    train(balancer, problem, optimizer, range(3))
    weights = balancer.weights.clone()
    optimizer.zero_grad()
    step = balancer.backward(problem.terms(3), problem.model, refresh=False)
    assert not step.refreshed
    assert torch.equal(step.weights, weights)
    assert step.gradients is None
    if not balancer.linear or not problem.scalar:
        pytest.skip("it minimises something else than the weighted sum of what it is given")
    found = [parameter.grad for parameter in problem.model.parameters()]
    optimizer.zero_grad()
    terms = problem.terms(3)
    sum(w.float() * terms[key] for key, w in zip(NAMES, weights, strict=True)).backward()
    for gradient, parameter in zip(found, problem.model.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad)


@every_balancer
def test_before_the_first_refresh_the_weights_are_ones(name):
    balancer, problem, _ = set_up(name)
    with balancer.held():
        step = balancer.backward(problem.terms(0), problem.model)
    assert set(step.weights.tolist()) == {1.0}
    assert not step.refreshed


@every_balancer
def test_a_scaler_changes_nothing_but_the_scale(name):
    """A scale that is a power of two changes no digit of the figures."""
    plain, problem, optimizer = set_up(name)
    scaled, other, second = set_up(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**13)
    for step in range(3):
        optimizer.zero_grad()
        second.zero_grad()
        expected = plain.backward(problem.terms(step), problem.model)
        found = scaled.backward(other.terms(step), other.model, scaler=scaler)
        torch.testing.assert_close(found.weights, expected.weights, rtol=1e-9, atol=0.0)
        torch.testing.assert_close(found.total, expected.total, rtol=1e-9, atol=0.0)
        for ours, theirs in zip(other.model.parameters(), problem.model.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad * 2.0**13, rtol=1e-5, atol=1e-2)
        optimizer.step()
        scaler.step(second)
        scaler.update()
        torch.testing.assert_close(other.flat, problem.flat, rtol=1e-4, atol=1e-6)


@every_balancer
@pytest.mark.parametrize("loss_scale", [None, 2.0**4])
def test_a_factor_is_of_the_gradient_alone(name, loss_scale):
    scaler = None if loss_scale is None else torch.amp.GradScaler("cpu", init_scale=loss_scale)
    plain, problem, _ = set_up(name)
    shared, other, _ = set_up(name)
    for step, factor in enumerate((0.25, torch.tensor(0.5))):
        expected = plain.backward(problem.terms(step), problem.model)
        found = shared.backward(other.terms(step), other.model, scaler=scaler, factor=factor)
        torch.testing.assert_close(found.weights, expected.weights, rtol=1e-9, atol=0.0)
        torch.testing.assert_close(found.values, expected.values, rtol=0.0, atol=0.0)
        torch.testing.assert_close(found.total, expected.total, rtol=1e-9, atol=0.0)
        every = [*problem.model.parameters(), *plain.parameters()]
        ours = [*other.model.parameters(), *shared.parameters()]
        for one, theirs in zip(ours, every, strict=True):
            wanted = theirs.grad * float(factor) * (loss_scale or 1.0)
            torch.testing.assert_close(one.grad, wanted, rtol=1e-5, atol=1e-6)
            one.grad = theirs.grad = None


@every_balancer
def test_where_a_gradient_overflows_the_step_is_skipped_and_nothing_is_learned(name):
    balancer, problem, optimizer = set_up(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(2):
        optimizer.zero_grad()
        balancer.backward(problem.terms(step), problem.model, scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
    state, before = flat_state(balancer.state_dict()), problem.flat
    scaler.update(2.0**127)
    optimizer.zero_grad()
    terms = problem.terms(2)
    for key in NAMES:
        terms = problem.changed(terms, key, lambda term: 1e6 * term)
    balancer.backward(terms, problem.model, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(problem.flat, before)
    assert scaler.get_scale() == 2.0**126
    if balancer.needs:  # values do not overflow: what is learned from them is right
        assert flat_state(balancer.state_dict()) == state


@every_balancer
def test_the_state_keeps_its_precision_in_a_half_model(name):
    balancer, problem, optimizer = set_up(name)
    train(balancer, problem, optimizer, range(2))
    before = {key: buffer.dtype for key, buffer in balancer.named_buffers()}
    values = {key: buffer.clone() for key, buffer in balancer.named_buffers()}
    nn.ModuleList([problem.model, balancer]).half().to("cpu")
    own = dict(balancer.named_buffers(recurse=False))
    assert {key: buffer.dtype for key, buffer in own.items()} == {key: before[key] for key in own}
    assert all(torch.equal(values[key].nan_to_num(), own[key].nan_to_num()) for key in own)


@every_balancer
def test_half_precision_under_autocast(name):
    """Terms of a bfloat16 and of a float16 forward pass give finite weights."""
    for dtype in (torch.bfloat16, torch.float16):
        balancer, problem, optimizer = set_up(name)
        problem.y *= 0.3
        scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=256.0)
        for step in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype):
                terms = problem.terms(step)
            found = balancer.backward(terms, problem.model, scaler=scaler)
            scaler.step(optimizer)
            scaler.update()
            assert found.weights.isfinite().all()
        assert problem.flat.isfinite().all()


@every_balancer
@pytest.mark.parametrize(
    "options",
    [
        {"clip_terms": 0.5, "clip": 0.01},
        {"on": "shared", "clip": 0.01},
        {"exclusive": "plain", "clip_terms": 0.5},
        {"params": None},
        {"params": None, "exclusive": "plain", "on": "shared", "clip": 0.01},
    ],
    ids=str,
)
def test_every_option_goes_with_every_method(name, options):
    if name == "DBMTL" and "params" in options:
        pytest.skip("it must know the parameters")
    for refresh in (None, False):
        balancer, problem, _ = set_up(name)
        chosen = {"params": problem.model, "refresh": refresh, **options}
        step = balancer.backward(problem.terms(0), **chosen)
        gradients = [p.grad for p in [*problem.model.parameters(), *balancer.parameters()]]
        assert all(
            grad.isfinite().all() for grad in gradients[: len([*problem.model.parameters()])]
        )
        if "clip" in options:
            flat = torch.cat([grad.flatten() for grad in gradients if grad is not None])
            norm = flat.double().norm().item()
            assert norm <= 0.01 * (1 + 1e-5)
            assert norm == pytest.approx(min(0.01, step.norm.item()), rel=1e-4)
        assert all(isinstance(figure, float) for figure in step.as_dict().values())
