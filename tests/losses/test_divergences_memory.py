"""Divergences of large samples: in blocks they are what the matrix of all pairs gives."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.speed.blockwise import both_ways, in_blocks, largest_tensor, value_and_gradients

from lossproof.losses import energy_distance_loss, mmd_loss, sinkhorn_loss
from lossproof.losses._median import median_of_distances

Tensor = torch.Tensor
FLOAT64 = torch.float64
LOSSES = {
    "mmd": mmd_loss,
    "mmd_unbiased": partial(mmd_loss, bandwidths=(0.5, 2.0), estimator="unbiased"),
    "energy": energy_distance_loss,
    "energy_unbiased": partial(energy_distance_loss, estimator="unbiased"),
    "sinkhorn": sinkhorn_loss,
    "sinkhorn_sharp": partial(sinkhorn_loss, epsilon=1e-3, iterations=6),
}


def drawn(first: int = 11, second: int = 14, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(first + second, 3, generator=generator, dtype=FLOAT64)
    return points[:first], points[first:] + 0.5


def assert_equal(found: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-10) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.integers(2, 12),
    second=st.integers(2, 12),
    name=st.sampled_from(sorted(LOSSES)),
    seed=st.integers(0, 1000),
)
def test_blocks_are_the_whole(monkeypatch, first: int, second: int, name: str, seed: int) -> None:
    assert_equal(*both_ways(monkeypatch, LOSSES[name], drawn(first, second, seed)))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision(monkeypatch, name: str) -> None:
    samples = [points.bfloat16() for points in drawn()]
    found, wanted = both_ways(monkeypatch, LOSSES[name], samples)
    assert found[0].dtype == torch.bfloat16
    assert_equal(found, wanted, 2 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("name", ["mmd_unbiased", "energy", "sinkhorn"])
def test_derivatives_in_blocks(monkeypatch, name: str) -> None:
    samples = [points.requires_grad_() for points in drawn(3, 4)]
    in_blocks(monkeypatch, pairs=6)
    assert torch.autograd.gradcheck(LOSSES[name], samples)
    loss = partial(sinkhorn_loss, iterations=2) if name == "sinkhorn" else LOSSES[name]
    assert torch.autograd.gradgradcheck(loss, samples)


def test_only_one_sample_wants_a_gradient(monkeypatch) -> None:
    first, second = drawn()
    for loss in LOSSES.values():
        found, wanted = both_ways(monkeypatch, partial(loss, target=second), (first,))
        assert len(found) == 2
        assert_equal(found, wanted)


def test_equal_samples_do_not_diverge(monkeypatch) -> None:
    in_blocks(monkeypatch)
    points, _ = drawn()
    for name in ("mmd", "energy", "sinkhorn", "sinkhorn_sharp"):
        value, gradient = value_and_gradients(partial(LOSSES[name], target=points), (points,))
        assert abs(value) < 1e-14 and gradient.abs().max() < 1e-13


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_upstream_gradients(monkeypatch, name: str) -> None:
    in_blocks(monkeypatch)
    first, second = drawn()
    value = LOSSES[name](first.requires_grad_(), second)
    (once,) = torch.autograd.grad(value, first, retain_graph=True)
    upstream = torch.tensor([1.0, -2.0], dtype=FLOAT64)
    (batch,) = torch.autograd.grad(value, first, upstream, is_grads_batched=True)
    torch.testing.assert_close(batch, torch.stack((once, -2 * once)))


@pytest.mark.parametrize("name", LOSSES)
def test_points_of_no_dimension(monkeypatch, name: str) -> None:
    empty = torch.zeros(9, 0, dtype=FLOAT64)
    assert_equal(*both_ways(monkeypatch, LOSSES[name], (empty, empty)))


def test_sinkhorn_of_huge_costs_has_a_finite_gradient(monkeypatch) -> None:
    in_blocks(monkeypatch)
    samples = tuple(1e8 * points for points in drawn())
    value, *gradients = value_and_gradients(sinkhorn_loss, samples)
    assert value.isfinite() and all(one.isfinite().all() for one in gradients)


def test_nan_is_seen(monkeypatch) -> None:
    in_blocks(monkeypatch)
    first, second = drawn()
    first[3] = math.nan
    assert all(loss(first, second).isnan() for loss in LOSSES.values())


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_as_large_as_the_pairs(monkeypatch, name: str) -> None:
    first, second = torch.randn(2, 1000, 8)
    loss = LOSSES[name]
    if name.startswith("sinkhorn"):  # it takes long, and as many numbers
        first, second, loss = first[:200], second[:200], partial(loss, iterations=2)
        in_blocks(monkeypatch, pairs=1000)
    else:
        monkeypatch.setattr("lossproof.losses._median.BITS", 8)  # a smaller table of counts
    assert largest_tensor(loss, first, second) < (2 * len(first)) ** 2 / 10


@pytest.mark.parametrize("name", ["mmd", "energy", "sinkhorn"])
def test_large_samples_in_a_compiled_graph(monkeypatch, name: str) -> None:
    in_blocks(monkeypatch)
    loss = partial(sinkhorn_loss, iterations=1) if name == "sinkhorn" else LOSSES[name]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*drawn()), loss(*drawn()))


# ------------------------------------------------------------------------------ sinkhorn
@pytest.mark.parametrize(
    ("epsilon", "iterations"), [(100.0, 5), (0.1, 1), (1e-2, 60), (1e-4, 4), (1e-6, 2)]
)
def test_sinkhorn_when_exponentials_leave_the_range(
    monkeypatch, epsilon: float, iterations: int
) -> None:
    """With few iterations the potentials are far from those of so small a regularisation."""
    loss = partial(sinkhorn_loss, epsilon=epsilon, iterations=iterations)
    (value, *gradients), (wanted, *slopes) = both_ways(monkeypatch, loss, drawn())
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0.0)
    for one, other in zip(gradients, slopes, strict=True):
        # A cost is exact to 1e-15, which is divided by the regularisation.
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12 + 1e-15 / epsilon)


def test_sinkhorn_keeps_its_graph(monkeypatch) -> None:
    in_blocks(monkeypatch)
    first, second = drawn()
    first.requires_grad_()
    value = sinkhorn_loss(first, second)
    once = torch.autograd.grad(value, first, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(3 * value, first)[0], 3 * once)


# ------------------------------------------------------------------------------ the median
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
@pytest.mark.parametrize("kind", ["apart", "lattice", "tiny", "skewed"])
@pytest.mark.parametrize("count", [2, 3, 8, 41])
def test_the_median_is_that_of_numpy(
    monkeypatch, dtype: torch.dtype, kind: str, count: int
) -> None:
    monkeypatch.setattr("lossproof.losses._blocks.TILE_ON_CPU", 100)
    points = {
        "apart": torch.randn(count, 3),
        "lattice": torch.randint(0, 3, (count, 2)).float(),
        "tiny": 1e-12 * torch.randn(count, 3),
        "skewed": torch.randn(count, 2).exp().square(),
    }[kind].to(dtype)
    exact = points.double()
    square = (exact.unsqueeze(1) - exact).square().sum(-1)
    apart = square[torch.ones_like(square, dtype=torch.bool).tril(-1)].numpy()
    wanted = np.sort(apart)[(len(apart) - 1) // 2]
    rtol = 1e-6 if dtype == torch.float32 else 1e-12
    assert median_of_distances(points).item() == pytest.approx(wanted, rel=rtol, abs=0)


def test_the_median_leaves_out_nan_and_is_nan_without_numbers() -> None:
    assert median_of_distances(torch.full((3, 2), math.nan)).isnan()
    assert median_of_distances(torch.zeros(1, 2)).isnan()
    assert median_of_distances(torch.tensor([[0.0], [math.inf]])).isnan()
