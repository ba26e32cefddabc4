"""Losses of structural similarity between images: windows of pixels are compared, not pixels.

As in :mod:`lossproof.losses.image`, an image is one item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from lossproof.losses.catalogue import loss
from lossproof.losses.image import counting, image_means, image_pair, spatial_axes
from lossproof.write.arguments import integer, number
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


def _gaussian(size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Samples of a bell curve that add up to 1."""
    distance = torch.arange(size, dtype=dtype, device=device) - size // 2
    bell = torch.exp(-(distance / sigma).square() / 2)
    return bell / bell.sum()


def _filtered(images: Tensor, window: Tensor) -> Tensor:
    """Weighted means over a window that is a product of one window for each axis; no padding."""
    convolve = F.conv2d if images.ndim == 4 else F.conv3d
    channels = images.shape[1]
    for axis in spatial_axes(images):
        shape = [1] * images.ndim
        shape[axis] = -1
        kernel = window.reshape(shape).expand(channels, *[-1] * (images.ndim - 1))
        images = convolve(images, kernel, groups=channels)
    return images


def _offset(images: Tensor) -> Tensor:
    """The mean of each channel; taken off first, E[x^2] - E[x]^2 is the same and cancels less."""
    return images.detach().mean(spatial_axes(images), keepdim=True)


def _moments(images: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the variance in the window around each pixel."""
    offset = _offset(images)
    images = images - offset
    means, squares = _filtered(torch.cat([images, images.square()], 1), window).chunk(2, 1)
    return means + offset, (squares - means.square()).clamp(min=0)


def _dissimilarities(
    input: Tensor, target: Tensor, window: Tensor, c1: float, c2: float
) -> tuple[Tensor, Tensor]:
    """1 minus the two factors of SSIM, luminance and contrast with structure, at each pixel.

    From the error and the sum of both images, not from each image: two images that are nearly
    alike have then an exact loss, and not the difference of two numbers near 1.
    """
    means, variances = _moments(torch.cat([input - target, input + target], 1), window)
    of_error, of_sum = means.square().chunk(2, 1)
    luminance = of_error / ((of_error + of_sum) / 2 + c1)
    of_error, of_sum = variances.chunk(2, 1)
    structure = of_error / ((of_error + of_sum) / 2 + c2)
    return luminance, structure


def _common_dtype(input: Tensor, target: Tensor) -> torch.dtype:
    return torch.promote_types(input.dtype, target.dtype)


def _constants(data_range: float, k1: float, k2: float) -> tuple[float, float]:
    """The stabilisers of SSIM."""
    number("data_range", data_range, above=0)
    number("k1", k1, minimum=1e-6)
    number("k2", k2, minimum=1e-6)
    c1, c2 = k1 * data_range, k2 * data_range
    return c1 * c1, c2 * c2


def _odd(name: str, size: int, minimum: int = 1) -> None:
    integer(name, size, minimum=minimum)
    if size % 2 == 0:
        raise ValueError(f"`{name}` must be odd, got {size}")


@loss(
    inputs="input unit[2,2,12,13]; target unit[2,2,12,13]",
    module="SSIMLoss",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("structural similarity", "dssim"),
    peers={
        "pytorch-msssim": "the same function for `data_range=1`; its default is 255",
        "monai": "the same function",
        "piq": "the same function with `downsample=False`; its default shrinks images from 384 "
        "pixels on",
        "kornia": "(1 - SSIM) / 2 at each pixel, with the border reflected",
        "torchmetrics": "the SSIM itself, with the border reflected",
    },
)
def ssim_loss(
    input: Tensor,
    target: Tensor,
    *,
    data_range: float = 1.0,
    window_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""SSIM loss: 1 minus the structural similarity of two images.

    .. math::
        v = 1 - \operatorname{mean} \left[
        \frac{2 \mu_x \mu_y + c_1}{\mu_x^2 + \mu_y^2 + c_1} \cdot
        \frac{2 \sigma_{xy} + c_2}{\sigma_x^2 + \sigma_y^2 + c_2} \right],
        \qquad c_i = (k_i L)^2

    Means, variances and covariance are those in a Gaussian window around each pixel; the mean is
    over the channels and the windows that lie inside the image. It is computed from
    :math:`x - y` and :math:`x + y`, so that nearly equal images have an exact loss.

    Args:
        input: predictions :math:`x`, (N, C, H, W) or (N, C, D, H, W), floating point.
        target: targets :math:`y`, the shape of ``input``.
        data_range: the difference :math:`L` between the largest and the smallest value that a pixel
            can have: 1 for images in [0, 1], 2 for [-1, 1], 255 for bytes.
        window_size: pixels of the window along each axis, odd.
        sigma: standard deviation of the window, in pixels.
        k1: stabiliser of the luminance, at least 1e-6.
        k2: stabiliser of the contrast, at least 1e-6.
        weight: how much each image counts, (N,).
        mask: which images count, bool, (N,). What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of images that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(N, C, D, H, W)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, an image is smaller than the window, or an option is out of
            its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import ssim_loss
        >>> target = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
        >>> ssim_loss(target, target)
        tensor(0.)
        >>> ssim_loss(target + 0.1, target)
        tensor(0.0184)
        >>> ssim_loss(1 - target, target)
        tensor(1.8262)

    Source:
        Wang, Bovik, Sheikh and Simoncelli (2004), Image quality assessment: from error visibility
        to structural similarity.
    """
    constants = _constants(data_range, k1, k2)
    _odd("window_size", window_size)
    number("sigma", sigma, above=0)
    image_pair(input, target, smallest=window_size)
    input, target = counting(mask, input, target)
    window = _gaussian(window_size, sigma, _common_dtype(input, target), input.device)
    luminance, structure = _dissimilarities(input, target, window, *constants)
    values = image_means(luminance + structure - luminance * structure)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


SSIMLoss = as_module(ssim_loss, name="SSIMLoss")


@loss(
    inputs="input unit[2,2,9,8]; target unit[2,2,9,8]",
    options={"window_size": 3, "betas": (0.4, 0.6)},
    module="MSSSIMLoss",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("multi-scale structural similarity", "msssim"),
    peers={
        "pytorch-msssim, piq": "the same function for similarities above `eps`; a negative one "
        "counts as 0, with a gradient of NaN; an odd image is padded before it is halved",
        "torchmetrics": "the same for one channel and similarities above `eps`; channels are "
        "averaged at each scale, and the border is reflected at the coarsest",
        "kornia": "another loss: it stacks the scales with windows of several sigmas and adds L1",
    },
)
def ms_ssim_loss(
    input: Tensor,
    target: Tensor,
    *,
    data_range: float = 1.0,
    window_size: int = 11,
    sigma: float = 1.5,
    betas: Sequence[float] = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333),
    eps: float = 0.01,
    k1: float = 0.01,
    k2: float = 0.03,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Multi-scale SSIM loss: 1 minus the similarity of structure over several resolutions.

    .. math::
        v = 1 - \frac{1}{C} \sum_c
        \operatorname{SSIM}_{cM}^{\beta_M} \prod_{j=1}^{M-1} \operatorname{cs}_{cj}^{\beta_j}

    :math:`\operatorname{cs}_{cj}` is the mean over channel c of the second factor of SSIM (contrast
    and structure) after j - 1 halvings; the coarsest scale has the whole SSIM. The paper has no
    value where a similarity s is negative, and its slope is infinite at 0: below
    :math:`\varepsilon` it becomes :math:`\varepsilon^2 / (2 \varepsilon - s)`, of the same value
    and slope there, so that the gradient is bounded and never dies.

    Args:
        input: predictions, (N, C, H, W) or (N, C, D, H, W), floating point.
        target: targets, the shape of ``input``.
        data_range: the difference between the largest and the smallest value that a pixel can
            have: 1 for images in [0, 1], 2 for [-1, 1], 255 for bytes.
        window_size: pixels of the Gaussian window along each axis, odd.
        sigma: standard deviation of the window, in pixels.
        betas: the exponents :math:`\beta_j` from the finest to the coarsest scale, which also say
            how many scales there are.
        eps: the similarity :math:`\varepsilon` down to which the published formula holds, from
            1e-6 to 1.
        k1: stabiliser of the luminance, at least 1e-6.
        k2: stabiliser of the contrast, at least 1e-6.
        weight: how much each image counts, (N,).
        mask: which images count, bool, (N,). What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of images that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(N, C, D, H, W)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point, or an exponent is no number.
        ValueError: the shapes differ, an image is smaller than the window at the coarsest scale
            (176 pixels by default), or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import ms_ssim_loss
        >>> target = torch.linspace(0, 1, 192 * 192).reshape(1, 1, 192, 192)
        >>> ms_ssim_loss(target, target)
        tensor(0.)
        >>> ms_ssim_loss(target.sqrt(), target)
        tensor(0.0476)

    Source:
        Wang, Simoncelli and Bovik (2003), Multiscale structural similarity for image quality
        assessment.
    """
    constants = _constants(data_range, k1, k2)
    _odd("window_size", window_size)
    number("sigma", sigma, above=0)
    number("eps", eps, minimum=1e-6, below=1)
    exponents = _exponents(betas)
    image_pair(input, target, smallest=window_size << (len(exponents) - 1))
    input, target = counting(mask, input, target)
    window = _gaussian(window_size, sigma, _common_dtype(input, target), input.device)
    half = F.avg_pool2d if input.ndim == 4 else F.avg_pool3d
    scales = []
    for scale in range(len(exponents)):
        if scale:
            input, target = half(input, 2), half(target, 2)
        luminance, structure = _dissimilarities(input, target, window, *constants)
        coarsest = scale == len(exponents) - 1
        pixels = luminance + structure - luminance * structure if coarsest else structure
        scales.append(pixels.mean(spatial_axes(pixels)))
    logarithms = _log_similarity(torch.stack(scales, -1), eps)
    powers = torch.tensor(exponents, dtype=logarithms.dtype, device=input.device)
    values = image_means(-torch.expm1((powers * logarithms).sum(-1)))
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


def _exponents(betas: Sequence[float]) -> list[float]:
    if not isinstance(betas, tuple | list) or not betas:
        raise TypeError(f"`betas` must be a tuple or list of numbers, got {betas!r}")
    return [number("betas", beta, above=0) for beta in betas]


def _log_similarity(dissimilarity: Tensor, eps: float) -> Tensor:
    """``log(1 - d)``; a similarity s below eps becomes ``eps**2 / (2 * eps - s)``."""
    low = dissimilarity > 1 - eps
    raised = 2 * math.log(eps) - torch.log(torch.where(low, dissimilarity - 1, 0.0) + 2 * eps)
    return torch.where(low, raised, torch.log1p(-torch.where(low, 0.0, dissimilarity)))


MSSSIMLoss = as_module(ms_ssim_loss, name="MSSSIMLoss")


@loss(
    inputs="input unit[2,1,10,11]; target unit[2,1,10,11]",
    module="LNCCLoss",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("local normalised cross-correlation", "ncc", "registration"),
    peers={
        "monai": "the negative of the correlation, without the 1; zeros beside the image count, "
        "and the variances have a floor below which they have no gradient",
        "voxelmorph": "the negative of the correlation, without the 1; zeros beside the image "
        "count",
    },
)
def lncc_loss(
    input: Tensor,
    target: Tensor,
    *,
    data_range: float = 1.0,
    window_size: int = 9,
    eps: float = 1e-8,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Local normalised cross-correlation, for registration: brightness and contrast do not count.

    .. math::
        v = 1 - \operatorname{mean} \frac{\sigma_{xy}^2}
        {\sigma_x^2 \, \sigma_y^2 + \varepsilon L^4}

    Variances and covariance are those in a square (or cube) around each pixel; the mean is over
    the channels and the squares that lie inside the image. Where one of the images is flat there
    is nothing to compare, and the square has the value 1.

    Args:
        input: the moved image :math:`x`, (N, C, H, W) or (N, C, D, H, W), floating point.
        target: the fixed image :math:`y`, the shape of ``input``.
        data_range: the difference :math:`L` between the largest and the smallest value that a pixel
            can have.
        window_size: pixels of the square along each axis, odd, at least 3.
        eps: below which product of the variances, relative to the range, a square counts as flat,
            from 1e-30 to 1.
        weight: how much each image counts, (N,).
        mask: which images count, bool, (N,). What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of images that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(N, C, D, H, W)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, an image is smaller than the window, or an option is out of
            its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import lncc_loss
        >>> target = torch.linspace(0, 1, 144).reshape(1, 1, 12, 12)
        >>> lncc_loss(1 - target / 2, target) < 1e-3
        tensor(True)
        >>> lncc_loss(torch.zeros_like(target), target)
        tensor(1.)

    Source:
        Avants, Epstein, Grossman and Gee (2008), Symmetric diffeomorphic image registration with
        cross-correlation.
    """
    number("data_range", data_range, above=0)
    number("eps", eps, minimum=1e-30, below=1)
    _odd("window_size", window_size, 3)
    image_pair(input, target, smallest=window_size)
    input, target = counting(mask, input, target)
    window = torch.full(
        (window_size,), 1 / window_size, dtype=_common_dtype(input, target), device=input.device
    )
    x, y = ((images - _offset(images)) / data_range for images in (input, target))
    stacked = torch.cat([x, y, x.square(), y.square(), x * y], 1)
    mean_x, mean_y, xx, yy, xy = _filtered(stacked, window).chunk(5, 1)
    variance_x = (xx - mean_x.square()).clamp(min=0)
    variance_y = (yy - mean_y.square()).clamp(min=0)
    squared = (xy - mean_x * mean_y).square()
    values = 1 - image_means(squared / (variance_x * variance_y + eps))
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


LNCCLoss = as_module(lncc_loss, name="LNCCLoss")
