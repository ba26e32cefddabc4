"""The penalty on the gradient of a critic, which keeps it smooth."""

from __future__ import annotations

import torch

from lossproof.losses._embeddings import kept_rows
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import axes, fits, number, tensor
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


@loss(
    inputs=("input float[6,5]", "input float[4,2,3,3]"),
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    also=("gan", "wgan-gp", "r1", "lipschitz"),
)
def gradient_penalty_loss(
    input: Tensor,
    *,
    norm: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Gradient penalty: the gradient of a critic in its input should have a certain length.

    .. math::
        v_i = (\|g_i\| - c)^2, \qquad g_i = \nabla_{x_i} D(x_i)

    The gradient comes from ``torch.autograd.grad(scores.sum(), samples, create_graph=True)``, so
    that the penalty has a gradient in the weights of the critic. With a norm of 1, at points
    between real and generated samples, it is that of WGAN-GP; with a norm of 0, at real samples, it
    is R1 (times half of its :math:`\gamma`). A gradient of zeros has the penalty :math:`c^2`, and
    no direction to grow into.

    Args:
        input: gradients :math:`g` of the scores in the samples, floating point.
        norm: :math:`c`, the length that each should have, not negative.
        weight: how much each sample counts, shape (N,).
        mask: which samples count, bool, shape (N,). What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of samples that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, *)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: ``input`` is not floating point.
        ValueError: it has a single axis, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import gradient_penalty_loss
        >>> samples = torch.tensor([[3.0, 4.0], [0.0, 1.0]], requires_grad=True)
        >>> scores = samples.square().sum(1) / 2
        >>> (gradient,) = torch.autograd.grad(scores.sum(), samples, create_graph=True)
        >>> gradient_penalty_loss(gradient, reduction="none")
        tensor([16.,  0.], grad_fn=<PowBackward0>)

    Source:
        Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville (2017), Improved training of Wasserstein
        GANs; Mescheder, Geiger, Nowozin (2018), Which training methods for GANs do actually
        converge? (R1).
    """
    axes("input", tensor("input", input), -2, layout="(N, *)")
    number("norm", norm, minimum=0)
    gradients = input.flatten(1)
    counts = None
    if mask is not None:
        items = gradients.detach().sum(1)
        counts = fits("mask", mask, items, kind="bool").expand_as(items)
    squared = kept_rows(gradients, counts).square().sum(1)
    if norm == 0:
        values = squared
    else:
        flat = squared == 0
        length = torch.where(flat, 1.0, squared).sqrt()
        values = (torch.where(flat, 0.0, length) - norm).square()
    return reduce(values, weight, reduction, mask=counts, normalizer=normalizer)


GradientPenaltyLoss = as_module(gradient_penalty_loss)
