"""Cross entropy, of softmax and of sigmoid, and its polynomial kin."""

from __future__ import annotations

import mpmath
import pytest
import torch
import torch.nn.functional as F

from lossproof.losses.classification import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    binary_cross_entropy_with_logits_loss,
    cross_entropy_loss,
    poly1_cross_entropy_loss,
)
from lossproof.write import sweeping

Tensor = torch.Tensor
NAN = float("nan")
EDGES = (-1e4, -700.0, -88.0, -30.0, -1.0, 0.0, 1e-3, 20.0, 30.0, 88.0, 700.0, 1e4)


def gradient_of(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@pytest.fixture(params=["whole", "in blocks"])
def swept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways of computing a sum: by autograd, and block by block with the written derivative."""
    if request.param == "in blocks":
        monkeypatch.setattr(sweeping, "BLOCK", 8)
    return request.param == "in blocks"


# -- cross entropy -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 6), (2, 3, 4, 5), (5,)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_labels_as_torch(
    shape: tuple[int, ...], smoothing: float, weighted: bool, reduction: str, swept: bool
) -> None:
    axis = min(len(shape) - 1, 1)
    input = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    target = torch.randint(0, shape[axis], shape[:axis] + shape[axis + 1 :])
    if target.numel() > 3:
        target.view(-1)[::3] = -100
    weight = torch.rand(shape[axis], dtype=torch.float64) + 0.2 if weighted else None
    ours = cross_entropy_loss(
        input, target, weight=weight, label_smoothing=smoothing, reduction=reduction
    )
    theirs = F.cross_entropy(
        input, target, weight=weight, label_smoothing=smoothing, reduction=reduction
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        gradient_of(ours.sum(), input), gradient_of(theirs.sum(), input), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_targets_as_torch(smoothing: float, swept: bool) -> None:
    input = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    target = torch.rand(4, 3, 5, dtype=torch.float64).softmax(1).requires_grad_()
    ours = cross_entropy_loss(input, target, label_smoothing=smoothing)
    theirs = F.cross_entropy(input, target, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient_of(ours, input, target), gradient_of(theirs, input, target))


def test_one_hot_target_is_its_label_also_with_weights() -> None:
    input, label = torch.randn(6, 4, 3), torch.randint(0, 4, (6, 3))
    weight = torch.tensor([0.1, 1.0, 2.0, 5.0])
    one_hot = F.one_hot(label, 4).movedim(-1, 1).float()
    torch.testing.assert_close(
        cross_entropy_loss(input, one_hot, weight=weight),
        cross_entropy_loss(input, label, weight=weight),
    )
    assert F.cross_entropy(input, one_hot, weight=weight) != pytest.approx(
        F.cross_entropy(input, label, weight=weight).item(), rel=1e-2
    )  # what the page says of torch


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_at_all_margins(edge: float, dtype: torch.dtype, swept: bool) -> None:
    input = torch.tensor([[edge, 0.0, -1.0]], dtype=dtype).expand(12, 3).clone()
    edge = input[0, 0].item()
    input.requires_grad_()
    loss = cross_entropy_loss(input, torch.zeros(12, dtype=torch.int64), reduction="sum") / 12
    with mpmath.workdps(60):
        others = 1 + mpmath.exp(-1)
        truth = mpmath.log1p(others * mpmath.exp(-mpmath.mpf(edge)))
        share = 1 / (others + mpmath.exp(edge))
        slopes = [-others * share, share, mpmath.exp(-1) * share]
    tiny, near = torch.finfo(dtype).tiny, 8 * torch.finfo(dtype).eps
    assert loss.item() == pytest.approx(float(truth), rel=near * 8, abs=2 * tiny)
    found = gradient_of(loss * 12, input)[0][0].tolist()
    accuracy = near * max(8, abs(edge) if edge > 0 else 0)
    assert found == pytest.approx([float(s) for s in slopes], rel=accuracy, abs=4 * tiny)


def test_nothing_counts(swept: bool) -> None:
    input = torch.full((20, 3), NAN, requires_grad=True)
    loss = cross_entropy_loss(input, torch.full((20,), -100))
    assert loss.item() == 0
    assert gradient_of(loss, input)[0].abs().max() == 0
    for weight in (None, torch.ones(3), torch.zeros(3)):
        empty = cross_entropy_loss(torch.randn(0, 3), torch.zeros(0, dtype=int), weight=weight)
        assert empty.item() == 0
        one_class = cross_entropy_loss(torch.randn(0, 3), torch.zeros(0, 3), weight=weight)
        assert one_class.item() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_ignored_nan_is_not_seen(smoothing: float, weighted: bool, swept: bool) -> None:
    clean, target = torch.randn(12, 3, 2), torch.randint(0, 3, (12, 2))
    target[::2, 0] = 7
    dirty = clean.clone()
    dirty[::2, :, 0] = torch.tensor([NAN, float("inf"), 1.0])
    options = {
        "ignore_index": 7,
        "label_smoothing": smoothing,
        "weight": torch.rand(3) if weighted else None,
    }
    both = []
    for input in (clean, dirty):
        input.requires_grad_()
        loss = cross_entropy_loss(input, target, **options)
        both.append((loss, *gradient_of(loss, input)))
    assert both[0][0] == both[1][0]
    assert torch.equal(both[0][1], both[1][1])
    assert not both[1][1][::2, :, 0].any()


def test_a_single_sample_and_vmap() -> None:
    input, target = torch.randn(6, 4), torch.randint(0, 4, (6,))
    rows = torch.func.vmap(cross_entropy_loss)(input, target)
    torch.testing.assert_close(rows, cross_entropy_loss(input, target, reduction="none"))
    assert cross_entropy_loss(input[0], target[0], reduction="none").shape == ()


def test_impossible_classes_may_have_minus_infinity(swept: bool) -> None:
    input = torch.tensor([[1.0, -float("inf"), 0.0], [-float("inf"), 2.0, -float("inf")]])
    input = input.repeat(8, 1).requires_grad_()
    loss = cross_entropy_loss(input, torch.tensor([0, 1]).repeat(8))
    assert loss.item() == pytest.approx(F.cross_entropy(input[:1], torch.tensor([0])).item() / 2)
    assert torch.isfinite(gradient_of(loss, input)[0]).all()


def test_class_weights_have_a_gradient(swept: bool) -> None:
    weight = torch.rand(3, dtype=torch.float64, requires_grad=True)
    input, target = torch.randn(40, 3, dtype=torch.float64), torch.randint(0, 3, (40,))
    log_p = input.log_softmax(1)
    for smoothing in (0.0, 0.1):
        t = F.one_hot(target, 3) * (1 - smoothing) + smoothing / 3
        plain = -(t * weight * log_p).sum() / weight[target].sum()
        ours = cross_entropy_loss(input, target, weight=weight, label_smoothing=smoothing)
        torch.testing.assert_close(gradient_of(ours, weight), gradient_of(plain, weight))


def test_normalizer_takes_the_place_of_the_count() -> None:
    input, target = torch.randn(6, 4), torch.tensor([0, 1, -100, 3, 2, -100])
    total = cross_entropy_loss(input, target, reduction="sum")
    assert cross_entropy_loss(input, target) == pytest.approx(total.item() / 4)
    assert cross_entropy_loss(input, target, normalizer=8) == pytest.approx(total.item() / 8)
    halves = [cross_entropy_loss(input[i], target[i], normalizer=4) for i in ([0, 1, 2], [3, 4, 5])]
    assert sum(halves) == pytest.approx(total.item() / 4)


@pytest.mark.parametrize(
    ("input", "target", "options", "message"),
    [
        (torch.randn(3, 4), torch.zeros(2, dtype=int), {}, r"`target` must have one label .*\[3\]"),
        (torch.randn(3, 4), torch.zeros(3, 1, dtype=int), {}, "`target`"),
        (torch.randn(3, 4), torch.zeros(3), {}, "`target` must hold integers for labels, or"),
        (torch.randn(3, 4), torch.full((3, 4), 1.5), {}, "`target` must hold numbers from 0 to 1"),
        (torch.randn(3, 4), torch.tensor([0, 4, 1]), {}, "classes from 0 to 3 or ignore_index"),
        (torch.randn(3, 4), torch.tensor([0, -1, 1]), {}, "got -1"),
        (torch.randn(3, 0), torch.zeros(3, dtype=int), {}, "at least one class"),
        (torch.randn(()), torch.zeros((), dtype=int), {}, r"\(C\) or \(N, C, \*\)"),
        (torch.arange(4), torch.tensor(0), {}, "`input` must be a floating-point"),
        (torch.randn(3, 4), [0, 1, 2], {}, "`target` must be a tensor"),
        (torch.randn(3, 4), torch.zeros(3, dtype=int), {"weight": torch.ones(3)}, "`weight`"),
        (torch.randn(3, 4), torch.zeros(3, dtype=int), {"weight": -torch.ones(4)}, "`weight`"),
        (torch.randn(3, 4), torch.zeros(3, dtype=int), {"weight": 2.0}, "`weight`"),
        (torch.randn(3, 4), torch.zeros(3, dtype=int), {"label_smoothing": 1.1}, "`label_smoo"),
        (torch.randn(3, 4), torch.zeros(3, dtype=int), {"label_smoothing": True}, "`label_smoo"),
        (torch.randn(3, 4), torch.zeros(3, dtype=int), {"ignore_index": None}, "`ignore_index`"),
        (torch.randn(3, 4), torch.zeros(3, dtype=int), {"reduction": "avg"}, "`reduction`"),
        (torch.randn(3, 4), torch.zeros(3, dtype=int), {"normalizer": -1}, "`normalizer`"),
    ],
)
def test_wrong_calls(input: Tensor, target: Tensor, options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        cross_entropy_loss(input, target, **options)


def test_module_keeps_class_weights_in_its_state() -> None:
    loss = CrossEntropyLoss(weight=torch.ones(4), label_smoothing=0.1)
    assert list(loss.state_dict()) == ["weight"]
    input, target = torch.randn(3, 4), torch.tensor([0, 1, 2])
    torch.testing.assert_close(
        loss(input, target), F.cross_entropy(input, target, label_smoothing=0.1)
    )


def test_any_integer_is_a_label() -> None:
    input, target = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 255])
    wanted = cross_entropy_loss(input, target, ignore_index=255)
    assert cross_entropy_loss(input, target.to(torch.uint8), ignore_index=255) == wanted
    assert cross_entropy_loss(input, target.to(torch.int32), ignore_index=255) == wanted


def test_value_and_gradient_are_torchs_on_a_large_batch() -> None:
    """Large enough for a sweep without any help."""
    input = torch.randn(4, 8, 128, 128).requires_grad_()
    target = torch.randint(0, 8, (4, 128, 128))
    ours, theirs = cross_entropy_loss(input, target), F.cross_entropy(input, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        gradient_of(ours, input), gradient_of(theirs, input), rtol=1e-5, atol=1e-11
    )


# -- poly-1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, 1.0, 2.5])
def test_poly1_by_its_formula(epsilon: float, swept: bool) -> None:
    input = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 4, (20,))
    soft = torch.rand(20, 4, dtype=torch.float64).softmax(1)
    for target, t in ((label, F.one_hot(label, 4).double()), (soft, soft)):
        p = input.softmax(1)
        plain = (-(t * p.log()).sum(1) + epsilon * (1 - (t * p).sum(1))).mean()
        ours = poly1_cross_entropy_loss(input, target, epsilon=epsilon)
        torch.testing.assert_close(ours, plain)
        torch.testing.assert_close(
            gradient_of(ours, input), gradient_of(plain, input), rtol=1e-9, atol=1e-12
        )


def test_poly1_keeps_small_values() -> None:
    input = torch.tensor([[40.0, 0.0]])
    value = poly1_cross_entropy_loss(input, torch.tensor([0])).item()
    assert value == pytest.approx(2 * float(mpmath.exp(-40)), rel=1e-5)


def test_poly1_refuses_a_negative_weight_on_the_error() -> None:
    with pytest.raises(ValueError, match="`epsilon` must be a number of at least -1"):
        poly1_cross_entropy_loss(torch.randn(2, 3), torch.tensor([0, 1]), epsilon=-1.5)


# -- binary cross entropy ----------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("positive", [None, (), (1,), (4,), (1, 4), (6, 1)])
def test_binary_as_torch(reduction: str, positive: tuple[int, ...] | None, swept: bool) -> None:
    input = (3 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    target = torch.rand(6, 4, dtype=torch.float64).round(decimals=1)
    pos_weight = None if positive is None else torch.rand(positive, dtype=torch.float64) * 3
    ours = binary_cross_entropy_with_logits_loss(
        input, target, pos_weight=pos_weight, reduction=reduction
    )
    theirs = F.binary_cross_entropy_with_logits(
        input, target, pos_weight=pos_weight, reduction=reduction
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        gradient_of(ours.sum(), input), gradient_of(theirs.sum(), input), rtol=1e-9, atol=1e-12
    )


def test_binary_mean_divides_by_the_weights(swept: bool) -> None:
    input, target = torch.randn(6, 4), torch.rand(6, 4)
    weight = torch.rand(6, 1)
    values = binary_cross_entropy_with_logits_loss(input, target, reduction="none")
    torch.testing.assert_close(
        binary_cross_entropy_with_logits_loss(input, target, weight=weight),
        (weight * values).sum() / (4 * weight.sum()),
    )


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_binary_exact_at_all_logits(edge: float, t: float, swept: bool) -> None:
    input = torch.full((40,), edge).requires_grad_()
    x, t = input[0].item(), torch.tensor(t).item()
    loss = binary_cross_entropy_with_logits_loss(input, torch.full((40,), t), reduction="sum")
    with mpmath.workdps(60):
        truth = t * mpmath.log1p(mpmath.exp(-x)) + (1 - t) * mpmath.log1p(mpmath.exp(x))
        p, q = 1 / (1 + mpmath.exp(-x)), 1 / (1 + mpmath.exp(x))
        slope = (1 - t) * p - t * q
    assert loss.item() / 40 == pytest.approx(float(truth), rel=2e-6, abs=1e-37)
    assert gradient_of(loss, input)[0][0].item() == pytest.approx(float(slope), rel=1e-5, abs=1e-37)


def test_binary_smoothing_pulls_the_target_to_one_half(swept: bool) -> None:
    input, target = torch.randn(40), torch.rand(40).round()
    torch.testing.assert_close(
        binary_cross_entropy_with_logits_loss(input, target, label_smoothing=0.2),
        F.binary_cross_entropy_with_logits(input, target * 0.8 + 0.1),
    )


def test_binary_masked_nan_is_not_seen(swept: bool) -> None:
    input, target = torch.randn(40), torch.rand(40)
    mask = torch.arange(40) % 3 > 0
    wanted = F.binary_cross_entropy_with_logits(input[mask], target[mask])
    input[~mask], target[~mask] = NAN, 7.0
    input.requires_grad_()
    loss = binary_cross_entropy_with_logits_loss(input, target, mask=mask)
    torch.testing.assert_close(loss, wanted)
    assert not gradient_of(loss, input)[0][~mask].any()


@pytest.mark.parametrize(
    ("shape", "positive"), [((4, 3), (4,)), ((2, 3, 5), (5,)), ((4, 3), (2, 3)), ((3,), (1, 3))]
)
def test_binary_refuses_a_weight_for_another_axis(
    shape: tuple[int, ...], positive: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="`pos_weight` must hold one number"):
        binary_cross_entropy_with_logits_loss(
            torch.randn(shape), torch.zeros(shape), pos_weight=torch.ones(positive)
        )


def test_binary_refuses_labels_that_are_no_probabilities() -> None:
    with pytest.raises(ValueError, match="`target` must hold numbers from 0 to 1, got -1"):
        binary_cross_entropy_with_logits_loss(torch.randn(2), torch.tensor([-1.0, 1.0]))
    with pytest.raises(TypeError, match="`target` must be a floating-point tensor"):
        binary_cross_entropy_with_logits_loss(torch.randn(2), torch.tensor([0, 1]))


def test_binary_module_keeps_its_weight() -> None:
    loss = BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 3.0]))
    assert list(loss.state_dict()) == ["pos_weight"]
