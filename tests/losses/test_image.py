"""PSNR, total variation, edges and focal frequency beside closed forms and loops in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from lossproof.losses import (
    PSNRLoss,
    edge_loss,
    focal_frequency_loss,
    psnr_loss,
    total_variation_loss,
)

Tensor = torch.Tensor


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- total variation ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 1, 3, 4, 5), (1, 2, 1, 6), (1, 1, 1, 1)])
def test_total_variation_adds_up_the_differences(shape: tuple[int, ...]) -> None:
    x = images(*shape)
    expected = [
        sum(np.abs(np.diff(image.numpy(), axis=axis)).sum() for axis in range(1, image.ndim))
        for image in x
    ]
    found = total_variation_loss(x, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 1, 3, 4, 5)])
def test_isotropic_total_variation_is_the_length_of_the_gradient(shape: tuple[int, ...]) -> None:
    x = images(*shape)
    expected = []
    for image in x.numpy():
        total = 0.0
        for index in np.ndindex(image.shape):
            squares = 0.0
            for axis in range(1, image.ndim):
                after = list(index)
                after[axis] += 1
                if after[axis] < image.shape[axis]:
                    squares += (image[tuple(after)] - image[index]) ** 2
            total += math.sqrt(squares)
        expected.append(total)
    found = total_variation_loss(x, isotropic=True, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("isotropic", [False, True])
def test_a_flat_image_has_a_zero_gradient(isotropic: bool) -> None:
    x = torch.full((2, 1, 4, 4), 0.3, requires_grad=True)
    value = total_variation_loss(x, isotropic=isotropic)
    (gradient,) = torch.autograd.grad(value, x)
    assert value == 0 and not gradient.any()


def test_a_number_of_pixels_makes_a_mean_over_the_pixels() -> None:
    x = images(2, 3, 5, 4)
    found = total_variation_loss(x, normalizer=x.numel())
    torch.testing.assert_close(found, total_variation_loss(x, reduction="sum") / x.numel())


def test_isotropic_total_variation_passes_gradgradcheck() -> None:
    x = images(1, 1, 3, 4).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: total_variation_loss(x, isotropic=True), x)


def test_wrong_calls_of_total_variation_are_named() -> None:
    x = images(2, 3, 5, 4)
    with pytest.raises(TypeError, match="`isotropic` must be True or False, got 1"):
        total_variation_loss(x, isotropic=1)
    with pytest.raises(ValueError, match=r"`input` must have the shape \(N, C, H, W\)"):
        total_variation_loss(x[0])
    with pytest.raises(TypeError, match="`input` must be a floating-point tensor"):
        total_variation_loss(x > 0)
    with pytest.raises(ValueError, match="at least one channel and 1 pixels"):
        total_variation_loss(x[..., :0])


# -- PSNR -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "decibels"), [(0.1, -20.0), (0.01, -40.0), (1e-6, -100.0)])
def test_psnr_of_a_constant_error_is_known(error: float, decibels: float) -> None:
    y = images(2, 3, 4, 4)
    tolerance = 1e-6 if error > 1e-3 else 0.05  # the limit of 100 dB is near
    assert float(psnr_loss(y + error, y)) == pytest.approx(decibels, rel=tolerance)
    assert float(psnr_loss(255 * (y + error), 255 * y, data_range=255)) == pytest.approx(
        decibels, rel=tolerance
    )


def test_each_image_has_its_own_psnr() -> None:
    x, y = images(3, 2, 4, 5), images(3, 2, 4, 5, seed=1)
    expected = [
        10 * math.log10(float(((p - q) ** 2).mean()) / 4) for p, q in zip(x, y, strict=True)
    ]
    found = psnr_loss(x, y, data_range=2.0, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert float(psnr_loss(x, y, data_range=2)) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("eps", [1e-10, 1e-4])
def test_equal_images_stop_at_the_limit(eps: float) -> None:
    x = images(2, 1, 4, 4, dtype=torch.float32).requires_grad_()
    value = psnr_loss(x, x.detach(), eps=eps)
    (gradient,) = torch.autograd.grad(value, x)
    assert value.item() == pytest.approx(10 * math.log10(eps)) and not gradient.any()


def test_the_gradient_of_psnr_is_its_closed_form() -> None:
    x, y = images(1, 2, 4, 5).requires_grad_(), images(1, 2, 4, 5, seed=1)
    (gradient,) = torch.autograd.grad(psnr_loss(x, y, eps=1e-3), x)
    error = x.detach() - y
    expected = 10 / math.log(10) * 2 * error / 40 / ((error**2).mean() + 1e-3)
    torch.testing.assert_close(gradient, expected)


def test_wrong_calls_of_psnr_are_named() -> None:
    x = images(2, 1, 4, 4)
    with pytest.raises(
        ValueError, match="`eps` must be a number of at least 1e-30 and below 1, got 0"
    ):
        psnr_loss(x, x, eps=0)
    with pytest.raises(ValueError, match="`data_range` must be a number above 0"):
        psnr_loss(x, x, data_range=-1.0)
    with pytest.raises(ValueError, match="must have the same shape"):
        psnr_loss(x, x[:, :, :1])
    assert repr(PSNRLoss(eps=1e-8)) == "PSNRLoss(eps=1e-08)"


# -- edges ----------------------------------------------------------------------------------------


def test_edges_are_those_of_scipy() -> None:
    x, y = images(2, 3, 6, 5), images(2, 3, 6, 5, seed=1)
    expected = []
    for image in (x - y).numpy():
        slopes = [
            np.abs(ndimage.sobel(channel, a)[1:-1, 1:-1]) for a in (0, 1) for channel in image
        ]
        expected.append(np.mean(slopes) / 8)
    found = edge_loss(x, y, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_ramp_has_the_slope_it_has() -> None:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    ramp = (3 * rows - 2 * columns).expand(1, 1, 6, 5)
    assert edge_loss(ramp, torch.zeros_like(ramp)) == 2.5  # the mean of 3 and 2


def test_an_inverted_edge_is_another_edge() -> None:
    step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
    assert edge_loss(1 - step, step) == 2 * edge_loss(torch.zeros(1, 1, 4, 4), step)


def test_wrong_calls_of_edge_loss_are_named() -> None:
    x = images(2, 1, 4, 4)
    with pytest.raises(ValueError, match="at least one channel and 3 pixels along each axis"):
        edge_loss(x[..., :2], x[..., :2])
    with pytest.raises(ValueError, match=r"must have the shape \(N, C, H, W\), got \[2, 4, 4\]"):
        edge_loss(x[:, 0], x[:, 0])


# -- focal frequency ------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_focal_frequency_is_its_formula(alpha: float) -> None:
    x, y = images(2, 3, 4, 5), images(2, 3, 4, 5, seed=1)
    expected = []
    for image in (x - y).numpy():
        values = []
        for channel in image:
            size = np.abs(np.fft.fft2(channel)) / math.sqrt(20)
            values.append(np.mean((size / size.max()) ** alpha * size**2))
        expected.append(np.mean(values))
    found = focal_frequency_loss(x, y, alpha=alpha, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_without_focus_it_is_the_mean_squared_error() -> None:
    """Parseval's theorem, for value and gradient."""
    x, y = images(2, 3, 4, 5).requires_grad_(), images(2, 3, 4, 5, seed=1)
    found, expected = focal_frequency_loss(x, y, alpha=0), (x - y).square().mean()
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, x)[0]
    torch.testing.assert_close(torch.autograd.grad(found, x)[0], wanted)


def test_the_weights_are_constants_for_the_gradient() -> None:
    x, y = images(1, 1, 4, 4).requires_grad_(), images(1, 1, 4, 4, seed=1)
    (gradient,) = torch.autograd.grad(focal_frequency_loss(x, y), x)
    spectrum = torch.fft.fft2(x.detach() - y, norm="ortho")
    weight = spectrum.abs() / spectrum.abs().max()
    expected = 2 * torch.fft.ifft2(weight * spectrum, norm="ortho").real / 16
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_equal_images_have_no_frequency_error(alpha: float) -> None:
    x = images(2, 1, 4, 4).requires_grad_()
    value = focal_frequency_loss(x, x.detach(), alpha=alpha)
    (gradient,) = torch.autograd.grad(value, x)
    assert value == 0 and not gradient.any()


def test_wrong_calls_of_focal_frequency_are_named() -> None:
    x = images(2, 1, 4, 4)
    with pytest.raises(ValueError, match="`alpha` must be a number of at least 0, got -1"):
        focal_frequency_loss(x, x, alpha=-1)
    with pytest.raises(ValueError, match=r"must have the shape \(N, C, H, W\)"):
        focal_frequency_loss(x[None], x[None])


@pytest.mark.parametrize("loss", [psnr_loss, edge_loss, focal_frequency_loss])
def test_an_image_that_does_not_count_may_be_nan(loss) -> None:
    x, y = images(3, 2, 4, 5), images(3, 2, 4, 5, seed=1)
    kept = loss(x[1:], y[1:])
    x[0], y[0] = torch.nan, torch.inf
    x.requires_grad_()
    found = loss(x, y, mask=torch.tensor([False, True, True]))
    torch.testing.assert_close(found, kept)
    (gradient,) = torch.autograd.grad(found, x)
    assert not gradient[0].any() and gradient[1:].isfinite().all()
