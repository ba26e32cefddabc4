import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lossproof import reduce
from lossproof.write.reduction import legacy_reduction

VALUES = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(-100, 100)
)


@given(VALUES, st.integers(0, 1000))
def test_mean_is_numpys_weighted_average(values: np.ndarray, seed: int) -> None:
    weight = np.random.default_rng(seed).uniform(0.1, 2, values.shape)
    found = reduce(torch.from_numpy(values), torch.from_numpy(weight))
    assert found.item() == pytest.approx(np.average(values, weights=weight), abs=1e-9)


@given(VALUES, st.integers(0, 1000))
def test_masked_items_are_as_if_they_were_not_there(values: np.ndarray, seed: int) -> None:
    mask = np.random.default_rng(seed).uniform(size=values.shape) < 0.5
    mask.flat[0] = True
    kept = values[mask]
    spoiled = np.where(mask, values, np.nan)
    found = reduce(torch.from_numpy(spoiled), mask=torch.from_numpy(mask))
    assert found.item() == pytest.approx(kept.mean(), abs=1e-9)
    total = reduce(torch.from_numpy(spoiled), reduction="sum", mask=torch.from_numpy(mask))
    assert total.item() == pytest.approx(kept.sum(), abs=1e-9)


@given(VALUES, st.integers(0, 4))
def test_parts_with_the_normalizer_of_the_whole_add_up(values: np.ndarray, cut: int) -> None:
    whole = torch.from_numpy(values)
    parts = [reduce(part, normalizer=whole.numel()) for part in (whole[:cut], whole[cut:])]
    assert (parts[0] + parts[1]).item() == pytest.approx(values.mean(), abs=1e-9)


def test_none_keeps_the_shape_and_weighs_each_item() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = reduce(values, torch.tensor([[2.0], [0.5]]), "none")
    assert found.tolist() == [[2.0, 4.0], [1.5, 2.0]]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{"mask": torch.zeros(3, dtype=torch.bool)}, {"normalizer": 0}])
def test_nothing_counts(reduction: str, options: dict) -> None:
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    if "normalizer" in options and reduction != "mean":
        pytest.skip("only a mean is normalised")
    found = reduce(values, reduction=reduction, **options)
    found.sum().backward()
    assert not found.any() and values.grad is not None and not values.grad.any()


@pytest.mark.parametrize("weight", [None, torch.zeros(0)])
def test_no_items(weight: torch.Tensor | None) -> None:
    values = torch.zeros(0, requires_grad=True)
    found = reduce(values, weight)
    found.backward()
    assert found.item() == 0 and values.grad is not None


def test_half_precision_is_summed_in_float32() -> None:
    values = torch.full((4096,), 100.0, dtype=torch.float16)  # the sum is above 65504
    assert reduce(values).item() == 100 and reduce(values).dtype == torch.float16
    tenths = torch.full((10_000,), 0.1, dtype=torch.bfloat16)
    assert reduce(tenths, reduction="sum").item() == pytest.approx(1000, rel=0.01)


def test_weights_are_summed_as_exactly_as_values() -> None:
    many = torch.ones(70_000)
    assert reduce(many, many.half()).item() == 1  # their sum is above 65504
    thirds = torch.full((1000,), 1 / 3)
    found = reduce(torch.full((1000,), 0.1, dtype=torch.float64), thirds)
    assert found.item() == pytest.approx(0.1, rel=1e-14)


def test_normalizer_may_be_a_tensor() -> None:
    values = torch.tensor([1.0, 2.0])
    assert reduce(values, normalizer=torch.tensor([6])).item() == 0.5
    assert reduce(values, normalizer=torch.tensor(0.0)).item() == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"reduction": "average"}, ValueError, "one of 'none', 'mean', 'sum', got 'average'"),
        ({"reduction": None}, ValueError, "`reduction`"),
        ({"weight": torch.ones(2)}, ValueError, r"`weight` must have the shape .*\[2, 3\].*\[2\]"),
        ({"weight": torch.ones(3, 2)}, ValueError, "`weight`"),
        ({"weight": 2.0}, TypeError, "`weight` must be a tensor of real numbers, got float"),
        ({"mask": torch.ones(2, 3)}, TypeError, "`mask` must be a bool tensor, got torch.float32"),
        ({"normalizer": -1}, ValueError, "`normalizer` must be a number of at least 0, got -1"),
        ({"normalizer": float("nan")}, ValueError, "`normalizer`"),
        ({"normalizer": torch.ones(2)}, ValueError, r"`normalizer` must hold one number.*\[2\]"),
        ({"normalizer": "3"}, TypeError, "`normalizer`"),
        ({"normalizer": torch.tensor(-2.0)}, ValueError, "`normalizer` must hold numbers of at"),
        ({"normalizer": -1, "reduction": "sum"}, ValueError, "`normalizer`"),
    ],
)
def test_errors(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reduce(torch.ones(2, 3), **arguments)


def test_values_must_be_floating() -> None:
    with pytest.raises(TypeError, match="`values` must be"):
        reduce([1.0, 2.0])
    with pytest.raises(TypeError, match="`values` must be .*, got torch.int64"):
        reduce(torch.tensor([1, 2]))  # whose mean is no integer


@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("old_reduce", [None, True, False])
def test_legacy_options_mean_what_they_mean_in_torch(
    size_average: bool | None, old_reduce: bool | None
) -> None:
    values = torch.tensor([1.0, 2.0, 5.0])
    options = {"size_average": size_average, "reduce": old_reduce, "reduction": "mean"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = reduce(values, **legacy_reduction(options))
        torchs = torch.nn.L1Loss(size_average=size_average, reduce=old_reduce)
        theirs = torchs(values, torch.zeros(3))
    assert torch.equal(ours, theirs)
    assert set(options) == {"size_average", "reduce", "reduction"}


def test_legacy_options_warn() -> None:
    with pytest.warns(DeprecationWarning, match="use reduction='sum'"):
        legacy_reduction({"size_average": False})
