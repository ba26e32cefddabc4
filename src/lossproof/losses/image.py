"""Losses between images: signal-to-noise ratio, edges, frequencies, smoothness.

An image is one item: the values have the shape (N,), and a weight or a mask has one entry for each
image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import axes, fits, flag, number, pair, tensor
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor

LAYOUT = "(N, C, H, W) or (N, C, D, H, W)"


def image_pair(input: Tensor, target: Tensor, *, smallest: int = 1) -> None:
    """Two batches of images of the same shape."""
    pair(input, target)
    sized("input", input, smallest)


def sized(name: str, images: Tensor, smallest: int) -> None:
    """Images, or volumes, of at least this many pixels along each axis."""
    axes(name, images, 4, 5, layout=LAYOUT)
    if images.shape[1] < 1 or min(images.shape[2:]) < smallest:
        raise ValueError(
            f"`{name}` must hold at least one channel and {smallest} pixels along each axis, "
            f"got {list(images.shape)}"
        )


def counting(mask: Tensor | None, *images: Tensor) -> tuple[Tensor, ...]:
    """The images, black where they do not count: NaN there must reach no value or gradient."""
    if mask is None:
        return images
    first = images[0]
    mask = fits("mask", mask, first.detach().flatten(1)[:, 0], kind="bool")
    mask = mask.reshape(-1, *[1] * (first.ndim - 1))
    return tuple(torch.where(mask, image, 0.0) for image in images)


def spatial_axes(images: Tensor) -> tuple[int, ...]:
    """All axes but those of the batch and the channels."""
    return tuple(range(2, images.ndim))


def image_means(pixels: Tensor) -> Tensor:
    """The mean over all that belongs to one image."""
    return pixels.mean(tuple(range(1, pixels.ndim)))


@loss(
    inputs="input float[3,2,5,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    also=("tv", "smoothness", "denoising"),
    peers={
        "kornia": "`total_variation` is the same sum, for each channel; its 'mean' divides the "
        "differences of each direction by their number",
        "torchmetrics": "the same anisotropic sum",
        "piq": "`norm_type='l1'` is the same sum; its 'l2' is one norm of all differences of an "
        "image, with NaN gradients where it is flat",
    },
)
def total_variation_loss(
    input: Tensor,
    *,
    isotropic: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Total variation: the sum of the differences between neighbouring pixels.

    .. math::
        v = \sum_{c,i,j} |\partial_1 x_{cij}| + |\partial_2 x_{cij}|
        \qquad \text{or, isotropic,} \qquad
        v = \sum_{c,i,j} \sqrt{(\partial_1 x_{cij})^2 + (\partial_2 x_{cij})^2}

    :math:`\partial` is the difference to the next pixel, 0 at the border. A flat image has the
    value 0 and a zero gradient. ``normalizer=input.numel()`` makes it a mean over the pixels.

    Args:
        input: images or volumes :math:`x`, (N, C, H, W) or (N, C, D, H, W), floating point.
        isotropic: whether a pixel's differences are joined to the length of its gradient, so that
            slanted edges cost no more than straight ones.
        weight: how much each image counts, (N,).
        mask: which images count, bool, (N,). What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of images that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(N, C, D, H, W)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: the input is not floating point, or an option is of a wrong type.
        ValueError: the input has another number of axes, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import total_variation_loss
        >>> step = torch.tensor([[[[0.0, 3.0], [4.0, 3.0]]]])
        >>> total_variation_loss(step)
        tensor(8.)
        >>> total_variation_loss(step, isotropic=True)
        tensor(6.)

    Source:
        Rudin, Osher and Fatemi (1992), Nonlinear total variation based noise removal algorithms.
    """
    tensor("input", input)
    sized("input", input, 1)
    flag("isotropic", isotropic)
    (input,) = counting(mask, input)
    if isotropic:
        pixels = _length([_difference(input, axis, border=True) for axis in spatial_axes(input)])
        values = pixels.flatten(1).sum(1)
    else:
        differences = [_difference(input, axis).abs() for axis in spatial_axes(input)]
        values = torch.stack([d.flatten(1).sum(1) for d in differences]).sum(0)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


def _difference(images: Tensor, axis: int, *, border: bool = False) -> Tensor:
    """To the next pixel along an axis; with the border, as many as there are pixels."""
    last = images.narrow(axis, images.shape[axis] - 1, 1)
    return images.diff(dim=axis, append=last if border else None)


def _length(components: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm; its subgradient at 0 is 0."""
    squares = torch.stack([component.square() for component in components]).sum(0)
    flat = squares == 0
    return torch.where(flat, squares, torch.where(flat, 1.0, squares).sqrt())


TotalVariationLoss = as_module(total_variation_loss)


@loss(
    inputs="input unit[5,1,1,2]; target unit[5,1,1,2]",
    module="PSNRLoss",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    also=("peak signal-to-noise ratio",),
    peers={
        "kornia": "one error over the whole batch, and -inf for equal images",
        "piq": "the same, for images in [0, 1] as here with `eps=1e-8`; it returns the PSNR",
        "torchmetrics": "one error over the whole batch unless `dim` is given",
    },
)
def psnr_loss(
    input: Tensor,
    target: Tensor,
    *,
    data_range: float = 1.0,
    eps: float = 1e-10,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""PSNR loss: the negative peak signal-to-noise ratio, in decibels.

    .. math::
        v = 10 \log_{10} \left( \frac{\operatorname{mean}\,(x - y)^2}{L^2} + \varepsilon \right)

    The mean is over the pixels and channels of one image. Equal images have an infinite PSNR:
    :math:`\varepsilon` limits it, by default to 100 dB.

    Args:
        input: predictions :math:`x`, (N, C, H, W) or (N, C, D, H, W), floating point.
        target: targets :math:`y`, the shape of ``input``.
        data_range: the difference :math:`L` between the largest and the smallest value that a pixel
            can have: 1 for images in [0, 1], 2 for [-1, 1], 255 for bytes.
        eps: the relative squared error at which improvement stops to pay, from 1e-30 to 1.
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
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import psnr_loss
        >>> target = torch.zeros(2, 1, 4, 4)
        >>> input = target + torch.tensor([0.1, 0.0]).reshape(2, 1, 1, 1)
        >>> psnr_loss(input, target, reduction="none")
        tensor([ -20., -100.])

    Source:
        Huynh-Thu and Ghanbari (2008), Scope of validity of PSNR in image/video quality assessment.
    """
    number("data_range", data_range, above=0)
    number("eps", eps, minimum=1e-30, below=1)
    image_pair(input, target)
    input, target = counting(mask, input, target)
    error = image_means((input - target).square()) / data_range / data_range
    values = 10 * torch.log10(error + eps)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


PSNRLoss = as_module(psnr_loss, name="PSNRLoss")


@loss(
    inputs="input float[3,2,5,4]; target float[3,2,5,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    also=("sobel", "gradient", "sharpness"),
    peers={
        "kornia": "`spatial_gradient` gives the same gradients, also at a replicated border",
    },
)
def edge_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Edge loss: the absolute difference between the Sobel gradients of two images.

    .. math::
        v = \operatorname{mean}_{c,i,j}
        \tfrac12 \left( |S_1 * (x - y)| + |S_2 * (x - y)| \right), \qquad
        S_1 = \tfrac18 \begin{pmatrix} -1 & 0 & 1 \\ -2 & 0 & 2 \\ -1 & 0 & 1 \end{pmatrix}
        = S_2^\top

    The two components are compared, not their length: an edge from dark to light is not one from
    light to dark. The mean is over the pixels that have all eight neighbours. A constant added to
    the image costs nothing, so that it usually stands beside a loss of the pixels.

    Args:
        input: predictions :math:`x`, (N, C, H, W), floating point.
        target: targets :math:`y`, the shape of ``input``.
        weight: how much each image counts, (N,).
        mask: which images count, bool, (N,). What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of images that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, H, W)`, H and W at least 3, target: the same.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import edge_loss
        >>> ramp = torch.arange(5.0).expand(1, 1, 5, 5)
        >>> edge_loss(ramp, torch.zeros_like(ramp))
        tensor(0.5000)
        >>> edge_loss(ramp + 3, ramp)
        tensor(0.)

    Source:
        Hu, Ozay, Zhang and Okatani (2019), Revisiting single image depth estimation: toward higher
        resolution maps with accurate object boundaries; without its logarithm.
    """
    pair(input, target)
    axes("input", input, 4, layout="(N, C, H, W)")
    sized("input", input, 3)
    input, target = counting(mask, input, target)
    error = input - target
    across, down = _sobel(error, 3, 2), _sobel(error, 2, 3)
    values = image_means((across.abs() + down.abs()) / 2)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


def _sobel(images: Tensor, along: int, across: int) -> Tensor:
    """The derivative along one axis, smoothed across it."""

    def shifted(images: Tensor, axis: int, by: int) -> Tensor:
        return images.narrow(axis, by, images.shape[axis] - 2)

    slope = shifted(images, along, 2) - shifted(images, along, 0)
    first, middle, last = (shifted(slope, across, by) for by in range(3))
    return (first + 2 * middle + last) / 8


EdgeLoss = as_module(edge_loss)


@loss(
    inputs="input float[3,2,4,5]; target float[3,2,4,5]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    also=("ffl", "spectrum", "fourier"),
    stops_gradient="the weight of each frequency, which is computed from the error itself",
    peers={
        "focal-frequency-loss": "the same function with its default options",
    },
)
def focal_frequency_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Focal frequency loss: the squared error of the spectrum, most where the error is largest.

    .. math::
        v = \operatorname{mean}_{c,u,v} w_{cuv} |E_{cuv}|^2, \qquad
        w_{cuv} = \left( \frac{|E_{cuv}|}{\max_{uv} |E_{cuv}|} \right)^{\!\alpha}, \qquad
        E = \mathcal F (x - y)

    :math:`\mathcal F` is the orthonormal discrete Fourier transform of each channel. The weights
    :math:`w` are constants for the gradient, as published. With :math:`\alpha = 0` it is the mean
    squared error.

    Args:
        input: predictions :math:`x`, (N, C, H, W), floating point.
        target: targets :math:`y`, the shape of ``input``.
        alpha: how much more a larger error counts, at least 0.
        weight: how much each image counts, (N,).
        mask: which images count, bool, (N,). What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of images that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C, H, W)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import focal_frequency_loss
        >>> input, target = torch.tensor([[[[3.0, 1.0]]]]), torch.zeros(1, 1, 1, 2)
        >>> focal_frequency_loss(input, target)
        tensor(4.5000)
        >>> focal_frequency_loss(input, target, alpha=0.0)
        tensor(5.0000)

    Source:
        Jiang, Dai, Wu and Loy (2021), Focal frequency loss for image reconstruction and synthesis.
    """
    number("alpha", alpha, minimum=0)
    pair(input, target)
    axes("input", input, 4, layout="(N, C, H, W)")
    sized("input", input, 1)
    input, target = counting(mask, input, target)
    power = _power_spectrum(input - target)
    largest = power.detach().amax((2, 3), keepdim=True)
    share = power.detach() / torch.where(largest == 0, 1.0, largest)
    values = image_means(share ** (alpha / 2) * power)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


def _power_spectrum(images: Tensor) -> Tensor:
    if not images.shape[0]:  # there is no Fourier transform of a batch without images
        return images.square()
    return torch.view_as_real(torch.fft.fft2(images, norm="ortho")).square().sum(-1)


FocalFrequencyLoss = as_module(focal_frequency_loss)
