"""Contrastive losses against sums written out in loops, in float64 and in 50 digits."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossproof.losses.contrastive import (
    InfoNCELoss,
    NTXentLoss,
    decoupled_contrastive_loss,
    info_nce_loss,
    nt_xent_loss,
    sup_con_loss,
)

Tensor = torch.Tensor
TWO_VIEWS = (info_nce_loss, nt_xent_loss, decoupled_contrastive_loss)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def cosine(one: Tensor, other: Tensor) -> float:
    lengths = math.sqrt(float(one @ one)) * math.sqrt(float(other @ other))
    return float(one @ other) / lengths if lengths else 0.0


def cross_entropy(anchor: Tensor, positive: Tensor, negatives: list[Tensor], tau: float) -> float:
    right = math.exp(cosine(anchor, positive) / tau)
    return -math.log(right / (right + sum(math.exp(cosine(anchor, n) / tau) for n in negatives)))


def gradients(loss: Callable[..., Tensor], *tensors: Tensor, **options: object) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() if t.is_floating_point() else t for t in tensors]
    loss(*leaves, **options).backward()
    return [t.grad for t in leaves if t.requires_grad]


def others(rows: Tensor, *left_out: int) -> list[Tensor]:
    return [row for i, row in enumerate(rows) if i not in left_out]


def test_info_nce_is_the_cross_entropy_of_the_key_among_all_keys() -> None:
    query, key = draw(5, 4), draw(5, 4)
    wanted = [cross_entropy(query[i], key[i], others(key, i), 0.2) for i in range(5)]
    found = info_nce_loss(query, key, temperature=0.2, reduction="none")
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_info_nce_is_symmetric_where_asked() -> None:
    query, key = draw(5, 4), draw(5, 4)
    both = info_nce_loss(query, key, symmetric=True)
    torch.testing.assert_close(both, (info_nce_loss(query, key) + info_nce_loss(key, query)) / 2)


@pytest.mark.parametrize("own", [False, True])
def test_info_nce_with_negatives_asks_for_no_other_keys(own: bool) -> None:
    query, key = draw(3, 4), draw(3, 4)
    negatives = draw(3, 6, 4) if own else draw(6, 4)
    rows = [list(negatives[i]) if own else list(negatives) for i in range(3)]
    wanted = [cross_entropy(query[i], key[i], rows[i], 0.07) for i in range(3)]
    found = info_nce_loss(query, key, negatives, reduction="none")
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    leaves = [t.requires_grad_() for t in (query, key, negatives)]
    assert torch.autograd.gradcheck(info_nce_loss, leaves)


def test_info_nce_without_any_negative_is_zero() -> None:
    query, key = draw(3, 4).requires_grad_(), draw(3, 4)
    loss = info_nce_loss(query, key, draw(0, 4))
    loss.backward()
    assert loss == 0 and not query.grad.any()


def test_masked_queries_with_negatives_of_their_own_may_be_nan() -> None:
    query, key, negatives = draw(3, 4), draw(3, 4), draw(3, 6, 4)
    mask = torch.tensor([True, False, True])
    wanted = info_nce_loss(query[mask], key[mask], negatives[mask])
    for tensor in (query, key, negatives):
        tensor[1] = math.nan
    torch.testing.assert_close(info_nce_loss(query, key, negatives, mask=mask), wanted)
    for gradient in gradients(info_nce_loss, query, key, negatives, mask=mask):
        assert gradient.isfinite().all() and not gradient[1].any()


def naive_nt_xent(input1: Tensor, input2: Tensor, tau: float) -> list[float]:
    n, views = len(input1), torch.cat((input1, input2))
    losses = [
        cross_entropy(views[a], views[(a + n) % (2 * n)], others(views, a, (a + n) % (2 * n)), tau)
        for a in range(2 * n)
    ]
    return [(losses[i] + losses[i + n]) / 2 for i in range(n)]


def test_nt_xent_is_the_cross_entropy_of_the_other_view_among_all_views() -> None:
    views = draw(4, 3), draw(4, 3)
    found = nt_xent_loss(*views, temperature=0.3, reduction="none")
    wanted = torch.tensor(naive_nt_xent(*views, 0.3), dtype=torch.float64)
    torch.testing.assert_close(found, wanted)


def exact_nt_xent(input1: Tensor, input2: Tensor, tau: float) -> float:
    """In 50 digits."""
    with mpmath.workdps(50):
        views = [mpmath.matrix([mpmath.mpf(float(x)) for x in row]) for row in (*input1, *input2)]
        units = [view / mpmath.norm(view) for view in views]
        n, total = len(input1), mpmath.mpf(0)
        for a in range(2 * n):
            dots = [(units[a].T * unit)[0] / mpmath.mpf(tau) for unit in units]
            rest = sum(
                mpmath.exp(dots[b] - dots[(a + n) % (2 * n)]) for b in range(2 * n) if b != a
            )
            total += mpmath.log(rest)
        return float(total / (2 * n))


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("noise", [0.05, 10.0])
def test_nt_xent_is_exact_at_any_temperature(temperature: float, noise: float) -> None:
    torch.manual_seed(3)
    one = torch.randn(6, 8)
    other = one + noise * torch.randn(6, 8)
    wanted = exact_nt_xent(one, other, temperature)
    found = nt_xent_loss(one, other, temperature=temperature).item()
    # A float32 cosine is off by 1e-7, which the temperature magnifies.
    assert found == pytest.approx(wanted, rel=3e-7 / temperature + 1e-6, abs=1e-37)
    assert all(g.isfinite().all() for g in gradients(nt_xent_loss, one, other))


def test_the_hardest_batch_has_a_gradient_at_a_low_temperature() -> None:
    one = torch.randn(8, 16)
    for gradient in gradients(nt_xent_loss, one, -one, temperature=0.01):
        assert gradient.norm(dim=1).min() > 1


def test_decoupled_leaves_the_positive_out_of_the_denominator() -> None:
    one, other = draw(4, 3), draw(4, 3)
    views, wanted = torch.cat((one, other)), []
    for a in range(8):
        negatives = others(views, a, (a + 4) % 8)
        total = sum(math.exp(cosine(views[a], n) / 0.2) for n in negatives)
        wanted.append(math.log(total) - cosine(views[a], views[(a + 4) % 8]) / 0.2)
    found = decoupled_contrastive_loss(one, other, temperature=0.2, reduction="none")
    exact = torch.tensor(wanted, dtype=torch.float64).view(2, 4).mean(0)
    torch.testing.assert_close(found, exact)


def test_decoupled_weights_of_the_positives_average_to_one() -> None:
    one, other = draw(4, 3), draw(4, 3)
    cosines = [cosine(a, b) for a, b in zip(one, other, strict=True)]
    mean = sum(math.exp(c / 0.5) for c in cosines) / 4
    weights = [2 - math.exp(c / 0.5) / mean for c in cosines]
    plain = decoupled_contrastive_loss(one, other, reduction="none")
    found = decoupled_contrastive_loss(one, other, sigma=0.5, reduction="none")
    shift = [(1 - w) * c / 0.1 for w, c in zip(weights, cosines, strict=True)]
    torch.testing.assert_close(found - plain, torch.tensor(shift, dtype=torch.float64))
    leaves = one.requires_grad_(), other.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *views: decoupled_contrastive_loss(*views, sigma=0.5), leaves
    )


def test_a_sample_without_others_does_not_count_where_the_loss_is_decoupled() -> None:
    one, other = draw(1, 3).requires_grad_(), draw(1, 3)
    loss = decoupled_contrastive_loss(one, other)
    loss.backward()
    assert loss == 0 and not one.grad.any()


def naive_sup_con(rows: Tensor, labels: list[int], tau: float) -> list[float | None]:
    found: list[float | None] = []
    for i, row in enumerate(rows):
        similar = {a: cosine(row, rows[a]) / tau for a in range(len(rows)) if a != i}
        positives = [similar[a] for a in similar if labels[a] == labels[i]]
        total = math.log(sum(math.exp(s) for s in similar.values()))
        found.append(sum(total - s for s in positives) / len(positives) if positives else None)
    return found


def test_sup_con_averages_over_the_positives_outside_the_log() -> None:
    rows, labels = draw(7, 4), [0, 1, 0, 2, 1, 0, 3]
    wanted = naive_sup_con(rows, labels, 0.3)
    found = sup_con_loss(rows, torch.tensor(labels), temperature=0.3, reduction="none")
    exact = torch.tensor([w or 0.0 for w in wanted], dtype=torch.float64)
    torch.testing.assert_close(found, exact)
    counted = [w for w in wanted if w is not None]
    mean = sup_con_loss(rows, torch.tensor(labels), temperature=0.3)
    assert mean.item() == pytest.approx(sum(counted) / len(counted))


def test_sup_con_takes_the_views_of_a_sample_as_its_positives() -> None:
    rows, labels = draw(3, 2, 4), torch.tensor([0, 1, 0])
    found = sup_con_loss(rows, labels, reduction="none")
    flat = sup_con_loss(rows.flatten(0, 1), labels.repeat_interleave(2), reduction="none")
    torch.testing.assert_close(found, flat.view(3, 2))
    assert torch.autograd.gradcheck(lambda x: sup_con_loss(x, labels), rows.requires_grad_())


def test_sup_con_of_two_views_and_labels_of_their_own_is_nt_xent() -> None:
    one, other = draw(5, 4), draw(5, 4)
    found = sup_con_loss(torch.stack((one, other), 1), torch.arange(5), temperature=0.2)
    torch.testing.assert_close(found, nt_xent_loss(one, other, temperature=0.2))


def test_sup_con_without_positives_is_zero_with_a_gradient_of_zeros() -> None:
    rows = draw(4, 3).requires_grad_()
    loss = sup_con_loss(rows, torch.arange(4))
    loss.backward()
    assert loss == 0 and not rows.grad.any()


def test_sup_con_with_one_class_only_pulls_together() -> None:
    rows = draw(4, 3)
    found = sup_con_loss(rows, torch.zeros(4, dtype=torch.long), temperature=0.5)
    wanted = [w for w in naive_sup_con(rows, [0] * 4, 0.5) if w is not None]
    assert found.item() == pytest.approx(sum(wanted) / 4)


def test_sup_con_ignores_samples_even_as_negatives() -> None:
    rows, labels = draw(6, 3), torch.tensor([0, 0, -100, 1, 1, -100])
    kept = labels != -100
    wanted = sup_con_loss(rows[kept], labels[kept])
    rows[~kept] = math.nan
    rows.requires_grad_()
    found = sup_con_loss(rows, labels)
    found.backward()
    torch.testing.assert_close(found, wanted)
    assert rows.grad.isfinite().all() and not rows.grad[~kept].any()


def test_weights_are_those_of_anchors() -> None:
    rows, labels = draw(5, 3), torch.tensor([0, 0, 1, 1, 2])
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0], dtype=torch.float64)
    values = sup_con_loss(rows, labels, reduction="none")
    wanted = (values * weight)[:4].sum() / weight[:4].sum()
    torch.testing.assert_close(sup_con_loss(rows, labels, weight=weight), wanted)


@pytest.mark.parametrize("loss", TWO_VIEWS)
def test_what_a_mask_leaves_out_is_no_negative_either(loss: Callable[..., Tensor]) -> None:
    one, other = draw(5, 4), draw(5, 4)
    mask = torch.tensor([True, False, True, True, False])
    wanted = loss(one[mask], other[mask])
    torch.testing.assert_close(loss(one, other, mask=mask), wanted)
    one[1], other[4] = math.nan, math.inf
    torch.testing.assert_close(loss(one, other, mask=mask), wanted)
    for gradient in gradients(loss, one, other, mask=mask):
        assert gradient.isfinite().all() and not gradient[~mask].any()


@pytest.mark.parametrize("loss", TWO_VIEWS)
def test_one_sample_that_counts_has_nothing_to_be_told_from(loss: Callable[..., Tensor]) -> None:
    one, other = draw(3, 4), draw(3, 4)
    mask = torch.tensor([False, True, False])
    assert loss(one, other, mask=mask) == 0
    for gradient in gradients(loss, one, other, mask=mask):
        assert not gradient.any()  # nor NaN


@pytest.mark.parametrize("loss", TWO_VIEWS)
def test_a_vector_of_zeros_is_at_right_angles_to_all(loss: Callable[..., Tensor]) -> None:
    one, other = draw(3, 4), draw(3, 4)
    one[0] = 0
    for gradient in gradients(loss, one, other):
        assert gradient.isfinite().all()
    aside = torch.cat((one, one.new_zeros(3, 1)), 1)
    aside[0, 4] = 1
    straight = torch.cat((other, other.new_zeros(3, 1)), 1)
    torch.testing.assert_close(loss(one, other), loss(aside, straight))


@pytest.mark.parametrize("loss", TWO_VIEWS)
@given(factor=st.floats(-30, 30).map(lambda e: 10.0**e))
def test_only_directions_matter(loss: Callable[..., Tensor], factor: float) -> None:
    torch.manual_seed(1)
    one, other = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(loss(one * factor, other), loss(one, other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", TWO_VIEWS)
def test_the_temperature_may_be_learned(loss: Callable[..., Tensor]) -> None:
    one, other = draw(4, 3), draw(4, 3)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = loss(one, other, temperature=temperature)
    torch.testing.assert_close(found, loss(one, other, temperature=0.3))
    assert torch.autograd.gradcheck(lambda t: loss(one, other, temperature=t), temperature)


def test_memory_grows_with_the_square_of_the_batch() -> None:
    """No tensor of the graph holds more than the (2 N, 2 N) similarities."""
    one, other = torch.randn(32, 64, requires_grad=True), torch.randn(32, 64, requires_grad=True)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        nt_xent_loss(one, other)
        sup_con_loss(torch.cat((one, other)), torch.arange(32).repeat(2))
    assert sizes and max(sizes) <= 64 * 64


def test_modules_hold_their_options() -> None:
    one, other = draw(4, 3), draw(4, 3)
    learned = torch.tensor(0.5)
    torch.testing.assert_close(
        NTXentLoss(temperature=learned)(one, other), nt_xent_loss(one, other, temperature=0.5)
    )
    torch.testing.assert_close(
        InfoNCELoss(symmetric=True)(one, other), info_nce_loss(one, other, symmetric=True)
    )


X = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nt_xent_loss(X, X[:3]), ValueError, "`input1` and `input2` must have the same"),
        (lambda: nt_xent_loss(X[0], X[0]), ValueError, r"`input1` must have the shape \(N, D\)"),
        (lambda: nt_xent_loss(X[:, :0], X[:, :0]), ValueError, "vectors of at least one number"),
        (lambda: nt_xent_loss(X.long(), X.long()), TypeError, "`input1` must be a floating-point"),
        (lambda: nt_xent_loss(X, X, temperature=0), ValueError, "`temperature` must be a number"),
        (lambda: nt_xent_loss(X, X, temperature=True), TypeError, "`temperature` must be a number"),
        (lambda: nt_xent_loss(X, X, temperature=math.nan), ValueError, "`temperature`"),
        (lambda: nt_xent_loss(X, X, temperature=torch.ones(4)), ValueError, r"of shape \[\]"),
        (lambda: nt_xent_loss(X, X, temperature=torch.tensor(-1.0)), ValueError, "above 0"),
        (lambda: nt_xent_loss(X, X, temperature=torch.tensor(1)), TypeError, "`temperature`"),
        (lambda: nt_xent_loss(X, X, mask=torch.ones(3, dtype=torch.bool)), ValueError, "`mask`"),
        (lambda: nt_xent_loss(X, X, mask=torch.ones(4)), TypeError, "`mask` must be a bool"),
        (lambda: nt_xent_loss(X, X, weight=torch.ones(8)), ValueError, "`weight` must have"),
        (lambda: nt_xent_loss(X, X.to("meta")), ValueError, "must be on one device"),
        (lambda: info_nce_loss(X, X, symmetric=1), TypeError, "`symmetric` must be True or False"),
        (lambda: info_nce_loss(X, X, X, symmetric=True), ValueError, "`symmetric` must be False"),
        (lambda: info_nce_loss(X, X, X[:, :2]), ValueError, "`negatives` must have the shape"),
        (lambda: info_nce_loss(X, X, X[:3, None]), ValueError, "`negatives` must have the shape"),
        (lambda: info_nce_loss(X, X, X[0]), ValueError, "`negatives` must have the shape"),
        (lambda: info_nce_loss(X, X, [1.0]), TypeError, "`negatives` must be a floating-point"),
        (lambda: decoupled_contrastive_loss(X, X, sigma=0.0), ValueError, "`sigma`"),
        (lambda: decoupled_contrastive_loss(X, X, sigma="0.5"), TypeError, "`sigma`"),
        (lambda: sup_con_loss(X, torch.zeros(3, dtype=int)), ValueError, "one label for each"),
        (lambda: sup_con_loss(X, torch.zeros(4)), TypeError, "`target` must be a tensor of int"),
        (lambda: sup_con_loss(X, torch.zeros(4, 1, dtype=int)), ValueError, "`target` must have"),
        (lambda: sup_con_loss(X[0], torch.tensor(0)), ValueError, "`input` must have the shape"),
        (lambda: sup_con_loss(X, torch.arange(4), ignore_index=1.5), TypeError, "`ignore_index`"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    call: Callable[[], Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_no_label_of_a_small_type_is_taken_for_ignored() -> None:
    input, target = torch.randn(8, 4), torch.tensor([0, 1, 1, 2] * 2)
    found = sup_con_loss(input, (target + 155).to(torch.uint8))  # there, -100 is 156
    torch.testing.assert_close(found, sup_con_loss(input, target))


@pytest.mark.parametrize("shape", [(5, 3), (4, 5, 3)])
def test_queries_and_keys_of_two_dtypes_are_compared_in_the_wider(shape: tuple[int, ...]) -> None:
    query, key = torch.randn(2, 4, 3, dtype=torch.float64)
    query = query.float()
    negatives = torch.randn(shape)
    torch.testing.assert_close(info_nce_loss(query, key), info_nce_loss(query.double(), key))
    torch.testing.assert_close(
        info_nce_loss(query, key, negatives), info_nce_loss(query.double(), key, negatives.double())
    )


def test_a_batch_of_any_size_can_be_exported() -> None:
    class Model(torch.nn.Module):
        def forward(self, input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor:
            return nt_xent_loss(input1, input2)

    size = torch.export.Dim("size", min=2, max=64)
    pair = (torch.randn(8, 4), torch.randn(8, 4))
    exported = torch.export.export(Model(), pair, dynamic_shapes=({0: size}, {0: size})).module()
    larger = (torch.randn(13, 4), torch.randn(13, 4))
    torch.testing.assert_close(exported(*larger), nt_xent_loss(*larger))
