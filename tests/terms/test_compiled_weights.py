"""Weights within a compiled graph are those of the balancer, or said not to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.terms.balance.imtl import IMTLG
from lossproof.terms.balance.upgrad import UPGrad
from lossproof.terms.compiled_weights import MOST_TERMS, solver_in_graph
from lossproof.terms.gradients import TermGradients


def solved(matrix, preference=None):
    names = [str(k) for k in range(len(matrix))]
    balancer = UPGrad(preference=preference)
    solve = solver_in_graph(balancer, names)
    assert solve is not None
    weights, right = solve(matrix @ matrix.T)
    return weights, bool(right), balancer.weights_of(TermGradients.from_matrix(matrix))


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(2, MOST_TERMS),
    spread=st.floats(0, 10),
    scale=st.floats(-20, 20),
)
@settings(max_examples=150, deadline=None)
def test_upgrad(seed, count, spread, scale) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, count + 3)) * 10 ** (
        scale + rng.uniform(-spread, spread, (count, 1))
    )
    weights, right, expected = solved(torch.tensor(rows))
    if right:
        torch.testing.assert_close(weights, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("count", range(2, MOST_TERMS + 1))
def test_nearly_always_it_is_right(count) -> None:
    rng = np.random.default_rng(count)
    found = [solved(torch.tensor(rng.normal(size=(count, 50))))[1] for _ in range(40)]
    assert sum(found) >= 38


def test_preferences_and_terms_without_a_gradient() -> None:
    rows = torch.tensor([[1.0, -1.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    weights, right, expected = solved(rows, {"0": 1.0, "1": 2.0, "2": 3.0})
    assert right
    torch.testing.assert_close(weights, expected)


def test_where_gradients_are_dependent_or_not_finite_it_says_so() -> None:
    row = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    other = torch.tensor([-1.0, 0.5, 0.3], dtype=torch.float64)
    assert not solved(torch.stack([row, other, other]))[1]  # both are raised by the first
    gramian = torch.eye(2, dtype=torch.float64)
    gramian[0, 0] = float("nan")
    solve = solver_in_graph(UPGrad(), ["a", "b"])
    assert solve is not None
    assert not solve(gramian)[1]


def test_for_whom_there_is_one() -> None:
    class Own(UPGrad):
        pass

    assert solver_in_graph(Own(), ["a", "b"]) is None  # it may weigh otherwise
    assert solver_in_graph(IMTLG(), ["a", "b"]) is None
    assert solver_in_graph(UPGrad(), ["a"]) is None
    assert solver_in_graph(UPGrad(), [str(k) for k in range(MOST_TERMS + 1)]) is None
