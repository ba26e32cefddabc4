"""Products in half precision, of numbers that it can hardly hold."""

from __future__ import annotations

import pytest
import torch

from lossproof.speed import half_products
from lossproof.speed.half_products import add_product, fitting_scale, times

HALVES = (torch.float16, torch.bfloat16)


def error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("block", [1 << 24, 200])
@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_products_lose_nothing_to_underflow_or_overflow(monkeypatch, dtype, size, block):
    monkeypatch.setattr(half_products, "BLOCK", block)
    slope = torch.randn(40, 30) * size
    features, weight = torch.randn(40, 20).to(dtype), (0.02 * torch.randn(30, 20)).to(dtype)
    kept = slope.clone()
    start = torch.randn(30, 20) * size
    into = start.clone()
    add_product(into, slope, features)
    bound = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-6}[dtype]
    assert error(into - start, slope.double().t() @ features.double()) < bound
    found = times(slope, weight)
    assert found.dtype == torch.float32
    assert error(found, slope.double() @ weight.double()) < bound
    assert torch.equal(slope, kept)


@pytest.mark.parametrize("dtype", HALVES)
def test_nothing_is_zero_and_stays_zero(dtype):
    into = torch.zeros(3, 4)
    add_product(into, torch.zeros(5, 3), torch.randn(5, 4).to(dtype))
    assert not into.any()
    assert not times(torch.zeros(5, 3), torch.randn(3, 4).to(dtype)).any()


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_what_is_not_finite_is_not_hidden(dtype):
    slope = torch.ones(2, 3)
    slope[0, 0] = torch.nan
    found = times(slope, torch.ones(3, 4).to(dtype))
    assert found[0].isnan().all()


def test_the_scale_is_a_power_of_two_that_fits():
    for bound in (1e-12, 0.3, 1.0, 5e4, 1e9):
        scale = fitting_scale(torch.tensor(bound), 32768.0)
        assert scale.log2() == scale.log2().round()
        assert 8192 < bound * scale <= 32768 * (1 + 1e-6)
    for bound in (0.0, torch.inf, torch.nan):
        assert fitting_scale(torch.tensor(bound), 32768.0) == 1
