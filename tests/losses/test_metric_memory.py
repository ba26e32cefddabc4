"""Losses of distances in large batches: in blocks they are what the matrix of all pairs gives."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.speed.blockwise import both_ways, in_blocks, largest_tensor

from lossproof.losses import (
    batch_hard_triplet_loss,
    circle_loss,
    multi_similarity_loss,
    pairwise_contrastive_loss,
)

Tensor = torch.Tensor
FLOAT64 = torch.float64
LOSSES = {
    "hard": batch_hard_triplet_loss,
    "semihard": partial(batch_hard_triplet_loss, mining="semihard", margin="soft"),
    "cosine": partial(batch_hard_triplet_loss, distance="cosine"),
    "pairwise": partial(pairwise_contrastive_loss, margin=2.0),
    "multi_similarity": multi_similarity_loss,
    "multi_similarity_mined": partial(multi_similarity_loss, epsilon=0.1),
    "circle": partial(circle_loss, gamma=16.0),
}


def drawn(count: int = 17, kinds: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 3, generator=generator, dtype=FLOAT64)
    return rows, torch.randint(kinds, (count,), generator=generator)


def assert_equal(found: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-10) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("ignored", [False, True])
def test_blocks_are_the_whole(monkeypatch, name: str, reduction: str, ignored: bool) -> None:
    input, target = drawn()
    if ignored:
        target[[0, 7]] = -100
        input[7] = math.nan
    weight = torch.rand(17)  # not in float64: as a constant
    options = {"reduction": reduction}
    assert_equal(*both_ways(monkeypatch, LOSSES[name], (input, target), **options))
    loss = partial(LOSSES[name], weight=weight)
    assert_equal(*both_ways(monkeypatch, loss, (input, target), **options))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 20),
    kinds=st.integers(1, 20),
    name=st.sampled_from(sorted(LOSSES)),
    seed=st.integers(0, 1000),
)
def test_blocks_of_any_batch(monkeypatch, count: int, kinds: int, name: str, seed: int) -> None:
    assert_equal(*both_ways(monkeypatch, LOSSES[name], drawn(count, kinds, seed)))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision(monkeypatch, name: str) -> None:
    input, target = drawn()
    found, wanted = both_ways(monkeypatch, LOSSES[name], (input.bfloat16(), target))
    assert found[0].dtype == torch.bfloat16
    assert_equal(found, wanted, 2 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("name", ["hard", "pairwise", "multi_similarity"])
def test_second_derivatives_in_blocks(monkeypatch, name: str) -> None:
    input, target = drawn(6, 2)
    in_blocks(monkeypatch, pairs=6)
    loss = partial(LOSSES[name], target=target)
    assert torch.autograd.gradcheck(loss, input.requires_grad_())
    assert torch.autograd.gradgradcheck(loss, input)


@pytest.mark.parametrize("name", LOSSES)
def test_a_value_without_a_gradient(monkeypatch, name: str) -> None:
    in_blocks(monkeypatch)
    input, target = drawn()
    wanted = LOSSES[name](input.clone().requires_grad_(), target)
    with torch.inference_mode():
        assert LOSSES[name](input, target).item() == wanted.item()


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_as_large_as_the_pairs(monkeypatch, name: str) -> None:
    in_blocks(monkeypatch, pairs=3000)
    input, target = torch.randn(500, 8), torch.arange(500) % 100
    assert largest_tensor(partial(LOSSES[name], target=target), input) < len(input) ** 2 / 10


@pytest.mark.parametrize("name", ["semihard", "pairwise"])
def test_a_large_batch_in_a_compiled_graph(monkeypatch, name: str) -> None:
    in_blocks(monkeypatch)
    input, target = drawn()
    compiled = torch.compile(LOSSES[name], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(input, target), LOSSES[name](input, target))
