"""Contrastive losses of large batches: in blocks they are what the matrix of all pairs gives."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.speed.blockwise import both_ways, in_blocks, largest_tensor

from lossproof.losses import (
    InfoNCELoss,
    clip_loss,
    decoupled_contrastive_loss,
    info_nce_loss,
    nt_xent_loss,
    siglip_loss,
    sup_con_loss,
)

Tensor = torch.Tensor
FLOAT64 = torch.float64
VIEWS = {
    "info_nce": info_nce_loss,
    "info_nce_both_ways": partial(info_nce_loss, symmetric=True),
    "nt_xent": nt_xent_loss,
    "decoupled": decoupled_contrastive_loss,
    "decoupled_weighted": partial(decoupled_contrastive_loss, sigma=0.5),
    "clip": clip_loss,
    "siglip": siglip_loss,
}


def views(count: int = 13, dtype: torch.dtype = FLOAT64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, count, 4, generator=generator, dtype=FLOAT64)
    return one.to(dtype), (one + other).to(dtype)


def labels(count: int, kinds: int) -> Tensor:
    return torch.arange(count) % kinds


@pytest.fixture(params=VIEWS)
def loss(request: pytest.FixtureRequest):
    return VIEWS[request.param]


def assert_equal(found, wanted, tolerance: float = 1e-10) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_are_the_whole(monkeypatch, loss, reduction: str, masked: bool) -> None:
    one, other = views()
    options = {"weight": torch.rand(13, dtype=FLOAT64), "reduction": reduction}
    if masked:
        options["mask"] = torch.rand(13) > 0.3
        one[~options["mask"]] = math.nan
    assert_equal(*both_ways(monkeypatch, loss, (one, other), **options))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 14),
    name=st.sampled_from(sorted(VIEWS)),
    seed=st.integers(0, 1000),
    kept=st.floats(0, 1),
)
def test_blocks_of_any_batch(monkeypatch, count: int, name: str, seed: int, kept: float) -> None:
    mask = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < kept
    tensors = views(count, seed=seed)
    assert_equal(*both_ways(monkeypatch, VIEWS[name], tensors, mask=mask, reduction="none"))


@pytest.mark.parametrize("temperature", [1.0, 0.01])
@pytest.mark.parametrize("name", ["info_nce", "info_nce_both_ways", "nt_xent", "decoupled"])
def test_a_temperature_that_is_learned(monkeypatch, name: str, temperature: float) -> None:
    learned = torch.tensor(temperature, dtype=FLOAT64)
    found, wanted = both_ways(monkeypatch, VIEWS[name], views(), temperature=learned)
    assert len(found) == 4 and found[3].ndim == 0
    assert_equal(found, wanted)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_scale_and_a_bias_that_are_learned(monkeypatch, scale: float) -> None:
    learned = [torch.tensor(number, dtype=FLOAT64) for number in (scale, -3.0)]
    for loss, count in ((clip_loss, 1), (siglip_loss, 2)):
        found, wanted = both_ways(monkeypatch, loss, (*views(), *learned[:count]))
        assert len(found) == 3 + count
        assert_equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(monkeypatch, loss, dtype: torch.dtype) -> None:
    found, wanted = both_ways(monkeypatch, loss, views(dtype=dtype))
    assert all(one.dtype == dtype for one in found)
    # Both are computed in float32, and rounded at the end.
    assert_equal(found, wanted, 2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(13, 4), (5, 3, 4)])
@pytest.mark.parametrize("kinds", [1, 3, 40])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_supervised_blocks_are_the_whole(
    monkeypatch, shape: tuple[int, ...], kinds: int, reduction: str
) -> None:
    input, target = torch.randn(shape, dtype=FLOAT64), labels(shape[0], kinds)
    target[2], input[2] = -100, math.nan
    weight = torch.rand(shape[:-1], dtype=FLOAT64)
    temperature = torch.tensor(0.2, dtype=FLOAT64)
    options = {"weight": weight, "temperature": temperature, "reduction": reduction}
    assert_equal(*both_ways(monkeypatch, sup_con_loss, (input, target), **options))


@pytest.mark.parametrize("name", ["info_nce_both_ways", "nt_xent", "siglip"])
def test_second_derivatives_in_blocks(monkeypatch, name: str) -> None:
    tensors = [one[:3, :2].requires_grad_() for one in views()]
    in_blocks(monkeypatch, pairs=4)
    assert torch.autograd.gradcheck(VIEWS[name], tensors)
    assert torch.autograd.gradgradcheck(VIEWS[name], tensors)


def test_second_derivatives_of_supervised_blocks(monkeypatch) -> None:
    input = views()[0][:4, :2].requires_grad_()
    in_blocks(monkeypatch, pairs=4)
    assert torch.autograd.gradgradcheck(partial(sup_con_loss, target=labels(4, 2)), input)


def test_a_block_that_nobody_asked_the_gradient_of(monkeypatch, loss) -> None:
    in_blocks(monkeypatch)
    one, other = views()
    value = loss(one, other)
    with torch.inference_mode():
        assert torch.equal(loss(one, other), value)


def test_nan_is_seen(monkeypatch, loss) -> None:
    one, other = views()
    one[3] = math.nan
    in_blocks(monkeypatch)
    assert loss(one, other).isnan()


def test_a_backward_pass_again(monkeypatch, loss) -> None:
    in_blocks(monkeypatch)
    one, other = views()
    one.requires_grad_()
    value = loss(one, other)
    first, second = (torch.autograd.grad(value, one, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_batch_of_upstream_gradients(monkeypatch, loss) -> None:
    in_blocks(monkeypatch)
    one, other = views()
    value = loss(one.requires_grad_(), other)
    (once,) = torch.autograd.grad(value, one, retain_graph=True)
    upstream = torch.tensor([1.0, -2.0], dtype=FLOAT64)
    (batch,) = torch.autograd.grad(value, one, upstream, is_grads_batched=True)
    torch.testing.assert_close(batch, torch.stack((once, -2 * once)))


@pytest.mark.parametrize("name", ["info_nce_both_ways", "nt_xent", "decoupled", "clip", "siglip"])
def test_no_tensor_is_as_large_as_the_pairs(monkeypatch, name: str) -> None:
    one, other = torch.randn(2, 300, 8)
    rows = 600 if name in {"nt_xent", "decoupled"} else 300
    with monkeypatch.context() as patch:
        in_blocks(patch, pairs=1000)
        assert largest_tensor(VIEWS[name], one, other) < rows**2 / 10
    assert largest_tensor(VIEWS[name], one, other) >= rows**2


def test_no_tensor_is_as_large_as_the_supervised_pairs(monkeypatch) -> None:
    input, target = torch.randn(300, 8), labels(300, 70)
    in_blocks(monkeypatch, pairs=1000)
    assert largest_tensor(partial(sup_con_loss, target=target), input) < len(input) ** 2 / 10


def test_a_large_batch_goes_in_blocks_by_itself() -> None:
    one, other = torch.randn(2, 2600, 8)
    assert largest_tensor(info_nce_loss, one, other) < len(one) ** 2 / 3


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_transforms_and_forward_mode_take_the_matrix(monkeypatch) -> None:
    in_blocks(monkeypatch)
    one, other = views()
    wanted = info_nce_loss(one, other)
    gradient = torch.func.grad(info_nce_loss)(one, other)
    _, tangent = torch.func.jvp(lambda x: info_nce_loss(x, other), (one,), (torch.ones_like(one),))
    torch.testing.assert_close(tangent, gradient.sum())
    batch = torch.func.vmap(info_nce_loss)(torch.stack((one, one)), torch.stack((other, other)))
    torch.testing.assert_close(batch, wanted.expand(2))


def test_a_large_batch_in_a_compiled_graph(monkeypatch) -> None:
    in_blocks(monkeypatch)
    one, other = views()
    compiled = torch.compile(InfoNCELoss(symmetric=True), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(one, other), info_nce_loss(one, other, symmetric=True))
