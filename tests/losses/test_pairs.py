"""Multi-similarity and circle loss: against loops over anchors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.losses import circle_loss, multi_similarity_loss

Tensor = torch.Tensor
FLOAT64 = torch.float64
BOTH = (multi_similarity_loss, circle_loss)


def drawn(count: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    input = torch.randn(count, 3, generator=generator, dtype=FLOAT64)
    return input, torch.randint(0, 4, (count,), generator=generator)


def similarities(input: Tensor, target: Tensor, i: int) -> tuple[list[float], list[float]]:
    """The cosines of an anchor with its positives and with its negatives."""
    found: tuple[list[float], list[float]] = ([], [])
    for j in range(len(input)):
        if j != i:
            cosine = input[i] @ input[j] / input[i].norm() / input[j].norm()
            found[0 if target[i] == target[j] else 1].append(float(cosine))
    return found


def multi_similarity_by_loops(input: Tensor, target: Tensor, epsilon: float | None) -> list[float]:
    values = []
    for i in range(len(input)):
        near, far = similarities(input, target, i)
        if epsilon is not None:
            kept_near = [s for s in near if s < max(far, default=-math.inf) + epsilon]
            kept_far = [s for s in far if s > min(near, default=math.inf) - epsilon]
            near, far = kept_near, kept_far
        values.append(
            math.log1p(sum(math.exp(-2 * (s - 0.4)) for s in near)) / 2
            + math.log1p(sum(math.exp(30 * (s - 0.4)) for s in far)) / 30
        )
    return values


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 10), st.sampled_from([None, 0.0, 0.1, 0.5]), st.integers(0, 10**6))
def test_multi_similarity_by_loops(count: int, epsilon: float | None, seed: int) -> None:
    input, target = drawn(count, seed)
    options = {"alpha": 2.0, "beta": 30.0, "base": 0.4, "epsilon": epsilon}
    wanted = torch.tensor(multi_similarity_by_loops(input, target, epsilon), dtype=FLOAT64)
    found = multi_similarity_loss(input, target, **options, reduction="none")
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    mean = multi_similarity_loss(input, target, **options)
    assert mean.item() == pytest.approx(wanted.mean().item())


def circle_by_loops(input: Tensor, target: Tensor, m: float, gamma: float) -> list[float | None]:
    values: list[float | None] = []
    for i in range(len(input)):
        near, far = similarities(input, target, i)
        of_near = [-gamma * max(0.0, 1 + m - s) * (s - 1 + m) for s in near]
        of_far = [gamma * max(0.0, s + m) * (s - m) for s in far]
        product = sum(map(math.exp, of_near)) * sum(map(math.exp, of_far))
        values.append(math.log1p(product) if near and far else None)
    return values


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 10), st.sampled_from([0.0, 0.25, 0.4]), st.integers(0, 10**6))
def test_circle_by_loops(count: int, margin: float, seed: int) -> None:
    input, target = drawn(count, seed)
    wanted = circle_by_loops(input, target, margin, 16.0)
    found = circle_loss(input, target, margin=margin, gamma=16.0, reduction="none")
    values = torch.tensor([value or 0.0 for value in wanted], dtype=FLOAT64)
    torch.testing.assert_close(found, values, rtol=1e-9, atol=1e-12)
    counted = [value for value in wanted if value is not None]
    mean = circle_loss(input, target, margin=margin, gamma=16.0)
    assert mean.item() == pytest.approx(sum(counted) / max(len(counted), 1))


def test_the_gradient_of_circle_loss_holds_its_weights() -> None:
    """Of one positive and one negative: gamma * sigmoid * alpha for each similarity."""
    input = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-0.28, 0.96]], dtype=FLOAT64)
    target, m, gamma = torch.tensor([0, 0, 1]), 0.25, 4.0
    leaf = input.clone().requires_grad_()
    circle_loss(leaf, target, margin=m, gamma=gamma, reduction="none")[0].backward()
    near, far = 0.8, -0.28
    of_near, of_far = max(0, 1 + m - near), max(0, far + m)
    exponent = gamma * (of_far * (far - m) - of_near * (near - 1 + m))
    pull = -gamma * of_near / (1 + math.exp(-exponent))
    # The similarity changes with the positive across its own direction, by the anchor's part.
    wanted = pull * (input[0] - near * input[1])
    torch.testing.assert_close(leaf.grad[1], wanted)  # type: ignore[index]


def test_derivatives_of_multi_similarity() -> None:
    input, target = drawn()

    def loss(x: Tensor) -> Tensor:
        return multi_similarity_loss(x, target, beta=10.0, epsilon=0.1)

    assert torch.autograd.gradcheck(loss, input.requires_grad_())
    assert torch.autograd.gradgradcheck(loss, input)


@pytest.mark.parametrize("loss", BOTH)
def test_large_scales_in_float32(loss: Callable[..., Tensor]) -> None:
    input, target = drawn()
    options = {"gamma": 1e4} if loss is circle_loss else {"alpha": 1e4, "beta": 1e4}
    leaf = input.float().requires_grad_()
    value = loss(leaf, target, **options)
    value.backward()
    assert torch.isfinite(leaf.grad).all()  # type: ignore[arg-type]
    exact = loss(leaf.detach().double(), target, **options)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("loss", BOTH)
def test_the_length_of_embeddings_does_not_matter(loss: Callable[..., Tensor]) -> None:
    input, target = drawn()
    lengths = torch.logspace(-12, 12, len(input), dtype=FLOAT64).unsqueeze(1)
    torch.testing.assert_close(loss(input * lengths, target), loss(input, target))


@pytest.mark.parametrize("loss", BOTH)
def test_ignored_samples_may_hold_anything(loss: Callable[..., Tensor]) -> None:
    input, target = drawn()
    wanted = loss(input[:6], target[:6])
    target[6:], input[6], input[7] = -100, torch.nan, torch.inf
    input.requires_grad_()
    found = loss(input, target)
    found.backward()
    assert found.item() == pytest.approx(wanted.item())
    assert torch.isfinite(input.grad).all() and not input.grad[6:].any()  # type: ignore[arg-type, union-attr]


def test_what_is_empty() -> None:
    input, _ = drawn()
    for labels in (torch.zeros(9, dtype=torch.long), torch.arange(9), torch.full((9,), -100)):
        leaf = input.clone().requires_grad_()
        loss = circle_loss(leaf, labels)
        loss.backward()
        assert loss.item() == 0 and not leaf.grad.any()  # type: ignore[union-attr]
    near = multi_similarity_loss(input, torch.zeros(9, dtype=torch.long))
    far = multi_similarity_loss(input, torch.arange(9))
    assert near > 0 and far > 0  # one kind of pair alone is drawn, or pushed
    assert multi_similarity_loss(input, torch.full((9,), -100)) == 0
    assert multi_similarity_loss(input[:0], torch.arange(0), epsilon=0.1) == 0


@pytest.mark.parametrize("loss", BOTH)
def test_weights_of_anchors(loss: Callable[..., Tensor]) -> None:
    input, target = drawn()
    target = target % 2
    weight = torch.arange(1.0, 10.0, dtype=FLOAT64)
    values = loss(input, target, reduction="none")
    found = loss(input, target, weight=weight)
    assert found.item() == pytest.approx(((values * weight).sum() / weight.sum()).item())


ROWS, LABELS = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: multi_similarity_loss(ROWS, LABELS, alpha=0), ValueError, "`alpha`"),
        (lambda: multi_similarity_loss(ROWS, LABELS, beta=-1.0), ValueError, "`beta`"),
        (lambda: multi_similarity_loss(ROWS, LABELS, base=math.nan), ValueError, "`base`"),
        (lambda: multi_similarity_loss(ROWS, LABELS, epsilon=-0.1), ValueError, "`epsilon`"),
        (lambda: multi_similarity_loss(ROWS, LABELS[:1]), ValueError, "`target`"),
        (lambda: circle_loss(ROWS, LABELS.double()), TypeError, "`target`"),
        (lambda: circle_loss(ROWS, LABELS, gamma="80"), TypeError, "`gamma`"),
        (lambda: circle_loss(ROWS, LABELS, margin=-0.1), ValueError, "`margin`"),
        (lambda: circle_loss(ROWS, LABELS[:, None]), ValueError, "`target`"),
    ],
)
def test_wrong_calls(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("loss", BOTH)
def test_no_label_of_a_small_type_is_taken_for_ignored(loss: Callable[..., Tensor]) -> None:
    input, target = drawn()
    found = loss(input, (target + 155).to(torch.uint8))  # there, -100 is 156
    torch.testing.assert_close(found, loss(input, target))
