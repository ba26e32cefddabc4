"""Triplets and contrastive pairs: against loops over single vectors, torch, and exact limits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.speed.blockwise import in_blocks, whole

from lossproof.losses import (
    BatchHardTripletLoss,
    PairwiseContrastiveLoss,
    batch_hard_triplet_loss,
    contrastive_loss,
    pairwise_contrastive_loss,
    triplet_margin_loss,
)
from lossproof.losses._distances import norm, squared_distances

Tensor = torch.Tensor
FLOAT64 = torch.float64


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = FLOAT64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    return found


# ------------------------------------------------------------------------------ distances
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, 50.0])
def test_norm_is_that_of_numpy(p: float) -> None:
    vectors = drawn(5, 4)
    wanted = np.linalg.norm(vectors.numpy(), ord=p, axis=1)
    np.testing.assert_allclose(norm(vectors, p).numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_norm_has_finite_derivatives_at_zero(p: float) -> None:
    vectors = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=FLOAT64, requires_grad=True)
    (first,) = torch.autograd.grad(norm(vectors, p).sum(), vectors, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), vectors, materialize_grads=True)
    assert torch.equal(first.detach(), torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=FLOAT64))
    assert torch.isfinite(second).all()


def test_high_powers_do_not_overflow() -> None:
    vectors = torch.tensor([[3e4, 1e4]])
    assert norm(vectors, 12.0).item() == pytest.approx(30000 * (1 + 3.0**-12) ** (1 / 12))


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
def test_distances_of_near_twins_far_from_the_origin(offset: float) -> None:
    """Three clusters, far from zero and from one another, of which each is very narrow."""
    centres = offset + 100 * drawn(3, 16).repeat_interleave(4, 0)
    vectors = (centres + 0.05 * drawn(12, 16, seed=1)).float()
    exact = vectors.double()
    wanted = (exact.unsqueeze(1) - exact).square().sum(-1)
    torch.testing.assert_close(squared_distances(vectors).double(), wanted, rtol=1e-5, atol=0.0)


def test_rows_that_are_equal_are_at_distance_zero() -> None:
    vectors = drawn(4, 64, dtype=torch.float32).repeat(3, 1) + 7
    same = torch.arange(12) % 4
    found = squared_distances(vectors)[same.unsqueeze(1) == same]
    assert not found.any()


# ------------------------------------------------------------------------------ triplets
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_triplet_is_that_of_torch_without_its_eps(p: float, swap: bool) -> None:
    triplet = [drawn(7, 5, seed=seed) for seed in range(3)]
    for reduction in ("none", "mean", "sum"):
        wanted = torch.nn.functional.triplet_margin_loss(
            *triplet, margin=0.7, p=p, eps=0.0, swap=swap, reduction=reduction
        )
        found = triplet_margin_loss(*triplet, margin=0.7, p=p, swap=swap, reduction=reduction)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_triplet_with_a_soft_margin() -> None:
    anchor, positive, negative = torch.zeros(1, 1), torch.tensor([[3.0]]), torch.tensor([[1.0]])
    found = triplet_margin_loss(anchor, positive, negative, margin="soft")
    assert found.item() == pytest.approx(math.log1p(math.exp(2.0)))
    easy = triplet_margin_loss(anchor, negative, torch.tensor([[61.0]]), margin="soft")
    assert easy.item() == pytest.approx(math.exp(-60.0), rel=1e-5)


def test_triplet_of_equal_vectors() -> None:
    same = torch.ones(2, 3)
    found = gradient(lambda anchor: triplet_margin_loss(anchor, same, same), same)
    assert triplet_margin_loss(same, same, same).item() == 1.0
    assert not found.any()


def test_triplet_of_one_sample_and_of_a_large_batch() -> None:
    triplet = [drawn(2**12, 80, seed=seed) for seed in range(3)]  # large enough for a sweep
    each = triplet_margin_loss(*triplet, reduction="none")
    assert triplet_margin_loss(*triplet).item() == pytest.approx(each.mean().item())
    one = triplet_margin_loss(*(t[5] for t in triplet), reduction="none")
    assert one.shape == () and one.item() == pytest.approx(each[5].item())


def test_triplet_weights_and_masks() -> None:
    triplet = [drawn(4, 3, seed=seed) for seed in range(3)]
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=FLOAT64)
    mask = torch.tensor([True, True, False, True])
    values = triplet_margin_loss(*triplet, reduction="none")
    found = triplet_margin_loss(*triplet, weight=weight, mask=mask)
    kept = weight * mask
    assert found.item() == pytest.approx(((values * kept).sum() / kept.sum()).item())


# ------------------------------------------------------------------------------ batch-hard
def batch_hard_by_loops(
    input: np.ndarray, labels: list[int], margin: float, mining: str, distance: str
) -> list[float | None]:
    """The value of each anchor, ``None`` where it does not count."""

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        if distance == "cosine":
            return float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        size = float(np.linalg.norm(a - b))
        return size**2 if distance == "squared_euclidean" else size

    found: list[float | None] = []
    for i, label in enumerate(labels):
        far = [apart(input[i], input[j]) for j in range(len(labels)) if labels[j] != label]
        near = [
            apart(input[i], input[j]) for j in range(len(labels)) if labels[j] == label and j != i
        ]
        if near and mining == "semihard":
            far = [d for d in far if d > max(near)]
        found.append(max(0.0, max(near) - min(far) + margin) if near and far else None)
    return found


@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean", "cosine"])
@pytest.mark.parametrize("mining", ["hard", "semihard"])
@pytest.mark.parametrize("seed", range(4))
def test_batch_hard_by_loops(distance: str, mining: str, seed: int) -> None:
    input, labels = drawn(12, 3, seed=seed), [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 4, 4]
    wanted = batch_hard_by_loops(input.numpy(), labels, 0.4, mining, distance)
    options = {"margin": 0.4, "mining": mining, "distance": distance}
    target = torch.tensor(labels)
    found = batch_hard_triplet_loss(input, target, **options, reduction="none")
    np.testing.assert_allclose(found.numpy(), [value or 0.0 for value in wanted], atol=1e-12)
    counted = [value for value in wanted if value is not None]
    mean = batch_hard_triplet_loss(input, target, **options)
    assert mean.item() == pytest.approx(sum(counted) / len(counted))


def test_batch_hard_derivatives() -> None:
    input = drawn(7, 3).requires_grad_()
    target = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    for distance in ("euclidean", "squared_euclidean", "cosine"):

        def loss(x: Tensor, distance: str = distance) -> Tensor:
            return batch_hard_triplet_loss(x, target, margin="soft", distance=distance)

        assert torch.autograd.gradcheck(loss, input)
        assert torch.autograd.gradgradcheck(loss, input)


def test_batch_hard_finds_the_hardest_among_near_twins() -> None:
    """In float32 with products of matrices alone all these distances are noise."""
    exact = 1e3 + torch.tensor([[0.0], [1.0], [3.0], [1.5], [2.25]]).double().expand(5, 8) / 64
    target = torch.tensor([0, 0, 0, 1, 1])
    wanted = batch_hard_triplet_loss(exact, target, margin=0.1, reduction="none")
    found = batch_hard_triplet_loss(exact.float(), target, margin=0.1, reduction="none")
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [-100, -100, 0]])
@pytest.mark.parametrize("mining", ["hard", "semihard"])
def test_batch_hard_without_a_pair_is_attached_to_the_graph(labels: list[int], mining: str) -> None:
    input = drawn(3, 2).requires_grad_()
    loss = batch_hard_triplet_loss(input, torch.tensor(labels), mining=mining)
    loss.backward()
    assert loss.item() == 0 and not input.grad.any()  # type: ignore[union-attr]


def test_batch_hard_leaves_ignored_samples_out() -> None:
    input, target = drawn(6, 3), torch.tensor([0, 0, 1, 1, -100, -100])
    spoiled = input.clone()
    spoiled[4:] = torch.nan
    wanted = gradient(lambda x: batch_hard_triplet_loss(x, target[:4]), input[:4])
    found = gradient(lambda x: batch_hard_triplet_loss(x, target), spoiled)
    torch.testing.assert_close(found[:4], wanted)
    assert not found[4:].any()


def test_batch_hard_shows_nan() -> None:
    input = drawn(4, 3)
    input[1, 0] = torch.nan
    assert batch_hard_triplet_loss(input, torch.tensor([0, 0, 1, 1])).isnan()


def test_batch_hard_as_a_module() -> None:
    input, target = drawn(6, 3), torch.tensor([5, 5, 5, 9, 9, 7])
    loss = BatchHardTripletLoss(margin="soft", mining="semihard")
    assert repr(loss) == "BatchHardTripletLoss(margin='soft', mining='semihard')"
    wanted = batch_hard_triplet_loss(input, target, margin="soft", mining="semihard")
    assert torch.equal(loss(input, target), wanted)


# ------------------------------------------------------------------------------ contrastive
def test_contrastive_by_hand() -> None:
    one = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    other = torch.tensor([[3.0, 4.0], [0.3, 0.4], [3.0, 4.0]])
    found = contrastive_loss(one, other, torch.tensor([1, 0, 0]), margin=2.0, reduction="none")
    torch.testing.assert_close(found, torch.tensor([12.5, 1.125, 0.0]))


def test_labels_of_the_paper_and_of_any_dtype() -> None:
    one, other = drawn(5, 3), drawn(5, 3, seed=1)
    target = torch.tensor([1, 0, 0, 1, 1])
    wanted = contrastive_loss(one, other, target, margin=3.0)
    for labels in (target.bool(), target.float(), target.to(torch.int8)):
        assert torch.equal(contrastive_loss(one, other, labels, margin=3.0), wanted)
    assert torch.equal(contrastive_loss(one, other, 1 - target, margin=3.0, similar=0), wanted)


def test_contrastive_of_equal_vectors_is_flat_and_finite() -> None:
    same = torch.ones(2, 3)
    target = torch.tensor([0, 1])
    found = gradient(lambda x: contrastive_loss(x, same, target, reduction="sum"), same)
    assert contrastive_loss(same, same, target, reduction="sum").item() == 0.5
    assert not found.any()


def test_masked_pairs_may_hold_anything() -> None:
    one, other = drawn(3, 2), drawn(3, 2, seed=1)
    wanted = contrastive_loss(one[:2], other[:2], torch.tensor([1.0, 0.0]))
    one[2] = torch.inf
    target, mask = torch.tensor([1.0, 0.0, 9.0]), torch.tensor([True, True, False])
    found = gradient(lambda x: contrastive_loss(x, other, target, mask=mask), one)
    assert contrastive_loss(one, other, target, mask=mask).item() == pytest.approx(wanted.item())
    assert torch.isfinite(found).all() and not found[2].any()


# ------------------------------------------------------------------------------ all pairs
def all_pairs(input: Tensor, target: Tensor, margin: float) -> Tensor:
    """The contrastive loss of all unordered pairs, one by one."""
    i, j = torch.triu_indices(len(input), len(input), 1)
    return contrastive_loss(input[i], input[j], (target[i] == target[j]).long(), margin=margin)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.floats(0.1, 5.0), st.integers(0, 10**6))
def test_all_pairs_are_the_pairs_one_by_one(count: int, margin: float, seed: int) -> None:
    input = drawn(count, 3, seed=seed)
    target = torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed))
    wanted = all_pairs(input, target, margin)
    found = pairwise_contrastive_loss(input, target, margin=margin)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9, abs=1e-12)


def swept_and_plain(
    monkeypatch: pytest.MonkeyPatch, loss: Callable[[Tensor], Tensor], at: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Value and gradient, in blocks and as one formula."""
    results = []
    for enter in (in_blocks, whole):
        with monkeypatch.context() as patch:
            enter(patch)
            results.append((loss(at), gradient(loss, at)))
    return results[0], results[1]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, reduction: str, weighted: bool
) -> None:
    target = torch.arange(50) % 7
    target[3], target[20:23] = -100, -100
    weight = drawn(50, seed=3).abs() if weighted else None

    def loss(x: Tensor) -> Tensor:
        return pairwise_contrastive_loss(x, target, margin=3.0, weight=weight, reduction=reduction)

    swept, plain = swept_and_plain(monkeypatch, loss, drawn(50, 4))
    torch.testing.assert_close(swept, plain, rtol=1e-10, atol=1e-12)


def test_equal_rows_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn(10, 4, dtype=torch.float32).repeat(4, 1) + 100
    target = torch.arange(40) % 3
    swept, plain = swept_and_plain(
        monkeypatch, lambda x: pairwise_contrastive_loss(x, target, margin=2.0), rows
    )
    torch.testing.assert_close(swept, plain, rtol=1e-5, atol=1e-6)
    exact = gradient(lambda x: pairwise_contrastive_loss(x, target, margin=2.0), rows.double())
    torch.testing.assert_close(swept[1].double(), exact, rtol=1e-5, atol=1e-6)


def test_second_derivatives_and_learned_weights_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks(monkeypatch, pairs=8)
    input, target = drawn(8, 3).requires_grad_(), torch.arange(8) % 3

    def loss(x: Tensor) -> Tensor:
        return pairwise_contrastive_loss(x, target, margin=2.0)

    assert torch.autograd.gradcheck(loss, input)
    assert torch.autograd.gradgradcheck(loss, input)
    weight = torch.ones(8, dtype=FLOAT64, requires_grad=True)
    values = pairwise_contrastive_loss(input.detach(), target, margin=2.0, reduction="none")
    pairwise_contrastive_loss(
        input.detach(), target, margin=2.0, weight=weight, reduction="sum"
    ).backward()
    torch.testing.assert_close(weight.grad, values)


def test_all_pairs_do_not_depend_on_where_the_origin_is() -> None:
    input, target = drawn(32, 8, dtype=torch.float32).round(decimals=1), torch.arange(32) % 4
    moved = input + 1024
    exact = pairwise_contrastive_loss(moved.double(), target, margin=4.0)
    assert pairwise_contrastive_loss(moved, target, margin=4.0).item() == pytest.approx(
        exact.item(), rel=1e-6
    )


def test_all_pairs_of_one_sample() -> None:
    input = drawn(1, 3).requires_grad_()
    loss = PairwiseContrastiveLoss()(input, torch.tensor([2]))
    loss.backward()
    assert loss.item() == 0 and not input.grad.any()  # type: ignore[union-attr]


# ------------------------------------------------------------------------------ wrong calls
ROWS, LABELS = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: triplet_margin_loss(ROWS, ROWS, ROWS[:1]), ValueError, "`negative`"),
        (lambda: triplet_margin_loss(ROWS, ROWS, ROWS, p=0.5), ValueError, "`p`"),
        (lambda: triplet_margin_loss(ROWS, ROWS, ROWS, margin=-1.0), ValueError, "`margin`"),
        (lambda: triplet_margin_loss(ROWS, ROWS, ROWS, margin="hard"), ValueError, "'soft'"),
        (lambda: triplet_margin_loss(ROWS, ROWS, ROWS, swap=1), TypeError, "`swap`"),
        (lambda: triplet_margin_loss(*[ROWS[None]] * 3), ValueError, r"\(N, D\)"),
        (lambda: batch_hard_triplet_loss(ROWS, LABELS[:3]), ValueError, "`target`"),
        (lambda: batch_hard_triplet_loss(ROWS, LABELS.float()), TypeError, "`target`"),
        (lambda: batch_hard_triplet_loss(ROWS[0], LABELS[:1]), ValueError, "`input`"),
        (lambda: batch_hard_triplet_loss(ROWS, LABELS, mining="easy"), ValueError, "`mining`"),
        (lambda: batch_hard_triplet_loss(ROWS, LABELS, distance="l2"), ValueError, "`distance`"),
        (lambda: batch_hard_triplet_loss(ROWS[:, :0], LABELS), ValueError, "at least one number"),
        (lambda: contrastive_loss(ROWS, ROWS, LABELS - 1), ValueError, "`target`"),
        (lambda: contrastive_loss(ROWS, ROWS, LABELS[:1]), ValueError, "`target`"),
        (lambda: contrastive_loss(ROWS, ROWS, LABELS, similar=2), ValueError, "`similar`"),
        (lambda: contrastive_loss(ROWS, ROWS, LABELS, margin="soft"), TypeError, "`margin`"),
        (lambda: pairwise_contrastive_loss(ROWS, LABELS, margin=math.nan), ValueError, "`margin`"),
        (lambda: pairwise_contrastive_loss(ROWS, LABELS, reduction="all"), ValueError, "reduction"),
        (lambda: pairwise_contrastive_loss(ROWS, LABELS, weight=ROWS), ValueError, "`weight`"),
    ],
)
def test_wrong_calls(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_weights_of_another_dtype_do_not_change_that_of_the_loss() -> None:
    input, target = torch.randn(6, 3), torch.tensor([0, 1, 2] * 2)
    weight = torch.rand(6, dtype=torch.float64)
    found = pairwise_contrastive_loss(input, target, weight=weight)
    torch.testing.assert_close(
        found, pairwise_contrastive_loss(input, target, weight=weight.float())
    )


@pytest.mark.parametrize("loss", [batch_hard_triplet_loss, pairwise_contrastive_loss])
def test_a_batch_of_any_size_can_be_exported(loss: Callable[..., Tensor]) -> None:
    class Model(torch.nn.Module):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return loss(input, target)

    size = torch.export.Dim("size", min=2, max=64)
    exported = torch.export.export(
        Model(),
        (torch.randn(8, 4), torch.tensor([0, 1] * 4)),
        dynamic_shapes=({0: size}, {0: size}),
    ).module()
    input, target = torch.randn(13, 4), torch.arange(13) % 3
    torch.testing.assert_close(exported(input, target), loss(input, target))
