import math

import numpy as np
import pytest
import torch

from lossproof.terms import term_gradients
from lossproof.terms.statistics import SINGLE, StatisticsTable

CPU = torch.device("cpu")
GIVEN = np.array([[3.0, -4.0], [0.0, 12.0]])


def table(*parts, sizes=None):
    found = StatisticsTable(SINGLE, sizes or [part.numel() for part in parts], 1, CPU)
    found.add(0, range(len(parts)), parts)
    return found


def sparse(at, values, shape):
    return torch.sparse_coo_tensor(at, values, shape, check_invariants=True)


def over_all(found):
    return {name: float(found.over_all(name)) for name in SINGLE}


def test_over_all_and_by_parameter():
    found = table(torch.tensor(GIVEN), torch.tensor([-2.0], dtype=torch.float64))
    entries = np.array([*GIVEN.flatten(), -2.0])
    assert over_all(found) == pytest.approx(
        {
            "norm": np.linalg.norm(entries),
            "mean": entries.mean(),
            "mean_abs": np.abs(entries).mean(),
            "max_abs": 12.0,
        }
    )
    assert found.by_parameter("norm").tolist() == [[13.0], [2.0]]
    assert found.by_parameter("mean").tolist() == [[2.75], [-2.0]]
    assert found.by_parameter("mean_abs").tolist() == [[4.75], [2.0]]
    assert found.by_parameter("max_abs").tolist() == [[12.0], [2.0]]


@pytest.mark.parametrize("size", [1e-35, 1e-25, 1e-19, 1e-13, 1.0, 1e15, 1e19, 1e25, 1e36])
def test_norms_far_from_one_in_single_precision(size):
    given = torch.tensor([3.0, 4.0]) * size
    found = table(given, torch.ones(1))
    wanted = math.hypot(*given.tolist())
    assert float(found.by_parameter("norm")[0, 0]) == pytest.approx(wanted, rel=1e-6)
    ordinary = float(found.by_parameter("norm")[1, 0])
    assert ordinary == 1.0
    assert float(found.by_parameter("mean_abs")[0, 0]) == pytest.approx(3.5 * size, rel=1e-6)


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 2.0**-83), (torch.float16, 2e-7)])
def test_norms_of_half_precision(dtype, size):
    given = torch.tensor([3.0, 4.0]).mul(size).to(dtype)
    found = float(table(given).over_all("norm"))
    assert found == pytest.approx(math.hypot(*given.tolist()), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e12, 1e18])
def test_norms_of_factored_gradients(scale, monkeypatch):
    from lossproof.terms import plan

    monkeypatch.setattr(plan, "START", -(10**12))
    layer, x = torch.nn.Linear(40, 30), torch.randn(5, 40)
    out = layer(x)
    terms = {"a": out.sum() * scale, "b": out.square().sum()}
    found = term_gradients(terms, layer, want=("norm",)).by_parameter("norm")
    rows = torch.autograd.grad(terms["a"], layer.weight)[0].double()
    assert float(found[0, 0]) == pytest.approx(float(rows.norm()), rel=1e-5)


def test_what_is_not_finite_is_told():
    found = over_all(table(torch.tensor([1.0, float("nan")])))
    assert all(math.isnan(value) for value in found.values())
    assert over_all(table(torch.tensor([1.0, float("inf")])))["norm"] == math.inf


def test_nothing_has_statistics_of_zero():
    """A layer without inputs, and an embedding in which nothing was looked up."""
    empty = sparse(torch.zeros(1, 0), torch.zeros(0, 2), (4, 2))
    found = table(torch.zeros(3, 0), empty)
    assert over_all(found) == dict.fromkeys(SINGLE, 0.0)
    assert found.by_parameter("mean").tolist() == [[0.0], [0.0]]


def test_sparse_entries_that_stand_there_twice_are_one():
    at, values = torch.tensor([[1, 1, 2]]), torch.tensor([2.0, -3.0, 5.0])
    found = over_all(table(sparse(at, values, (4,))))
    assert found == pytest.approx(
        {"norm": math.sqrt(26.0), "mean": 1.0, "mean_abs": 1.5, "max_abs": 5.0}
    )


def test_complex_numbers_count_as_two():
    found = over_all(table(torch.tensor([3.0 - 4.0j]), sizes=[2]))
    assert found == pytest.approx({"norm": 5.0, "mean": -0.5, "mean_abs": 3.5, "max_abs": 4.0})


def test_a_loss_scale_is_taken_out_afterwards():
    found = table(torch.tensor(GIVEN) * 8)
    found.rescale(torch.tensor(8.0, dtype=torch.float64))
    assert over_all(found) == pytest.approx(over_all(table(torch.tensor(GIVEN))))
