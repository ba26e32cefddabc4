"""The ranking losses against loops in float64, and where other libraries go wrong."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.losses import (
    approx_ndcg_loss,
    bpr_loss,
    lambda_rank_loss,
    list_mle_loss,
    list_net_loss,
    margin_ranking_loss,
    pairwise_logistic_loss,
)

LISTWISE = (list_net_loss, list_mle_loss, lambda_rank_loss, approx_ndcg_loss)
OF_LISTS = (pairwise_logistic_loss, *LISTWISE)


def draw(seed, lists=4, length=6, grades=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(lists, length, generator=generator, dtype=dtype) * 2
    relevance = torch.randint(0, grades, (lists, length), generator=generator)
    mask = torch.rand(lists, length, generator=generator) < 0.7
    mask[:, 0] = True
    return scores, relevance, mask


def grad(loss, scores, *args, **options):
    scores = scores.detach().clone().requires_grad_()
    value = loss(scores, *args, **options)
    (gradient,) = torch.autograd.grad(value, scores)
    return value.detach(), gradient


# ------------------------------------------------------------------ loops, item by item
def softplus(x):
    return np.logaddexp(0.0, x)


def pairwise_loop(s, y, sigma=1.0):
    pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if y[i] > y[j]]
    return [softplus(-sigma * (s[i] - s[j])) for i, j in pairs]


def list_net_loop(s, y):
    p, q = np.exp(y) / np.exp(y).sum(), np.exp(s) / np.exp(s).sum()
    return -(p * np.log(q)).sum()


def list_mle_loop(s, y):
    order = sorted(range(len(s)), key=lambda i: -y[i])  # stable
    s = [s[i] for i in order]
    return sum(np.logaddexp.reduce(s[i:]) - s[i] for i in range(len(s)))


def gains_of(y, gain):
    return [2.0**v - 1 if gain == "exponential" else float(v) for v in y]


def ideal_dcg(g, k):
    return sum(v / math.log2(2 + r) for r, v in enumerate(sorted(g, reverse=True)) if r < k)


def ndcg(s, g, k):
    order = sorted(range(len(s)), key=lambda i: -s[i])
    return sum(g[i] / math.log2(2 + r) for r, i in enumerate(order) if r < k) / ideal_dcg(g, k)


def lambda_loop(s, y, sigma=1.0, k=None, gain="exponential"):
    """The change of the NDCG is measured: two items change places, and it is computed again."""
    g, k = gains_of(y, gain), k or len(s)
    if not ideal_dcg(g, k):
        return 0.0
    total = 0.0
    for i, j in itertools.permutations(range(len(s)), 2):
        if y[i] > y[j]:
            swapped = list(s)
            swapped[i], swapped[j] = s[j], s[i]
            change = abs(ndcg(swapped, g, k) - ndcg(s, g, k))
            total += change * softplus(-sigma * (s[i] - s[j]))
    return total


def approx_ndcg_loop(s, y, alpha=10.0, gain="exponential"):
    g = gains_of(y, gain)
    if not sum(g):
        return 0.0
    total = 0.0
    for i in range(len(s)):
        others = [s[j] - s[i] for j in range(len(s)) if j != i]
        rank = 1 + sum(math.exp(-softplus(-alpha * d)) for d in others)
        total += g[i] / math.log2(1 + rank)
    return 1 - total / ideal_dcg(g, len(s))


LOOPS = {
    list_net_loss: (list_net_loop, {}),
    list_mle_loss: (list_mle_loop, {}),
    lambda_rank_loss: (lambda_loop, {"sigma": 0.7, "k": 3}),
    approx_ndcg_loss: (approx_ndcg_loop, {"alpha": 2.0}),
}


@pytest.mark.parametrize("loss", LISTWISE)
@pytest.mark.parametrize("masked", [False, True])
def test_lists_equal_the_loop(loss, masked):
    loop, options = LOOPS[loss]
    for seed in range(6):
        scores, relevance, mask = draw(seed)
        keep = mask if masked else torch.ones_like(mask)
        expected = [
            loop(s[m].numpy(), y[m].numpy(), **options)
            for s, y, m in zip(scores, relevance, keep, strict=True)
        ]
        values = loss(scores, relevance, mask=keep, reduction="none", **options)
        torch.testing.assert_close(values, torch.tensor(np.array(expected)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_pairs_equal_the_loop(masked):
    scores, relevance, mask = draw(3)
    keep = mask if masked else torch.ones_like(mask)
    expected = []
    for s, y, m in zip(scores, relevance, keep, strict=True):
        expected += pairwise_loop(s[m].numpy(), y[m].numpy(), 1.7)
    found = pairwise_logistic_loss(scores, relevance, sigma=1.7, mask=keep)
    assert found.item() == pytest.approx(np.mean(expected))
    total = pairwise_logistic_loss(scores, relevance, sigma=1.7, mask=keep, reduction="sum")
    assert total.item() == pytest.approx(np.sum(expected))


def test_margin_ranking_is_torchs():
    one, other = torch.randn(2, 50, dtype=torch.float64)
    one[:5] = other[:5]  # equal scores are a kink
    sign = torch.randint(0, 2, (50,)) * 2 - 1
    for margin in (0.0, 0.5, -0.2):
        found = grad(margin_ranking_loss, one, other, sign, margin=margin)
        wanted = grad(F.margin_ranking_loss, one, other, sign, margin=margin)
        torch.testing.assert_close(found, wanted)


def test_bpr_is_exact_on_both_sides():
    difference = torch.tensor([-1e4, -104.0, 0.0, 1.0, 50.0])
    _, gradient = grad(bpr_loss, difference, torch.zeros(5), reduction="sum")
    values = bpr_loss(difference, torch.zeros(5), reduction="none")
    for d, v, g in zip(difference.tolist(), values.tolist(), gradient.tolist(), strict=True):
        assert v == pytest.approx(float(mpmath.log1p(mpmath.exp(-d))), rel=1e-6)
        assert g == pytest.approx(float(-1 / (1 + mpmath.exp(d))), rel=1e-6)


@pytest.mark.parametrize("spacing", [1, 10, 30, 1e4])
def test_a_well_ordered_list_costs_next_to_nothing(spacing):
    """A floor inside the logarithm gives 208 instead of 4e-13 at a spacing of 30."""
    scores = torch.tensor([2.0, 1.0, 0.0]) * spacing
    value, gradient = grad(list_mle_loss, scores, torch.tensor([2, 1, 0]))
    exact = float(
        mpmath.log1p(mpmath.exp(-spacing) + mpmath.exp(-2 * spacing))
        + mpmath.log1p(mpmath.exp(-spacing))
    )
    assert value.item() == pytest.approx(exact, rel=1e-6, abs=1e-45)
    assert gradient[0] <= 0 <= gradient[2]


def test_a_reversed_list_costs_its_distance():
    scores = torch.tensor([[0.0, 1e4, 2e4]], requires_grad=True)
    value = list_mle_loss(scores, torch.tensor([[2, 1, 0]]))
    (gradient,) = torch.autograd.grad(value, scores)
    assert value.item() == 3e4
    assert gradient.tolist() == [[-1.0, -1.0, 2.0]]


def test_list_mle_takes_equal_relevance_in_the_order_of_the_list():
    scores = torch.tensor([3.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    tied = list_mle_loss(scores, torch.tensor([1, 0, 1, 0]))
    torch.testing.assert_close(tied, list_mle_loss(scores, torch.tensor([4, 2, 3, 1])))


def test_list_net_is_smallest_at_the_relevances():
    relevance = torch.tensor([[3.0, 0.0, 1.0]], dtype=torch.float64)
    value, gradient = grad(list_net_loss, relevance + 7, relevance)
    p = relevance.softmax(-1)
    torch.testing.assert_close(value, -(p * p.log()).sum())
    assert gradient.abs().max() < 1e-12


def test_list_net_keeps_the_gradient_of_an_item_far_below():
    scores = torch.tensor([[200.0, 0.0]])
    value, gradient = grad(list_net_loss, scores, torch.tensor([[0.0, 1.0]]))
    assert value.item() == pytest.approx(200 * math.exp(1) / (1 + math.exp(1)), rel=1e-6)
    assert gradient[0, 1].item() == pytest.approx(-math.exp(1) / (1 + math.exp(1)), rel=1e-6)


# ------------------------------------------------------------------ NDCG
def test_the_gradient_of_lambda_rank_is_the_papers():
    """lambda_ij = -sigma |delta NDCG| / (1 + exp(sigma (s_i - s_j))), summed over the pairs."""
    scores, relevance, _ = draw(1, lists=1)
    s, y = scores[0].numpy(), relevance[0].numpy()
    g, expected = gains_of(y, "exponential"), np.zeros(len(s))
    for i, j in itertools.permutations(range(len(s)), 2):
        if y[i] > y[j]:
            swapped = s.copy()
            swapped[i], swapped[j] = s[j], s[i]
            change = abs(ndcg(swapped, g, len(s)) - ndcg(s, g, len(s)))
            slope = -2.0 * change / (1 + math.exp(2.0 * (s[i] - s[j])))
            expected[i] += slope
            expected[j] -= slope
    _, gradient = grad(lambda_rank_loss, scores, relevance, sigma=2.0)
    np.testing.assert_allclose(gradient[0].numpy(), expected, rtol=1e-9)


def test_approx_ndcg_tends_to_the_ndcg():
    scores, relevance, _ = draw(5)
    values = approx_ndcg_loss(scores, relevance, alpha=1e5, reduction="none")
    expected = [
        1 - ndcg(s, gains_of(y, "exponential"), len(s))
        for s, y in zip(scores.tolist(), relevance.tolist(), strict=True)
    ]
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-9)


def test_approx_ndcg_near_a_perfect_ranking_is_no_rounding_error():
    """1 - NDCG in float32 would be 0 or 6e-8."""
    scores = torch.tensor([[3.0, 2.0, 0.0]])
    value, gradient = grad(approx_ndcg_loss, scores, torch.tensor([[2, 1, 0]]))
    with mpmath.workdps(40):

        def cost(x):
            s, g = [mpmath.mpf(x), mpmath.mpf(2), mpmath.mpf(0)], [3, 1, 0]
            rank = [
                1 + sum(1 / (1 + mpmath.exp(-10 * (s[j] - s[i]))) for j in range(3) if j != i)
                for i in range(3)
            ]
            ideal = 3 + 1 / mpmath.log(3, 2)
            return 1 - sum(g[i] / mpmath.log(1 + rank[i], 2) for i in range(3)) / ideal

        exact, slope = float(cost(3)), float(mpmath.diff(cost, 3))
    assert 1e-6 < exact < 1e-4
    assert value.item() == pytest.approx(exact, rel=1e-4)
    assert gradient[0, 0].item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("loss", [lambda_rank_loss, approx_ndcg_loss])
def test_linear_gains(loss):
    loop, options = LOOPS[loss]
    scores, relevance, _ = draw(8)
    values = loss(scores, relevance, gain="linear", reduction="none", **options)
    expected = [
        loop(s.numpy(), y.numpy(), gain="linear", **options)
        for s, y in zip(scores, relevance, strict=True)
    ]
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("loss", [lambda_rank_loss, approx_ndcg_loss])
def test_gains_beyond_the_range_of_float32(loss):
    scores = torch.tensor([[0.0, 1.0, 2.0]])
    huge, small = (torch.tensor([[r, r - 1.0, r - 90.0]]) for r in (500.0, 100.0))
    torch.testing.assert_close(loss(scores, huge), loss(scores, small))


@pytest.mark.parametrize("loss", [lambda_rank_loss, approx_ndcg_loss])
def test_a_list_without_a_relevant_item_does_not_count(loss):
    scores, relevance, _ = draw(2, lists=3)
    both = torch.cat([scores, scores[:1]]), torch.cat([relevance, relevance[:1] * 0])
    torch.testing.assert_close(loss(*both), loss(scores, relevance))
    value, gradient = grad(loss, scores, relevance * 0)
    assert value == 0
    assert not gradient.any()


# ------------------------------------------------------------------ what all lists share
@pytest.mark.parametrize("loss", OF_LISTS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), poison=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_padding_is_as_if_it_were_not_there(loss, seed, poison):
    scores, relevance, _ = draw(seed, lists=2)
    wide = torch.cat([scores, torch.full((2, 3), poison, dtype=scores.dtype)], 1)
    target = torch.cat([relevance.double(), torch.full((2, 3), poison, dtype=scores.dtype)], 1)
    mask = torch.arange(9) < 6
    found = grad(loss, wide, target, mask=mask.expand(2, -1))
    wanted = grad(loss, scores, relevance.double())
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1][:, :6], wanted[1])
    assert not found[1][:, 6:].any()


@pytest.mark.parametrize("loss", OF_LISTS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (3, 1), (1,), (0,)])
def test_empty_and_single_lists(loss, shape):
    value, gradient = grad(loss, torch.ones(shape), torch.zeros(shape))
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("loss", OF_LISTS)
def test_one_list_needs_no_batch(loss):
    scores, relevance, _ = draw(4, lists=1)
    torch.testing.assert_close(loss(scores[0], relevance[0]), loss(scores, relevance))


@pytest.mark.parametrize("loss", OF_LISTS)
def test_equal_scores_are_finite(loss):
    value, gradient = grad(loss, torch.zeros(2, 5), torch.tensor([[0, 1, 2, 3, 4]] * 2))
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.any()


@pytest.mark.parametrize("loss", [list_mle_loss, approx_ndcg_loss])
def test_derivatives_with_padding(loss):
    scores, relevance, mask = draw(11, lists=2, length=4)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        check(lambda s: loss(s, relevance, mask=mask), scores.requires_grad_())


WRONG = [
    (pairwise_logistic_loss, {"sigma": 0.0}, "`sigma` must be a number above 0"),
    (lambda_rank_loss, {"k": 0}, "`k` must be an integer of at least 1"),
    (lambda_rank_loss, {"k": True}, "`k` must be an integer"),
    (approx_ndcg_loss, {"gain": "log"}, "`gain` must be one of 'exponential', 'linear'"),
    (approx_ndcg_loss, {"alpha": math.nan}, "`alpha` must be a number above 0"),
    (list_net_loss, {"mask": torch.ones(2, 4)}, "`mask` must be a bool tensor"),
    (list_mle_loss, {"mask": torch.ones(2, dtype=torch.bool)}, "`mask` must have the shape"),
    (list_mle_loss, {"weight": torch.ones(2, 4)}, "`weight` must have the shape"),
]


@pytest.mark.parametrize(("loss", "options", "message"), WRONG)
def test_wrong_options(loss, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        loss(torch.zeros(2, 4), torch.ones(2, 4), **options)


@pytest.mark.parametrize("loss", OF_LISTS)
@pytest.mark.parametrize("relevance", [math.nan, math.inf])
def test_relevance_without_an_order(loss, relevance):
    with pytest.raises(ValueError, match="`target` must hold finite numbers"):
        loss(torch.zeros(1, 2), torch.tensor([[relevance, 1.0]]))


@pytest.mark.parametrize("loss", [lambda_rank_loss, approx_ndcg_loss])
def test_negative_relevance_has_no_gain(loss):
    with pytest.raises(ValueError, match="`target` must hold numbers of at least 0, got -1"):
        loss(torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]]))


def test_signs():
    with pytest.raises(ValueError, match="`target` must hold -1 or 1, got 0"):
        margin_ranking_loss(torch.zeros(2), torch.zeros(2), torch.tensor([1, 0]))


def test_approx_ndcg_of_a_pair_in_the_wrong_order_has_its_small_gradient() -> None:
    target = torch.tensor([[1.0, 0.0]])
    gradients = []
    for dtype in (torch.float32, torch.float64):
        scores = torch.tensor([[0.0, 2.5]], dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(approx_ndcg_loss(scores, target), scores)
        gradients.append(gradient.double())
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=0)
    assert gradients[0].all()
