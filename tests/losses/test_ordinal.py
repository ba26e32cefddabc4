"""The ordinal losses against sums over thresholds in float64 and in mpmath."""

import math

import mpmath
import numpy as np
import pytest
import torch

from lossproof.losses import coral_loss, corn_loss, cumulative_link_loss, emd2_loss

CLASSES = 5
CUTPOINTS = torch.tensor([-2.0, -0.5, -0.4, 3.0])


def draw(seed=0, n=12, width=CLASSES - 1):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, width, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(0, CLASSES, (n,), generator=generator)


def grad(loss, input, *args, **options):
    input = input.detach().clone().requires_grad_()
    value = loss(input, *args, **options)
    (gradient,) = torch.autograd.grad(value, input)
    return value.detach(), gradient


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cross_entropy(x, above):
    return -np.log(sigmoid(x) if above else sigmoid(-x))


def ordinal_call(loss):
    """The loss as a function of logits and classes alone, and inputs for it."""
    if loss is cumulative_link_loss:
        logits, target = draw()
        return lambda x, y, **o: loss(x, y, cutpoints=CUTPOINTS, **o), logits[:, 0], target
    width = CLASSES if loss is emd2_loss else CLASSES - 1
    return loss, *draw(width=width)


ALL = (coral_loss, corn_loss, cumulative_link_loss, emd2_loss)


def test_coral_equals_the_sum_over_thresholds():
    logits, target = draw()
    importance = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
    values = coral_loss(logits, target, importance=importance, reduction="none")
    for x, y, v in zip(logits.numpy(), target.tolist(), values.tolist(), strict=True):
        terms = [w * cross_entropy(x[k], y > k) for k, w in enumerate(importance.tolist())]
        assert v == pytest.approx(sum(terms))


def test_corn_asks_the_items_above_the_threshold_before():
    logits, target = draw(1)
    tasks = [
        cross_entropy(x[k], y > k)
        for x, y in zip(logits.numpy(), target.tolist(), strict=True)
        for k in range(CLASSES - 1)
        if y > k - 1
    ]
    assert corn_loss(logits, target).item() == pytest.approx(np.mean(tasks))
    assert corn_loss(logits, target, reduction="sum").item() == pytest.approx(np.sum(tasks))


def test_corn_is_the_likelihood_of_its_probabilities():
    logits = torch.randn(1, CLASSES - 1, dtype=torch.float64).expand(CLASSES, -1)
    values = corn_loss(logits, torch.arange(CLASSES), reduction="none").sum(-1)
    above = torch.cat([torch.ones(1), logits[0].sigmoid().cumprod(0), torch.zeros(1)])
    torch.testing.assert_close(torch.exp(-values), above[:-1] - above[1:])


def test_what_corn_does_not_ask_may_be_anything():
    logits = torch.tensor([[1.0, math.nan, math.inf], [1.0, 2.0, math.nan]])
    value, gradient = grad(corn_loss, logits, torch.tensor([0, 1]))
    assert torch.isfinite(value)
    assert not gradient[0, 1:].any()


@pytest.mark.parametrize("loss", [coral_loss, corn_loss])
def test_confident_mistakes_keep_their_gradient(loss):
    logits = torch.tensor([[1e4, 1e4], [-1e4, -1e4]])
    value, gradient = grad(loss, logits, torch.tensor([0, 2]), reduction="sum")
    torch.testing.assert_close(value, torch.tensor(3e4 if loss is corn_loss else 4e4))
    asked = 0.0 if loss is corn_loss else 1.0
    assert gradient.tolist() == [[1.0, asked], [-1.0, -1.0]]


# ------------------------------------------------------------------ cumulative link
@pytest.mark.parametrize("score", [-1e4, -30.0, -0.45, 0.3, 30.0, 1e4])
def test_cumulative_link_is_exact(score):
    points = [-mpmath.inf, *(mpmath.mpf(c) for c in CUTPOINTS.tolist()), mpmath.inf]
    x = torch.full((CLASSES,), score, requires_grad=True)
    values = cumulative_link_loss(x, torch.arange(CLASSES), cutpoints=CUTPOINTS, reduction="none")
    (gradient,) = torch.autograd.grad(values.sum(), x)
    with mpmath.workdps(60 + int(abs(score)) // 2):

        def below(c, s):
            return mpmath.mpf(c == mpmath.inf) if mpmath.isinf(c) else 1 / (1 + mpmath.exp(s - c))

        for y in range(CLASSES):
            s = x[y].item()
            low, high = below(points[y], s), below(points[y + 1], s)
            assert values[y].item() == pytest.approx(float(-mpmath.log(high - low)), rel=2e-6)
            # d/dx of the sigmoid of c - x is -s (1 - s)
            slope = (high * (1 - high) - low * (1 - low)) / (high - low)
            assert gradient[y].item() == pytest.approx(float(slope), rel=1e-5, abs=1e-7)


def test_cutpoints_have_a_gradient():
    scores, target = torch.randn(9, dtype=torch.float64), torch.arange(9) % 4
    cutpoints = torch.tensor([-1.0, -0.9, 8.0], dtype=torch.float64, requires_grad=True)

    def loss(c):
        return cumulative_link_loss(scores, target, cutpoints=c)

    assert torch.autograd.gradcheck(loss, cutpoints)
    assert torch.autograd.gradgradcheck(loss, cutpoints)


def test_two_classes_are_logistic_regression():
    scores = torch.randn(6, dtype=torch.float64)
    target = torch.tensor([0, 1, 0, 1, 1, 0])
    found = cumulative_link_loss(scores, target, cutpoints=torch.zeros(1))
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(scores, target.double())
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("cutpoints", [[0.0, 0.0], [1.0, -1.0], [], [0.0, math.nan]])
def test_cutpoints_have_to_rise(cutpoints):
    with pytest.raises(ValueError, match="`cutpoints"):
        cumulative_link_loss(
            torch.zeros(2), torch.tensor([0, 1]), cutpoints=torch.tensor(cutpoints)
        )


# ------------------------------------------------------------------ squared earth mover's distance
def test_emd2_equals_the_distance_of_the_distributions():
    logits, target = draw(2, width=CLASSES)
    values = emd2_loss(logits, target, reduction="none")
    for x, y, v in zip(logits.numpy(), target.tolist(), values.tolist(), strict=True):
        p = np.exp(x) / np.exp(x).sum()
        steps = np.cumsum(p) - (np.arange(CLASSES) >= y)
        assert v == pytest.approx((steps**2).sum())


def test_emd2_takes_probabilities():
    logits, target = draw(2, width=CLASSES)
    onehot = torch.nn.functional.one_hot(target, CLASSES).double()
    torch.testing.assert_close(emd2_loss(logits, onehot), emd2_loss(logits, target))
    soft = torch.softmax(torch.randn(12, CLASSES, dtype=torch.float64), 1)
    wanted = (logits.softmax(1) - soft).cumsum(1).square().sum(1).mean()
    torch.testing.assert_close(emd2_loss(logits, soft), wanted)
    value, gradient = grad(emd2_loss, soft.log(), soft)
    assert value < 1e-20
    assert gradient.abs().max() < 1e-10


@pytest.mark.parametrize("margin", [1.0, 30.0, 60.0])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_emd2_is_exact_where_the_softmax_is_saturated(margin, label):
    logits = torch.tensor([[0.0, margin, 2 * margin]])
    value, gradient = grad(emd2_loss, logits, torch.tensor([label]))
    with mpmath.workdps(80):

        def cost(*x):
            h = [mpmath.exp(v) for v in x]
            below = [h[0] / sum(h), (h[0] + h[1]) / sum(h)]
            return sum((b - (k >= label)) ** 2 for k, b in enumerate(below))

        point = logits[0].tolist()
        slopes = [
            float(mpmath.diff(cost, point, [int(i == k) for i in range(3)])) for k in range(3)
        ]
        assert value.item() == pytest.approx(float(cost(*point)), rel=1e-5)
    np.testing.assert_allclose(gradient[0].numpy(), slopes, rtol=1e-5, atol=1e-44)


def test_class_weights_need_classes():
    with pytest.raises(ValueError, match="`weight` is of classes"):
        emd2_loss(torch.zeros(2, 3), torch.ones(2, 3) / 3, weight=torch.ones(3))


# ------------------------------------------------------------------ what all of them share
@pytest.mark.parametrize("loss", ALL)
def test_class_weights_are_those_of_cross_entropy(loss):
    call, logits, target = ordinal_call(loss)
    weight = torch.rand(CLASSES, dtype=torch.float64) + 0.1
    values = call(logits, target, reduction="none")
    factor = weight[target].reshape(-1, *[1] * (values.ndim - 1))
    counted = torch.where(values != 0, factor, 0.0).sum()
    found = call(logits, target, weight=weight)
    torch.testing.assert_close(found, (values * factor).sum() / counted)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("ignored", [-100, 250])
def test_ignored_items(loss, ignored):
    call, logits, target = ordinal_call(loss)
    hidden = torch.arange(12) % 3 == 0
    spoiled = logits.clone()
    spoiled[hidden] = math.nan
    labels = torch.where(hidden, ignored, target)
    value, gradient = grad(call, spoiled, labels, ignore_index=ignored)
    wanted = grad(call, logits[~hidden], target[~hidden])
    torch.testing.assert_close((value, gradient[~hidden]), wanted)
    assert not gradient[hidden].any()


@pytest.mark.parametrize("loss", ALL)
def test_one_item_needs_no_batch(loss):
    call, logits, target = ordinal_call(loss)
    torch.testing.assert_close(call(logits[0], target[0]), call(logits[:1], target[:1]))


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y + 1), f"`target` must hold classes from 0 to {CLASSES - 1} or"),
        (lambda x, y: (x, y.float()[:, None, None]), "`target`"),
        (lambda x, y: (x, y[:, None]), "`target`"),
        (lambda x, y: (x[:-1], y), "`target`"),
        (lambda x, y: (x.long(), y), "`input` must be a floating-point tensor"),
    ],
)
def test_wrong_calls(loss, change, message):
    call, logits, target = ordinal_call(loss)
    target[0] = CLASSES - 1
    with pytest.raises((ValueError, TypeError), match=message):
        call(*change(logits, target))


@pytest.mark.parametrize(("loss", "option"), [(coral_loss, "importance"), (corn_loss, "weight")])
def test_factors_of_the_wrong_length(loss, option):
    logits, target = draw()
    with pytest.raises(ValueError, match=f"`{option}` must have the shape"):
        loss(logits, target, **{option: torch.ones(7)})
