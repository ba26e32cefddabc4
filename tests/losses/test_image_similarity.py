"""SSIM, MS-SSIM and LNCC beside loops over windows in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.losses import MSSSIMLoss, SSIMLoss, lncc_loss, ms_ssim_loss, ssim_loss

Tensor = torch.Tensor


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def window_of(size: int, sigma: float, axes: int) -> np.ndarray:
    bell = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    window = bell / bell.sum()
    for _ in range(axes - 1):
        window = np.multiply.outer(window, bell / bell.sum())
    return window


def windows(image: np.ndarray, size: int) -> np.ndarray:
    """All patches of one channel, one row each."""
    view = np.lib.stride_tricks.sliding_window_view(image, (size,) * image.ndim)
    return view.reshape(-1, size**image.ndim)


def ssim_factors(x, y, size=11, sigma=1.5, data_range=1.0) -> tuple[np.ndarray, np.ndarray]:
    """Luminance and contrast-structure of one channel by the words of the paper, patch by patch."""
    weights = window_of(size, sigma, x.ndim).ravel()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance, structure = [], []
    for p, q in zip(windows(x, size), windows(y, size), strict=True):
        mp, mq = weights @ p, weights @ q
        vp, vq = weights @ (p - mp) ** 2, weights @ (q - mq) ** 2
        cov = weights @ ((p - mp) * (q - mq))
        luminance.append((2 * mp * mq + c1) / (mp**2 + mq**2 + c1))
        structure.append((2 * cov + c2) / (vp + vq + c2))
    return np.array(luminance), np.array(structure)


def channels(images: Tensor) -> list[list[np.ndarray]]:
    return [[channel.numpy() for channel in image] for image in images]


@pytest.mark.parametrize("shape", [(2, 3, 14, 12), (1, 1, 11, 11), (2, 1, 5, 6, 7)])
def test_ssim_is_the_mean_over_the_patches(shape: tuple[int, ...]) -> None:
    x, y = images(*shape), images(*shape, seed=1)
    size = 11 if len(shape) == 4 else 5
    expected = []
    for image, other in zip(channels(x), channels(y), strict=True):
        maps = [np.prod(ssim_factors(p, q, size), 0) for p, q in zip(image, other, strict=True)]
        expected.append(1 - np.mean(maps))
    found = ssim_loss(x, y, window_size=size, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-10, atol=0)


def test_every_option_of_ssim_is_used() -> None:
    x, y = images(1, 1, 9, 9), images(1, 1, 9, 9, seed=1)
    weights = window_of(5, 0.8, 2).ravel()
    values = []
    for p, q in zip(windows(x[0, 0].numpy(), 5), windows(y[0, 0].numpy(), 5), strict=True):
        mp, mq = weights @ p, weights @ q
        vp, vq = weights @ (p - mp) ** 2, weights @ (q - mq) ** 2
        cov, c1, c2 = weights @ ((p - mp) * (q - mq)), (0.1 * 2) ** 2, (0.2 * 2) ** 2
        values.append((2 * mp * mq + c1) * (2 * cov + c2) / (mp**2 + mq**2 + c1) / (vp + vq + c2))
    found = ssim_loss(x, y, data_range=2, window_size=5, sigma=0.8, k1=0.1, k2=0.2)
    assert float(found) == pytest.approx(1 - np.mean(values), rel=1e-10)


def test_the_gradient_of_ssim_is_that_of_the_published_formula() -> None:
    x, y = images(1, 2, 13, 12).requires_grad_(), images(1, 2, 13, 12, seed=1)
    kernel = torch.tensor(window_of(11, 1.5, 2)).expand(2, 1, 11, 11)

    def mean(z: Tensor) -> Tensor:
        return F.conv2d(z, kernel, groups=2)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    ssim = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / (mx**2 + my**2 + 1e-4) / (vx + vy + 9e-4)
    expected = torch.autograd.grad(1 - ssim.mean(), x)[0]
    found = torch.autograd.grad(ssim_loss(x, y), x)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


def test_ssim_depends_on_the_range_as_on_the_unit() -> None:
    x, y = images(2, 1, 12, 12), images(2, 1, 12, 12, seed=1)
    bytes_ = ssim_loss(255 * x, 255 * y, data_range=255)
    torch.testing.assert_close(bytes_, ssim_loss(x, y))


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("loss", [ssim_loss, lncc_loss])
def test_flat_images_have_a_finite_gradient(loss, level: float) -> None:
    x = torch.full((1, 1, 12, 12), level, requires_grad=True)
    for y in (torch.full((1, 1, 12, 12), level), images(1, 1, 12, 12).float()):
        (gradient,) = torch.autograd.grad(loss(x, y), x)
        assert gradient.isfinite().all()


def test_nearly_equal_images_have_a_relatively_exact_loss() -> None:
    y = images(1, 1, 24, 24, dtype=torch.float32)
    x = y + 1e-4 * (images(1, 1, 24, 24, seed=1, dtype=torch.float32) - 0.5)
    exact = ssim_loss(x.double(), y.double())
    assert 0 < exact < 1e-6
    assert float(ssim_loss(x, y)) == pytest.approx(float(exact), rel=1e-3)
    assert ssim_loss(y, y) == 0


def test_bright_flat_regions_keep_their_precision() -> None:
    y = 1000 + images(1, 1, 24, 24, dtype=torch.float32) / 100
    x = (1000 + images(1, 1, 24, 24, seed=1, dtype=torch.float32) / 100).requires_grad_()
    wide = x.detach().double().requires_grad_()
    exact, found = ssim_loss(wide, y.double()), ssim_loss(x, y)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=0)
    wanted, gradient = torch.autograd.grad(exact, wide)[0], torch.autograd.grad(found, x)[0]
    assert (gradient - wanted).norm() < 1e-3 * wanted.norm()


def test_an_image_that_does_not_count_may_be_nan() -> None:
    x, y = images(3, 2, 12, 12), images(3, 2, 12, 12, seed=1)
    kept = ssim_loss(x[1:], y[1:])
    x[0], y[0] = torch.nan, torch.inf
    x.requires_grad_()
    found = ssim_loss(x, y, mask=torch.tensor([False, True, True]))
    torch.testing.assert_close(found, kept)
    (gradient,) = torch.autograd.grad(found, x)
    assert not gradient[0].any() and gradient[1:].isfinite().all()


def test_weights_count_images() -> None:
    x, y = images(2, 1, 12, 12), images(2, 1, 12, 12, seed=1)
    first, second = ssim_loss(x, y, reduction="none")
    found = ssim_loss(x, y, weight=torch.tensor([3.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(found, (3 * first + second) / 4)


@pytest.mark.parametrize("loss", [ssim_loss, lncc_loss])
def test_a_float64_target_makes_a_float64_loss(loss) -> None:
    x, y = images(1, 1, 12, 12), images(1, 1, 12, 12, seed=1)
    torch.testing.assert_close(loss(x.float(), y), loss(x.float().double(), y))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_ssim_is_symmetric_and_between_0_and_2(seed: int, share: float) -> None:
    x, y = images(1, 1, 12, 11, seed=seed), images(1, 1, 12, 11, seed=seed + 1)
    x = share * x + (1 - share) * y
    value = ssim_loss(x, y)
    assert -1e-12 <= value < 2
    torch.testing.assert_close(value, ssim_loss(y, x))


def halvings(image: Tensor, scales: int) -> list[list[np.ndarray]]:
    """Each channel of an image at several scales: means of four pixels of the one before."""
    found = []
    for channel in image.numpy():
        pyramid = [channel]
        while len(pyramid) < scales:
            rows, columns = pyramid[-1].shape
            pyramid.append(pyramid[-1].reshape(rows // 2, 2, columns // 2, 2).mean((1, 3)))
        found.append(pyramid)
    return found


def test_ms_ssim_is_the_product_over_the_scales() -> None:
    y = images(2, 2, 32, 36)
    x = 0.7 * y + 0.3 * images(2, 2, 32, 36, seed=1)
    betas = (0.2, 0.3, 0.5)
    expected = []
    for image, other in zip(x, y, strict=True):
        products = []
        for p, q in zip(halvings(image, 3), halvings(other, 3), strict=True):
            factors = [ssim_factors(one, two, 7) for one, two in zip(p, q, strict=True)]
            means = [np.mean(structure) for _, structure in factors[:-1]]
            means.append(np.mean(np.prod(factors[-1], 0)))
            products.append(np.prod(np.power(means, betas)))
        expected.append(1 - np.mean(products))
    found = ms_ssim_loss(x, y, window_size=7, betas=betas, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-10, atol=0)


def test_one_scale_is_ssim() -> None:
    y = images(2, 1, 16, 16)
    x = 0.7 * y + 0.3 * images(2, 1, 16, 16, seed=1)
    torch.testing.assert_close(ms_ssim_loss(x, y, betas=[1.0]), ssim_loss(x, y))


def test_the_published_exponents_take_an_image_of_176_pixels() -> None:
    x = images(1, 1, 176, 176)
    assert ms_ssim_loss(x, x) == 0
    with pytest.raises(ValueError, match="176 pixels along each axis"):
        ms_ssim_loss(x[..., 1:], x[..., 1:])


def test_an_inverted_image_still_has_a_gradient() -> None:
    """Where other libraries have the value 1 and a gradient of 0 or NaN."""
    y = images(1, 1, 16, 16)
    x = (1 - y).requires_grad_()
    value = ms_ssim_loss(x, y, window_size=5, betas=(0.4, 0.6))
    (gradient,) = torch.autograd.grad(value, x)
    assert 0.9 < value < 1 and gradient.isfinite().all() and gradient.norm() > 1e-6
    nearer = x.detach() - 0.2 * gradient / gradient.abs().max()
    assert ms_ssim_loss(nearer, y, window_size=5, betas=(0.4, 0.6)) < value


def test_a_similarity_below_eps_is_raised_smoothly() -> None:
    y, x = images(1, 1, 12, 12), images(1, 1, 12, 12, seed=4)
    similarity = 1 - float(ssim_loss(x, y))
    eps = 2 * abs(similarity)
    raised = eps**2 / (2 * eps - similarity)
    assert float(ms_ssim_loss(x, y, betas=(0.5,), eps=eps)) == pytest.approx(1 - raised**0.5)
    for eps in (0.3, 0.01):
        x = (eps * y + (1 - eps) * x.detach()).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x, eps=eps: ms_ssim_loss(x, y, window_size=3, betas=(0.5, 0.5), eps=eps), x
        )


def test_nearly_equal_images_have_a_relatively_exact_ms_ssim() -> None:
    y = images(1, 1, 24, 24, dtype=torch.float32)
    x = y + 1e-4 * (images(1, 1, 24, 24, seed=1, dtype=torch.float32) - 0.5)
    options = {"window_size": 5, "betas": (0.3, 0.7)}
    exact = float(ms_ssim_loss(x.double(), y.double(), **options))
    assert float(ms_ssim_loss(x, y, **options)) == pytest.approx(exact, rel=1e-3)


def test_volumes_have_ms_ssim_too() -> None:
    y = images(1, 1, 8, 8, 8)
    x = 0.7 * y + 0.3 * images(1, 1, 8, 8, 8, seed=1)
    options = {"window_size": 3, "betas": (0.3, 0.7)}
    _, structure = ssim_factors(x[0, 0].numpy(), y[0, 0].numpy(), 3)
    p, q = (F.avg_pool3d(z, 2)[0, 0].numpy() for z in (x, y))
    coarse = np.mean(np.prod(ssim_factors(p, q, 3), 0))
    expected = 1 - np.mean(structure) ** 0.3 * coarse**0.7
    assert float(ms_ssim_loss(x, y, **options)) == pytest.approx(expected, rel=1e-10)


def test_lncc_is_the_squared_correlation_of_each_patch() -> None:
    x, y = images(2, 2, 11, 10), images(2, 2, 11, 10, seed=1)
    expected = []
    for image, other in zip(channels(x), channels(y), strict=True):
        values = [
            np.corrcoef(p, q)[0, 1] ** 2
            for one, two in zip(image, other, strict=True)
            for p, q in zip(windows(one, 5), windows(two, 5), strict=True)
        ]
        expected.append(1 - np.mean(values))
    found = lncc_loss(x, y, window_size=5, eps=1e-14, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-8, atol=0)


def test_lncc_does_not_see_brightness_contrast_or_inversion() -> None:
    x = images(1, 1, 12, 12)
    for other in (3 * x + 7, 1 - x / 2):
        assert lncc_loss(other, x) < 1e-4


def test_lncc_of_flat_squares_is_1_in_any_unit() -> None:
    noise = 1e-6 * images(1, 1, 24, 24, dtype=torch.float32)
    for unit in (1.0, 255.0, 3000.0):
        bright = unit * (0.7 + 0 * noise)
        target = unit * images(1, 1, 24, 24, seed=1, dtype=torch.float32)
        target[..., :12] = unit * 0.9
        value = lncc_loss(bright, target, data_range=unit)
        assert float(value) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data_range": 0}, ValueError, "`data_range` must be a number above 0, got 0"),
        ({"data_range": "1"}, TypeError, "`data_range` must be a number above 0, got '1'"),
        ({"window_size": 4}, ValueError, "`window_size` must be odd, got 4"),
        ({"window_size": 3.0}, TypeError, "`window_size` must be an integer"),
        ({"window_size": 15}, ValueError, "at least one channel and 15 pixels along each axis"),
        ({"sigma": -1.0}, ValueError, "`sigma` must be a number above 0"),
        ({"k1": 0}, ValueError, "`k1` must be a number of at least 1e-06"),
        ({"k2": float("nan")}, ValueError, "`k2` must be a number of at least 1e-06"),
        ({"weight": torch.ones(2, 1)}, ValueError, "`weight` must have the shape of the values"),
        ({"mask": torch.ones(2)}, TypeError, "`mask` must be a bool tensor"),
        ({"mask": torch.ones(3).bool()}, ValueError, "`mask` must have the shape of the values"),
    ],
)
def test_a_wrong_option_of_ssim_is_named(options, error, message: str) -> None:
    x = images(2, 1, 12, 12)
    with pytest.raises(error, match=message):
        ssim_loss(x, x, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"betas": ()}, TypeError, "`betas` must be a tuple or list of numbers"),
        ({"betas": 0.5}, TypeError, "`betas` must be a tuple or list of numbers"),
        ({"betas": (0.5, -0.5)}, ValueError, "`betas` must be a number above 0, got -0.5"),
        ({"eps": 0.0}, ValueError, "`eps` must be a number of at least 1e-06 and below 1"),
        ({"betas": (1.0,), "window_size": 2}, ValueError, "`window_size` must be odd"),
    ],
)
def test_a_wrong_option_of_ms_ssim_is_named(options, error, message: str) -> None:
    x = images(2, 1, 12, 12)
    with pytest.raises(error, match=message):
        ms_ssim_loss(x, x, **options)


def test_images_that_do_not_fit_are_refused() -> None:
    x = images(2, 1, 12, 12)
    for loss in (ssim_loss, lncc_loss):
        with pytest.raises(ValueError, match=r"must have the same shape, got \[2, 1, 12, 12\]"):
            loss(x, x[:1])
        with pytest.raises(ValueError, match=r"must have the shape \(N, C, H, W\)"):
            loss(x[0], x[0])
        with pytest.raises(ValueError, match="at least one channel"):
            loss(x[:, :0], x[:, :0])
        with pytest.raises(TypeError, match="floating-point"):
            loss(x, (255 * x).to(torch.uint8))
    with pytest.raises(ValueError, match="`eps` must be a number of at least 1e-30"):
        lncc_loss(x, x, eps=0)
    with pytest.raises(ValueError, match="`window_size` must be an integer of at least 3"):
        lncc_loss(x, x, window_size=1)


def test_the_modules_show_their_options() -> None:
    assert repr(SSIMLoss(data_range=255.0)) == "SSIMLoss(data_range=255.0)"
    assert repr(MSSSIMLoss(betas=(0.5, 0.5))) == "MSSSIMLoss(betas=(0.5, 0.5))"
