"""Terms that are given once for each independent batch: how, and what is wrong with others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.terms.balance.jacobians import figures_of

from lossproof.terms.balance.modo import MoDo
from lossproof.terms.balance.samples import SampledBalancer, cross_products, scale_of
from lossproof.terms.balance.sdmgrad import SDMGrad

BOTH = pytest.mark.parametrize("method", [MoDo, SDMGrad])


def terms_of(x: torch.Tensor, samples: int) -> dict[str, list[torch.Tensor]]:
    return {
        "data": [(x[0] - s).square() for s in range(samples)],
        "pde": [(s + 1) * x.prod() for s in range(samples)],
    }


@BOTH
@pytest.mark.parametrize("samples", [2, 3])
def test_names_and_weights_of_the_samples(method, samples: int) -> None:
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    step = method(samples=samples).backward(terms_of(x, samples), [x])
    assert step.names == tuple(f"{n}[{s}]" for n in ("data", "pde") for s in range(samples))
    shares = step.weights.reshape(2, samples)
    assert shares.sum() == pytest.approx(1)
    if samples == 2:
        assert (shares[:, 0] == shares[:, 1]).all()
    else:
        assert (shares[:, :2] == 0).all() and (shares[:, 2] > 0).any()


@BOTH
def test_the_third_sample_is_the_step_and_not_the_weights(method) -> None:
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    for third in (1.0, -7.0):
        balancer = method(["data", "pde"], samples=3)
        terms = terms_of(x, 3)
        terms["pde"][2] = third * x[1]
        x.grad = None
        step = balancer.backward(terms, [x])
        share = step.weights[[2, 5]].float()
        torch.testing.assert_close(
            x.grad,
            share[0] * torch.tensor([-3.0, 0]) + share[1] * torch.tensor([0.0, third]),
        )
        if third == 1.0:
            first = share
    assert torch.equal(first, share)


@BOTH
def test_a_tensor_of_samples_is_a_sequence_of_them(method) -> None:
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    terms = terms_of(x, 2)
    one = method(samples=2).backward(terms, [x]).weights
    stacked = {name: torch.stack(given) for name, given in terms_of(x, 2).items()}
    assert torch.equal(method(samples=2).backward(stacked, [x]).weights, one)


@BOTH
def test_an_absent_term_keeps_its_share(method) -> None:
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    balancer = method(["data", "pde", "bc"], samples=2)
    balancer.backward({**terms_of(x, 2), "bc": [x.sum(), x.sum()]}, [x])
    before = balancer.shares.clone()
    step = balancer.backward({**terms_of(x, 2), "bc": None}, [x])
    assert torch.equal(balancer.shares[4:], before[4:])
    assert step.weights[:4].sum() == pytest.approx(1)
    assert (step.weights[4:] == 0).all()


@BOTH
def test_a_term_one_sample_of_which_is_dropped_is_left_out(method) -> None:
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    balancer = method(["data", "pde", "bc"], samples=2)
    terms = {**terms_of(x, 2), "bc": [x.sum(), x.sum() * float("nan")]}
    step = balancer.backward(terms, [x], nonfinite="drop")
    assert step.dropped == ("bc[1]",)
    assert step.weights[4:].tolist() == [0, 0] and step.weights[:4].sum() == pytest.approx(1)
    assert x.grad is not None and x.grad.isfinite().all()


def test_products_across_the_batches() -> None:
    matrix = np.random.default_rng(0).standard_normal((6, 4))
    gramian = matrix @ matrix.T
    found = cross_products(gramian, range(6), 3)
    np.testing.assert_allclose(found, matrix[[0, 3]] @ matrix[[1, 4]].T)
    squares = np.array([matrix[0] @ matrix[1], matrix[3] @ matrix[4]])
    assert scale_of(gramian, range(6), 3) == np.sqrt(np.maximum(squares, 0)).mean()
    opposed = np.array([[1.0, 0], [-2, 0], [0, 3], [0, -4]])
    assert scale_of(opposed @ opposed.T, range(4), 2) == 2.5


@BOTH
@pytest.mark.parametrize(
    ("given", "error", "got"),
    [
        (torch.tensor(1.0), TypeError, r"a tensor of shape \[\]"),
        (1.0, TypeError, "float"),
        ("ab", TypeError, "str"),
        ([torch.tensor(1.0)] * 3, ValueError, "3"),
        ([torch.tensor(1.0), None], ValueError, "1"),
    ],
)
def test_wrong_samples(method, given: object, error: type[Exception], got: str) -> None:
    x = torch.ones(2, requires_grad=True)
    wanted = f"term 'b' must be a sequence of 2 scalar tensors, one for each .*, got {got}$"
    with pytest.raises(error, match=wanted):
        method(samples=2).backward({"a": [x[0], x[1]], "b": given}, [x])


@BOTH
@pytest.mark.parametrize(("samples", "error"), [(1, ValueError), (4, ValueError), (2.0, TypeError)])
def test_wrong_number_of_samples(method, samples: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="`samples` must be"):
        method(samples=samples)


@BOTH
def test_a_gramian_that_is_not_finite_leaves_the_shares(method) -> None:
    balancer: SampledBalancer = method(["a", "b"], samples=2)
    figures = figures_of(np.array([[1.0, 2], [np.nan, 1], [1, 1], [0, 1]]))
    figures.names = balancer.names
    assert balancer.weights_of(figures).tolist() == [0.25] * 4
