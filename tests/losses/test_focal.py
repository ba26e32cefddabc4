"""Focal losses: their formulas, their written derivatives, and both ends of the logits."""

from __future__ import annotations

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lossproof.losses.classification import binary_cross_entropy_with_logits_loss
from lossproof.losses.focal import FocalLoss, focal_loss, sigmoid_focal_loss
from lossproof.write import sweeping

Tensor = torch.Tensor
NAN = float("nan")
GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.7)
EDGES = (-1e4, -104.0, -88.0, -30.0, -1.0, 0.0, 1e-3, 17.0, 88.0, 104.0, 1e4)


def gradient_of(loss: Tensor, input: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, input)
    return gradient


def in_graph(name: str, loss: Tensor) -> bool:
    """Whether a node of this name is part of the graph of a loss."""
    nodes = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node.name() == name:
            return True
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
    return False


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors are swept, too, with the written derivative."""
    monkeypatch.setattr(sweeping, "BLOCK", 8)


# -- sigmoid -----------------------------------------------------------------------------------


def sigmoid_formula(x: Tensor, t: Tensor, gamma: float, alpha: float | None) -> Tensor:
    p = torch.sigmoid(x)
    up, down = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    return -up * t * (1 - p) ** gamma * p.log() - down * (1 - t) * p**gamma * (1 - p).log()


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [None, 0.25, 1.0])
def test_sigmoid_by_its_formula(gamma: float, alpha: float | None) -> None:
    input = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    target = torch.rand(6, 4, dtype=torch.float64)
    found = sigmoid_focal_loss(input, target, gamma=gamma, alpha=alpha, reduction="none")
    wanted = sigmoid_formula(input, target, gamma, alpha)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient_of(found.sum(), input), gradient_of(wanted.sum(), input))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [None, 0.25, 0.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("given", ["nothing", "weight", "mask", "both"])
def test_the_written_derivative_of_the_sigmoid(
    gamma: float,
    alpha: float | None,
    smoothing: float,
    given: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    input = 4 * torch.randn(12, 5, dtype=torch.float64)
    input[0] = torch.tensor([0.0, -40.0, 40.0, -800.0, 800.0])
    target = torch.rand(12, 5, dtype=torch.float64)
    target[:6] = target[:6].round()
    options = {"gamma": gamma, "alpha": alpha, "label_smoothing": smoothing}
    if given in {"weight", "both"}:
        options["weight"] = torch.rand(12, 1, dtype=torch.float64)
    if given in {"mask", "both"}:
        options["mask"] = torch.rand(12, 5) < 0.7
    input.requires_grad_()
    plain = sigmoid_focal_loss(input, target, **options)
    wanted = gradient_of(plain, input)
    monkeypatch.setattr(sweeping, "BLOCK", 8)
    found = sigmoid_focal_loss(input, target, **options)
    assert in_graph("_SweptSumBackward", found)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(found, input), wanted, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("blocks", [False, True])
def test_sigmoid_exact_at_all_logits(
    gamma: float, label: float, blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blocks:
        monkeypatch.setattr(sweeping, "BLOCK", 1)
    input = torch.tensor(EDGES, requires_grad=True)
    loss = sigmoid_focal_loss(input, torch.full_like(input, label), gamma=gamma, reduction="sum")
    truth, slopes = 0.0, []
    for x in input.tolist():
        value, slope = sigmoid_truth(x, label, gamma)
        truth += value
        slopes.append(slope)
    assert loss.item() == pytest.approx(truth, rel=1e-6)
    assert gradient_of(loss, input).tolist() == pytest.approx(slopes, rel=1e-4, abs=1e-37)


def sigmoid_truth(x: float, label: float, gamma: float) -> tuple[float, float]:
    """Value and derivative to 60 digits, with alpha = 0.25."""
    with mpmath.workdps(60):
        sign = 1 if label else -1
        miss = 1 / (1 + mpmath.exp(sign * mpmath.mpf(x)))
        hit, cost = 1 - miss, mpmath.log1p(mpmath.exp(-sign * mpmath.mpf(x)))
        factor = mpmath.mpf(1) / 4 if label else mpmath.mpf(3) / 4
        value = factor * miss**gamma * cost
        slope = -sign * factor * miss**gamma * (gamma * hit * cost + miss)
    return float(value), float(slope)


def test_gamma_0_without_alpha_is_binary_cross_entropy() -> None:
    input, target = 5 * torch.randn(50), torch.rand(50)
    torch.testing.assert_close(
        sigmoid_focal_loss(input, target, gamma=0, alpha=None),
        binary_cross_entropy_with_logits_loss(input, target),
    )


def test_a_confident_mistake_keeps_its_gradient() -> None:
    input = torch.tensor([-1000.0], requires_grad=True)
    loss = sigmoid_focal_loss(input, torch.ones(1), alpha=None)
    assert loss.item() == 1000
    assert gradient_of(loss, input).item() == -1


@pytest.mark.usefixtures("in_blocks")
def test_masked_items_may_hold_anything() -> None:
    input, target = torch.randn(64), torch.rand(64).round()
    mask = torch.arange(64) % 2 == 0
    wanted = sigmoid_focal_loss(input[mask], target[mask])
    input[~mask], target[~mask] = NAN, -5.0
    input.requires_grad_()
    loss = sigmoid_focal_loss(input, target, mask=mask)
    torch.testing.assert_close(loss, wanted)
    assert not gradient_of(loss, input)[~mask].any()


def test_retinanet_divides_by_the_number_of_boxes() -> None:
    input, target = torch.randn(30, 4), (torch.rand(30, 4) < 0.1).float()
    boxes = target.sum()
    torch.testing.assert_close(
        sigmoid_focal_loss(input, target, normalizer=boxes),
        sigmoid_focal_loss(input, target, reduction="sum") / boxes,
    )


@given(st.floats(-30, 30), st.floats(0, 1), st.floats(0, 6))
def test_it_falls_towards_the_label_and_is_never_negative(x: float, t: float, gamma: float) -> None:
    input = torch.tensor([x, x + 1.0], dtype=torch.float64)
    for label, order in ((1.0, 1), (0.0, -1)):
        low, high = sigmoid_focal_loss(
            input, torch.full_like(input, label), gamma=gamma, reduction="none"
        ).tolist()
        assert order * (low - high) >= 0
    assert sigmoid_focal_loss(input, torch.full_like(input, t), gamma=gamma).item() >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -1}, "`gamma` must be a number of at least 0"),
        ({"gamma": NAN}, "`gamma`"),
        ({"gamma": "2"}, "`gamma`"),
        ({"gamma": None}, "`gamma`"),
        ({"alpha": 2.0}, "`alpha` must be a number of at least 0 and of at most 1"),
        ({"alpha": -1}, "`alpha`"),
        ({"alpha": True}, "`alpha`"),
        ({"label_smoothing": 2}, "`label_smoothing`"),
        ({"weight": torch.ones(3)}, "`weight`"),
        ({"mask": torch.ones(4, 3)}, "`mask`"),
        ({"reduction": "average"}, "`reduction`"),
    ],
)
def test_wrong_options_of_the_sigmoid(options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        sigmoid_focal_loss(torch.randn(4, 3), torch.zeros(4, 3), **options)


def test_the_target_is_a_probability_of_the_same_shape() -> None:
    with pytest.raises(ValueError, match="same shape"):
        sigmoid_focal_loss(torch.randn(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match="`target` must hold numbers from 0 to 1, got 2"):
        sigmoid_focal_loss(torch.randn(2), torch.tensor([0.0, 2.0]))


# -- softmax -----------------------------------------------------------------------------------


def softmax_formula(x: Tensor, t: Tensor, gamma: float) -> Tensor:
    p = x.softmax(1)
    return -t * (1 - p) ** gamma * p.log()


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("blocks", [False, True])
def test_softmax_by_its_formula(
    gamma: float, smoothing: float, blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blocks:
        monkeypatch.setattr(sweeping, "BLOCK", 8)
    input = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 3, (4, 5))
    soft = torch.rand(4, 3, 5, dtype=torch.float64).softmax(1)
    alpha, weight = torch.rand(2, 3, dtype=torch.float64)
    for target, t in ((label, F.one_hot(label, 3).movedim(-1, 1).double()), (soft, soft)):
        factor = (alpha * weight).view(3, 1)
        smooth = t * (1 - smoothing) + smoothing / 3
        terms = (factor * softmax_formula(input, smooth, gamma)).sum()
        wanted = terms / (t * weight.view(3, 1)).sum()
        found = focal_loss(
            input, target, gamma=gamma, alpha=alpha, weight=weight, label_smoothing=smoothing
        )
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(gradient_of(found, input), gradient_of(wanted, input))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("given", ["nothing", "weight", "alpha", "ignored"])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_written_derivative_of_the_softmax(
    gamma: float, given: str, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    input = 4 * torch.randn(8, classes, 6, dtype=torch.float64)
    input[0] *= 200
    input[1] = 3.0
    target = torch.randint(0, classes, (8, 6))
    options: dict = {"gamma": gamma}
    if given in {"weight", "alpha"}:
        options[given] = torch.rand(classes, dtype=torch.float64)
    if given == "ignored":
        target[torch.rand(target.shape) < 0.3] = -100
        input[2, :, 0], target[2, 0] = NAN, -100
    input.requires_grad_()
    plain = focal_loss(input, target, **options)
    wanted = gradient_of(plain, input)
    monkeypatch.setattr(sweeping, "BLOCK", 8)
    found = focal_loss(input, target, **options)
    assert in_graph("_SweptSumBackward", found)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(gradient_of(found, input), wanted, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("way", ["plain", "blocks", "soft"])
def test_softmax_exact_at_all_margins(
    gamma: float, edge: float, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "blocks":
        monkeypatch.setattr(sweeping, "BLOCK", 1)
    input = torch.tensor([[edge, 0.0, -1.0]]).repeat(2, 1)
    edge = input[0, 0].item()
    target = torch.tensor([0, 0]) if way != "soft" else torch.tensor([[1.0, 0.0, 0.0]] * 2)
    input.requires_grad_()
    loss = focal_loss(input, target, gamma=gamma)
    with mpmath.workdps(60):
        others = 1 + mpmath.exp(-1)
        miss = others / (others + mpmath.exp(edge))
        cost = mpmath.log1p(others * mpmath.exp(-mpmath.mpf(edge)))
        value = miss**gamma * cost
        slope = miss**gamma * (gamma * (1 - miss) * cost + miss)
        slopes = [-slope, slope / others, slope * mpmath.exp(-1) / others]
    assert loss.item() == pytest.approx(float(value), rel=1e-4, abs=1e-36)
    found = (2 * gradient_of(loss, input)[0]).tolist()
    assert found == pytest.approx([float(s) / 1 for s in slopes], rel=2e-4, abs=1e-36)


def test_two_classes_are_a_sigmoid() -> None:
    logit, label = torch.randn(20), torch.randint(0, 2, (20,))
    torch.testing.assert_close(
        focal_loss(torch.stack([torch.zeros(20), logit], 1), label),
        sigmoid_focal_loss(logit, label.float(), alpha=None),
    )


def test_ties_and_equal_logits_have_finite_second_derivatives() -> None:
    input = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    soft = torch.full((3, 4), 0.25, dtype=torch.float64)
    for gamma in (0.5, 2.0):
        for target in (torch.tensor([0, 1, 2]), soft):
            assert torch.autograd.gradcheck(
                lambda x, t=target, g=gamma: focal_loss(x, t, gamma=g), input
            )
            assert torch.autograd.gradgradcheck(
                lambda x, t=target, g=gamma: focal_loss(x, t, gamma=g), input
            )


def test_nothing_counts() -> None:
    input = torch.full((3, 4), NAN, requires_grad=True)
    loss = focal_loss(input, torch.full((3,), -100), gamma=0.5)
    assert loss.item() == 0
    assert not gradient_of(loss, input).any()


def test_alpha_is_not_divided_out_and_weight_is() -> None:
    input, target = torch.randn(9, 3), torch.randint(0, 3, (9,))
    twos = torch.full((3,), 2.0)
    loss = focal_loss(input, target)
    torch.testing.assert_close(focal_loss(input, target, weight=twos), loss)
    torch.testing.assert_close(focal_loss(input, target, alpha=twos), 2 * loss)
    assert list(FocalLoss(alpha=twos).state_dict()) == ["alpha"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -0.1}, "`gamma`"),
        ({"alpha": 0.25}, "`alpha` must be a floating-point tensor"),
        ({"alpha": torch.ones(2)}, "`alpha` must hold one number for each of the 3 classes"),
        ({"weight": torch.ones(3, 1)}, "`weight`"),
        ({"ignore_index": 1.0}, "`ignore_index`"),
    ],
)
def test_wrong_options_of_the_softmax(options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        focal_loss(torch.randn(4, 3), torch.zeros(4, dtype=int), **options)
