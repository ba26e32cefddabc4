"""CLIP's and SigLIP's losses against sums written out in loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch.nn import functional

from lossproof.losses.contrastive import info_nce_loss
from lossproof.losses.image_text import CLIPLoss, SigLIPLoss, clip_loss, siglip_loss

Tensor = torch.Tensor


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def logits_of(image: Tensor, text: Tensor) -> Tensor:
    return functional.normalize(image, dim=1) @ functional.normalize(text, dim=1).T


def test_clip_is_the_cross_entropy_both_ways() -> None:
    image, text = draw(5, 4), draw(5, 4)
    logits, right = 20 * logits_of(image, text), torch.arange(5)
    each = [functional.cross_entropy(m, right, reduction="none") for m in (logits, logits.T)]
    found = clip_loss(image, text, 20.0, reduction="none")
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)


def test_clip_begins_as_a_symmetric_info_nce() -> None:
    image, text = draw(5, 4), draw(5, 4)
    torch.testing.assert_close(clip_loss(image, text), info_nce_loss(image, text, symmetric=True))


def test_clip_takes_logits() -> None:
    image, text = draw(5, 4), draw(5, 4)
    torch.testing.assert_close(clip_loss(7 * logits_of(image, text)), clip_loss(image, text, 7.0))
    assert torch.autograd.gradcheck(clip_loss, draw(4, 4).requires_grad_())


def test_clip_of_no_logits() -> None:
    mask = torch.zeros(0, dtype=torch.bool)
    assert clip_loss(torch.zeros(0, 0), mask=mask).item() == 0


def test_clip_of_masked_logits() -> None:
    logits, mask = draw(4, 4), torch.tensor([True, True, False, True])
    wanted = clip_loss(logits[mask][:, mask])
    logits[2], logits[:, 2] = math.nan, math.inf
    logits.requires_grad_()
    found = clip_loss(logits, mask=mask)
    found.backward()
    torch.testing.assert_close(found, wanted)
    assert logits.grad.isfinite().all() and not logits.grad[2].any()


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_clip_stands_logits_of_any_size(size: float) -> None:
    logits = torch.full((3, 3), -size)
    logits.fill_diagonal_(size)
    assert clip_loss(logits) == 0
    wrong = (-logits).requires_grad_()
    loss = clip_loss(wrong)
    loss.backward()
    assert loss.item() == pytest.approx(2 * size + math.log(2))
    assert wrong.grad.diagonal().tolist() == pytest.approx([-1 / 3] * 3)


def test_a_confident_clip_keeps_its_digits() -> None:
    logits = torch.full((3, 3), -20.0)
    logits.fill_diagonal_(20.0)
    assert clip_loss(logits).item() == pytest.approx(2 * math.exp(-40), rel=1e-5)


def naive_siglip(image: Tensor, text: Tensor, scale: float, bias: float) -> list[float]:
    cosines = logits_of(image, text)
    with mpmath.workdps(50):
        return [
            float(
                sum(
                    mpmath.log1p(
                        mpmath.exp((-1 if i == j else 1) * (scale * float(cosines[i, j]) + bias))
                    )
                    for j in range(len(text))
                )
            )
            for i in range(len(image))
        ]


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, 0.0), (1e4, -3.0)])
def test_siglip_asks_of_each_pair_whether_it_belongs_together(scale: float, bias: float) -> None:
    image, text = draw(4, 3), draw(4, 3)
    found = siglip_loss(image, text, scale, bias, reduction="none")
    wanted = torch.tensor(naive_siglip(image, text, scale, bias), dtype=torch.float64)
    torch.testing.assert_close(found, wanted)


def test_siglip_leaves_masked_pairs_out_of_the_sum() -> None:
    image, text = draw(4, 3), draw(4, 3)
    mask = torch.tensor([True, False, True, True])
    wanted = siglip_loss(image[mask], text[mask])
    image[1], text[1] = math.nan, math.inf
    image.requires_grad_()
    found = siglip_loss(image, text, mask=mask)
    found.backward()
    torch.testing.assert_close(found, wanted)
    assert image.grad.isfinite().all() and not image.grad[1].any()


def test_scale_and_bias_may_be_learned() -> None:
    image, text = draw(4, 3), draw(4, 3)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: clip_loss(image, text, t), scale)
    assert torch.autograd.gradcheck(lambda *p: siglip_loss(image, text, *p), (scale, bias))
    loss = SigLIPLoss()(image, text, scale, bias)
    torch.testing.assert_close(loss, siglip_loss(image, text, 3.0, -2.0))
    torch.testing.assert_close(CLIPLoss()(image, text, scale), clip_loss(image, text, 3.0))


@pytest.mark.parametrize("loss", [clip_loss, siglip_loss])
def test_a_vector_of_zeros_has_a_finite_gradient(loss: Callable[..., Tensor]) -> None:
    image = torch.zeros(3, 4, requires_grad=True)
    loss(image, torch.randn(3, 4)).backward()
    assert image.grad.isfinite().all()


X = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: clip_loss(X), ValueError, r"`image` must have the shape \(N, N\)"),
        (lambda: clip_loss(X @ X.T, logit_scale=2.0), ValueError, "`logit_scale` must be None"),
        (lambda: clip_loss(X, X[:2]), ValueError, "`image` and `text` must have the same shape"),
        (lambda: clip_loss(X, X, 0.0), ValueError, "`logit_scale` must be a number above 0"),
        (lambda: clip_loss(X, X, torch.ones(1)), ValueError, r"`logit_scale` .* of shape \[\]"),
        (lambda: clip_loss(X, X, "10"), TypeError, "`logit_scale`"),
        (lambda: siglip_loss(X, X, -1.0), ValueError, "`logit_scale`"),
        (lambda: siglip_loss(X, X, 1.0, math.inf), ValueError, "`logit_bias` must be a finite"),
        (lambda: siglip_loss(X, None), TypeError, "`text` must be a floating-point tensor"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    call: Callable[[], Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("loss", [clip_loss, siglip_loss])
def test_embeddings_of_two_dtypes_are_compared_in_the_wider(loss: Callable[..., Tensor]) -> None:
    image, text = torch.randn(2, 5, 3, dtype=torch.float64)
    wanted = loss(image.float().double(), text)
    torch.testing.assert_close(loss(image.float(), text), wanted)
    torch.testing.assert_close(loss(text, image.float()), wanted)
