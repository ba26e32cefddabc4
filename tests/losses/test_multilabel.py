"""Losses for any number of labels: asymmetric loss and ZLPR."""

from __future__ import annotations

import mpmath
import pytest
import torch

from lossproof.losses.focal import sigmoid_focal_loss
from lossproof.losses.multilabel import asymmetric_loss, zlpr_loss
from lossproof.write import sweeping

Tensor = torch.Tensor
NAN = float("nan")
EDGES = (-1e4, -104.0, -30.0, -2.5, -1.0, 0.0, 5.0, 17.0, 30.0, 104.0, 1e4)


def gradient_of(loss: Tensor, input: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, input)
    return gradient


# -- asymmetric loss ---------------------------------------------------------------------------


def asymmetric_truth(
    x: float, label: float, gamma_neg: float, gamma_pos: float, clip: float
) -> tuple[float, float]:
    """Value and derivative to 60 digits."""
    with mpmath.workdps(60):
        p, q = 1 / (1 + mpmath.exp(-mpmath.mpf(x))), 1 / (1 + mpmath.exp(mpmath.mpf(x)))
        if label:
            cost = mpmath.log1p(mpmath.exp(-mpmath.mpf(x)))
            slope = -(q**gamma_pos) * (gamma_pos * p * cost + q)
            return float(q**gamma_pos * cost), float(slope)
        m = p - mpmath.mpf(clip)
        if m <= 0:
            return 0.0, 0.0
        left = q + mpmath.mpf(clip)
        cost = -mpmath.log1p(-m) if m < 0.5 else -mpmath.log(left)
        slope = (gamma_neg * m ** (gamma_neg - 1) * cost + m**gamma_neg / left) * p * q
        return float(m**gamma_neg * cost), float(slope)


@pytest.mark.parametrize(
    ("gamma_neg", "gamma_pos"), [(4.0, 1.0), (0.0, 0.0), (0.5, 0.5), (2.0, 3.0), (3.7, 1.5)]
)
@pytest.mark.parametrize("clip", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("blocks", [False, True])
def test_asymmetric_exact_at_all_logits(
    gamma_neg: float,
    gamma_pos: float,
    clip: float,
    label: float,
    blocks: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if blocks:
        monkeypatch.setattr(sweeping, "BLOCK", 1)
    options = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
    for edge in EDGES:
        input = torch.full((4,), edge, requires_grad=True)
        loss = asymmetric_loss(input, torch.full((4,), label), **options)
        value, slope = asymmetric_truth(input[0].item(), label, **options)
        assert loss.item() == pytest.approx(value, rel=5e-5, abs=1e-36)
        found = 4 * gradient_of(loss, input)[0].item()
        assert found == pytest.approx(slope, rel=2e-4, abs=1e-36)


@pytest.mark.parametrize("gamma_neg", [0.0, 0.5, 1.0, 2.0, 3.7, 4.0])
@pytest.mark.parametrize("gamma_pos", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("given", ["nothing", "weight", "mask"])
def test_the_written_derivative(
    gamma_neg: float, gamma_pos: float, clip: float, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    input = 4 * torch.randn(12, 5, dtype=torch.float64)
    input[0] = torch.tensor([0.0, -40.0, 40.0, -800.0, 800.0])
    target = torch.rand(12, 5, dtype=torch.float64)
    target[:6] = target[:6].round()
    options = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
    if given == "weight":
        options["weight"] = torch.rand(12, 1, dtype=torch.float64)
    if given == "mask":
        options["mask"] = torch.rand(12, 5) < 0.7
    input.requires_grad_()
    plain = asymmetric_loss(input, target, **options)
    wanted = gradient_of(plain, input)
    monkeypatch.setattr(sweeping, "BLOCK", 8)
    found = asymmetric_loss(input, target, **options)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(found, input), wanted, rtol=1e-9, atol=1e-300)


def test_without_clip_and_with_one_gamma_it_is_focal() -> None:
    input, target = torch.randn(30), torch.rand(30)
    torch.testing.assert_close(
        asymmetric_loss(input, target, gamma_neg=2, gamma_pos=2, clip=0),
        sigmoid_focal_loss(input, target, alpha=None),
    )


def test_a_missed_label_keeps_its_gradient() -> None:
    input = torch.tensor([-30.0], requires_grad=True)
    loss = asymmetric_loss(input, torch.ones(1))
    assert loss.item() == pytest.approx(30)
    assert gradient_of(loss, input).item() == pytest.approx(-1)


def test_second_derivatives() -> None:
    input = torch.linspace(-6, 6, 9, dtype=torch.float64).requires_grad_()
    target = (torch.arange(9) % 2).double()
    for clip in (0.0, 0.05):
        assert torch.autograd.gradgradcheck(
            lambda x, c=clip: asymmetric_loss(x, target, clip=c, gamma_neg=2.5), input
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 1.0}, "`clip` must be a number of at least 0 and below 1"),
        ({"clip": None}, "`clip`"),
        ({"gamma_neg": -1}, "`gamma_neg`"),
        ({"gamma_pos": NAN}, "`gamma_pos`"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        asymmetric_loss(torch.randn(2, 3), torch.zeros(2, 3), **options)


# -- ZLPR --------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [False, True])
def test_zlpr_by_its_formula(blocks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if blocks:
        monkeypatch.setattr(sweeping, "BLOCK", 8)
    input = torch.randn(6, 5, 3, dtype=torch.float64, requires_grad=True)
    target = torch.rand(6, 5, 3).round().double()
    wanted = torch.log(1 + (target * torch.exp(-input)).sum(1)) + torch.log(
        1 + ((1 - target) * torch.exp(input)).sum(1)
    )
    found = zlpr_loss(input, target)
    torch.testing.assert_close(found, wanted.mean())
    torch.testing.assert_close(gradient_of(found, input), gradient_of(wanted.mean(), input))
    for given in (target.bool(), target.long()):
        assert zlpr_loss(input, given) == found


@pytest.mark.parametrize("x", EDGES)
def test_zlpr_exact_at_all_logits(x: float) -> None:
    input = torch.tensor([[x, 0.0, -1.0, x]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    x = input[0, 0].item()
    with mpmath.workdps(60):
        others = 1 + mpmath.exp(-1) + mpmath.exp(x)
        value = mpmath.log1p(mpmath.exp(-mpmath.mpf(x))) + mpmath.log1p(others)
        slope = mpmath.exp(x) / (1 + others)
    loss = zlpr_loss(input, target)
    assert loss.item() == pytest.approx(float(value), rel=2e-6)
    assert gradient_of(loss, input)[0, 3].item() == pytest.approx(float(slope), rel=1e-4, abs=1e-37)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_zlpr_of_a_perfect_prediction_is_tiny_and_not_0(target: float) -> None:
    input = torch.full((2, 3), 40.0 if target else -40.0)
    value = zlpr_loss(input, torch.full((2, 3), target)).item()
    assert value == pytest.approx(3 * float(mpmath.exp(-40)), rel=1e-5)


def test_zlpr_masked_samples_may_hold_anything() -> None:
    input, target = torch.randn(4, 3), torch.rand(4, 3).round()
    mask = torch.tensor([True, False, True, True])
    wanted = zlpr_loss(input[mask], target[mask])
    input[1], target[1] = NAN, 5.0
    input.requires_grad_()
    loss = zlpr_loss(input, target, mask=mask)
    torch.testing.assert_close(loss, wanted)
    assert not gradient_of(loss, input)[1].any()


@pytest.mark.parametrize(
    ("input", "target", "message"),
    [
        (torch.randn(3, 4), torch.full((3, 4), 0.5), "`target` must hold 0 or 1"),
        (torch.randn(3, 4), torch.zeros(3), "same shape"),
        (torch.randn(4), torch.zeros(4), r"\(N, C, \*\)"),
        (torch.randn(4, 0), torch.zeros(4, 0), "at least one class"),
    ],
)
def test_zlpr_wrong_calls(input: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zlpr_loss(input, target)
