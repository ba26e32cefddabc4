"""What every method that looks at the values of the terms alone must do."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.dwa import DWA
from lossproof.terms.balance.famo import FAMO
from lossproof.terms.balance.fixed import FixedWeights
from lossproof.terms.balance.geometric_mean import GeometricMean
from lossproof.terms.balance.imtl import IMTLL
from lossproof.terms.balance.relobralo import ReLoBRaLo
from lossproof.terms.balance.rlw import RLW
from lossproof.terms.balance.schedules import LinearRamp, ScheduledWeights
from lossproof.terms.balance.soft_adapt import SoftAdapt
from lossproof.terms.balance.stch import STCH
from lossproof.terms.balance.uncertainty import UncertaintyWeights
from lossproof.terms.gradients import TermGradients

Make = Callable[[Sequence[str]], Balancer]
METHODS: dict[str, Make] = {
    "fixed": lambda names: FixedWeights({name: 1.0 + k for k, name in enumerate(names)}),
    "scheduled": lambda names: ScheduledWeights({name: LinearRamp(0, 1, 7) for name in names}),
    "uncertainty": lambda names: UncertaintyWeights(names, initial=0.3),
    "uncertainty, log1p": lambda names: UncertaintyWeights(
        names, form="classification", penalty="log1p"
    ),
    "dwa": lambda names: DWA(names, window=2),
    "soft_adapt": SoftAdapt,
    "soft_adapt, normalized": lambda names: SoftAdapt(names, variant="normalized", order=2),
    "soft_adapt, weighted": lambda names: SoftAdapt(names, variant="normalized_loss_weighted"),
    "relobralo": lambda names: ReLoBRaLo(names, alpha=0.9, rho=0.5, temperature=0.1),
    "rlw": RLW,
    "geometric_mean": GeometricMean,
    "famo": FAMO,
    "stch": STCH,
    "stch, warm-up": lambda names: STCH(names, warmup=3, nadir_window=2, mu=0.1),
    "imtl_l": IMTLL,
}
SCALE_FREE = ("dwa", "soft_adapt, normalized", "relobralo", "geometric_mean", "famo")
POSITIVE_ONLY = (
    "uncertainty",
    "uncertainty, log1p",
    "dwa",
    "soft_adapt, weighted",
    "relobralo",
    "geometric_mean",
    "famo",
    "stch, warm-up",
    "imtl_l",
)
every_method = pytest.mark.parametrize("method", METHODS)
NAMES = ("a", "b", "c")
RUN = [[4.0, 2.0, 0.5], [3.0, 2.5, 0.5], [2.0, 2.0, 0.4], [2.0, 1.0, 0.4], [1.0, 0.9, 0.3]]


def step(balancer: Balancer, names: Sequence[str], values: Sequence[float]) -> torch.Tensor:
    """One step on terms of these values, each with a gradient of its own."""
    x = torch.ones(len(names), dtype=torch.float64, requires_grad=True)
    terms = {name: x[k] * value for k, (name, value) in enumerate(zip(names, values, strict=True))}
    return balancer.backward(terms, [x]).weights


def run(balancer: Balancer, names: Sequence[str], values: Sequence[Sequence[float]]) -> list:
    return [step(balancer, names, row) for row in values]


@every_method
def test_the_sum_is_minimised_by_backward_and_by_calling_the_balancer(method: str) -> None:
    """`balancer(terms).backward()` fills the gradients that `balancer.backward(terms)` does."""
    grads = []
    for called in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 3).double()
        balancer = METHODS[method](NAMES)
        for t in range(4):
            out = model(torch.arange(3.0, dtype=torch.float64) + t).square()
            terms = {name: out[k] for k, name in enumerate(NAMES)}
            if called:
                loss = balancer(terms)
                assert loss.shape == ()
                loss.backward()
                total = loss.detach()
            else:
                total = balancer.backward(terms, model).total
        own = [p.grad for p in balancer.parameters()]
        grads.append([total, model.weight.grad, model.bias.grad, *own])
    assert all(one is not None and torch.equal(one, two) for one, two in zip(*grads, strict=True))


@every_method
def test_the_gradient_is_that_of_the_weights_shown(method: str) -> None:
    balancer = METHODS[method](NAMES)
    for values in RUN:
        x = torch.ones(3, dtype=torch.float64, requires_grad=True)
        terms = {name: x[k] * values[k] for k, name in enumerate(NAMES)}
        weights = balancer.backward(terms, [x]).weights
        torch.testing.assert_close(x.grad, weights * torch.tensor(values, dtype=torch.float64))


@every_method
def test_resuming_is_bit_equal(method: str) -> None:
    straight = METHODS[method](NAMES)
    expected = run(straight, NAMES, RUN + RUN)
    for cut in (1, 2, 3, 6):
        first = METHODS[method](NAMES)
        run(first, NAMES, (RUN + RUN)[:cut])
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        resumed = METHODS[method](NAMES)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        rest = run(resumed, NAMES, (RUN + RUN)[cut:])
        for one, two in zip(rest, expected[cut:], strict=True):
            assert torch.equal(one, two), (method, cut)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "rlw"])
def test_permuting_the_terms_permutes_the_weights(method: str) -> None:
    order = (2, 0, 1)
    plain = run(METHODS[method](NAMES), NAMES, RUN)
    names = [NAMES[k] for k in order]
    if method == "fixed":
        moved: Balancer = FixedWeights({NAMES[k]: 1.0 + k for k in order})
    else:
        moved = METHODS[method](names)
    other = run(moved, names, [[row[k] for k in order] for row in RUN])
    for one, two in zip(plain, other, strict=True):
        torch.testing.assert_close(one[list(order)], two)


@every_method
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("count", [1, 3, 32])
def test_zero_tiny_and_huge_values_give_finite_weights(
    method: str, value: float, count: int
) -> None:
    names = [f"term {k}" for k in range(count)]
    balancer = METHODS[method](names)
    for row in ([value] * count, [value] + [1.0] * (count - 1), [1.0] * count, [value] * count):
        x = torch.ones(count, dtype=torch.float64, requires_grad=True)
        terms = {name: x[k] * row[k] for k, name in enumerate(names)}
        done = balancer.backward(terms, [x])
        assert done.weights.isfinite().all()
        assert done.total.isfinite()
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("method", POSITIVE_ONLY)
def test_a_negative_value_is_refused_by_name(method: str) -> None:
    with pytest.raises(ValueError, match=r"needs values of at least 0, but that of term 'b' is -2"):
        run(METHODS[method](NAMES), NAMES, [[1.0, -2.0, 1.0]])


@pytest.mark.parametrize("method", [name for name in METHODS if name not in POSITIVE_ONLY])
def test_the_others_take_negative_values(method: str) -> None:
    for weights in run(METHODS[method](NAMES), NAMES, [[1.0, -2.0, 0.5], [-1.0, -2.0, 3.0]] * 3):
        assert weights.isfinite().all()


@pytest.mark.parametrize("method", SCALE_FREE)
@given(exponents=st.lists(st.floats(-20, 20), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_units_do_not_matter(method: str, exponents: list[float]) -> None:
    """Each term in a unit of its own: the weights times values keep their shares."""
    if method == "soft_adapt, normalized":
        exponents = exponents[:1] * 3  # slopes are compared: one unit for all
    units = [10.0**e for e in exponents]
    scaled = [[v * u for v, u in zip(row, units, strict=True)] for row in RUN]
    plain = run(METHODS[method](NAMES), NAMES, RUN)
    other = run(METHODS[method](NAMES), NAMES, scaled)
    if method in ("famo", "geometric_mean"):  # their weights are in units: compare what they share
        plain, other = shares(plain, RUN), shares(other, scaled)
    for one, two in zip(plain, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


def shares(weights: list, values: list[list[float]]) -> list:
    products = [w * w.new_tensor(row) for w, row in zip(weights, values, strict=True)]
    return [product / product.sum() for product in products]


@every_method
def test_a_term_may_be_absent(method: str) -> None:
    """In its step the others are weighted as if there were no more, and its state rests."""
    balancer = METHODS[method](NAMES)
    run(balancer, NAMES, RUN[:2])
    before = balancer.weights.clone()
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    balancer.backward({"a": x[0] * 2.0, "b": None, "c": x[2] * 0.4}, [x])
    assert balancer.weights[1] == before[1]
    assert x.grad is not None
    assert x.grad[1] == 0
    for weights in run(balancer, NAMES, RUN[3:]):
        assert weights.isfinite().all()


@every_method
def test_nothing_is_left_on_the_graph(method: str) -> None:
    balancer = METHODS[method](NAMES)
    for values in RUN:
        assert not step(balancer, NAMES, values).requires_grad
    assert not any(buffer.requires_grad for buffer in balancer.buffers())


@every_method
def test_float32_and_bfloat16_terms(method: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        balancer = METHODS[method](NAMES)
        for values in RUN:
            x = torch.ones(3, dtype=dtype, requires_grad=True)
            done = balancer.backward({n: x[k] * values[k] for k, n in enumerate(NAMES)}, [x])
            assert x.grad is not None
            assert x.grad.dtype == dtype
            assert done.weights.dtype == torch.float64
            expected = done.weights * torch.tensor(values, dtype=torch.float64)
            torch.testing.assert_close(x.grad.double(), expected, rtol=2e-2, atol=1e-3)


def test_every_nth_step() -> None:
    """Between refreshes the weights are held."""
    balancer = RLW(NAMES, every=3)
    weights = run(balancer, NAMES, RUN + RUN)
    for t, (one, two) in enumerate(itertools.pairwise(weights), start=1):
        assert torch.equal(one, two) == (t % 3 != 0)


def test_names_are_bound_at_the_first_step_or_by_a_checkpoint() -> None:
    trained = DWA(window=1)
    run(trained, NAMES, RUN[:3])
    assert trained.names == NAMES
    loaded = DWA(window=1)
    loaded.load_state_dict(trained.state_dict())
    assert loaded.names == NAMES
    assert torch.equal(step(loaded, NAMES, RUN[3]), step(trained, NAMES, RUN[3]))


def test_figures_from_a_matrix_are_enough() -> None:
    figures = TermGradients.from_matrix(torch.eye(2), ["a", "b"], torch.tensor([8.0, 2.0]))
    balancer = GeometricMean(["a", "b"])
    assert balancer.weights_of(figures).tolist() == pytest.approx([0.25, 1.0])
    assert math.isclose(figures.values[0], 8.0)
