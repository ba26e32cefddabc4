"""Divergences between distributions that are given by their parameters: categorical and normal."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import axes, fits, flag, pair, within
from lossproof.write.module import as_module
from lossproof.write.sweeping import Gradient, reduce_swept

Tensor = torch.Tensor


def reduce_distributions(
    values: Callable[..., Tensor],
    tensors: tuple[Tensor, ...],
    weight: Tensor | None,
    reduction: str,
    *,
    mask: Tensor | None,
    normalizer: float | Tensor | None,
    gradient: Gradient | None = None,
) -> Tensor:
    """One value for each distribution, of which the second axis holds the classes.

    A single distribution (C) is a batch of one, and its value a scalar.
    """
    axes("input", tensors[0], -1, layout="(N, C, *) or (C)")
    if tensors[0].ndim > 1:
        return reduce_swept(
            values,
            tensors,
            weight,
            reduction,
            mask=mask,
            normalizer=normalizer,
            class_axis=True,
            gradient=gradient,
        )
    found = reduce_distributions(
        values,
        tuple(tensor.unsqueeze(0) for tensor in tensors),
        weight.unsqueeze(0) if isinstance(weight, Tensor) else weight,
        reduction,
        mask=mask.unsqueeze(0) if isinstance(mask, Tensor) else mask,
        normalizer=normalizer,
    )
    return found.squeeze(0) if reduction == "none" else found


def exponential_excess(x: Tensor) -> Tensor:
    """exp(x) - 1 - x, which is x^2 / 2 near 0, where the terms would cancel."""
    small = x.abs() < 0.25
    far = torch.where(small, 1.0, x)
    return torch.where(small, small_excess(torch.where(small, x, 0.0)), far.expm1() - far)


def small_excess(x: Tensor) -> Tensor:
    """exp(x) - 1 - x by its series, for numbers below a quarter."""
    terms = 12 if x.dtype == torch.float64 else 7  # what is left out is below the rounding
    series = x * (1 / math.factorial(terms)) + 1 / math.factorial(terms - 1)
    for k in range(terms - 2, 1, -1):
        series = series * x + 1 / math.factorial(k)
    return x.square() * series


def log_ratio(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log(q / p), and 0 where both are 0."""
    return torch.where(torch.maximum(log_p, log_q) == -math.inf, 0.0, log_q - log_p)


def relative_entropy(p: Tensor, q: Tensor, ratio: Tensor) -> Tensor:
    """The terms of KL(p || q), none of them negative; ``ratio`` is log(q / p).

    That the probabilities sum to 1 makes p log(p / q) the same in the sum as q - p - p log(q / p),
    which near p = q is small itself, so that nothing cancels there.
    """
    near = p * small_excess(ratio.clamp(-0.25, 0.25))
    far = q - p - p * torch.where(p == 0, 0.0, ratio)
    return torch.where(ratio.abs() < 0.25, near, far)


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of distributions over the second axis."""
    return relative_entropy(log_p.exp(), log_q.exp(), log_ratio(log_p, log_q)).sum(1)


def kl_and_gradient(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q), and its derivative in the logits of q."""
    p, q = log_p.exp(), log_q.exp()
    value = relative_entropy(p, q, log_ratio(log_p, log_q)).sum(1)
    return value, q * p.sum(1, keepdim=True) - p


def log_mixture_ratio(ratio: Tensor, share: float) -> Tensor:
    """log(m / p) of the mixture m = (1 - share) p + share q; ``ratio`` is log(q / p)."""
    up, down = ratio.relu(), ratio.clamp(max=0)  # one of them is 0, and so is what is made of it
    return up + log_blend(-up, 1 - share) + log_blend(down, share)


def log_blend(exponent: Tensor, share: float) -> Tensor:
    """log(1 - share + share exp(exponent)) for an exponent of at most 0."""
    near = (share * exponent.clamp(min=-0.25).expm1()).log1p()
    # Not expm1 throughout: autograd's derivative of it is its value plus 1, which is rounded.
    far = (1 - share + share * exponent.exp()).log()
    return torch.where(exponent > -0.25, near, far)


def categorical_jsd(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """Beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q."""
    ratio = log_ratio(log_p, log_q)
    from_p, from_q = log_mixture_ratio(ratio, 1 - beta), log_mixture_ratio(-ratio, beta)
    return mixed_entropies(log_p.exp(), log_q.exp(), from_p, from_q, beta)


def mixed_entropies(p: Tensor, q: Tensor, from_p: Tensor, from_q: Tensor, beta: float) -> Tensor:
    """The divergences of p and q from their mixture m, by log(m / p) and log(m / q)."""
    mixture = beta * p + (1 - beta) * q
    of_p, of_q = relative_entropy(p, mixture, from_p), relative_entropy(q, mixture, from_q)
    return (beta * of_p + (1 - beta) * of_q).sum(1)


def jsd_and_gradient(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The same divergence, and its derivative in the logits of q."""
    p, q, ratio = log_p.exp(), log_q.exp(), log_ratio(log_p, log_q)
    from_p, from_q = log_mixture_ratio(ratio, 1 - beta), log_mixture_ratio(-ratio, beta)
    # A constant changes nothing, as q sums to 1: that of the likeliest class, which would round.
    apart = from_q.gather(1, q.argmax(1, keepdim=True)) - from_q
    slope = (1 - beta) * q * torch.where(q == 0, 0.0, apart)
    value = mixed_entropies(p, q, from_p, from_q, beta)
    return value, slope - q * slope.sum(1, keepdim=True)


def log_softmax(logits: Tensor) -> Tensor:
    """The log-softmax, to full relative accuracy also where one class has nearly all probability.

    The logarithm of such a probability is not rounded to 0, and the gradient in its logit is what
    the others add up to, not the small difference of two large numbers.
    """
    top = logits.argmax(1, keepdim=True)
    below = (logits - logits.gather(1, top)).scatter(1, top, 0.0)  # 0 by definition: no gradient
    others = below.exp().scatter(1, top, 0.0).sum(1, keepdim=True)
    return below - others.log1p()


def target_log_probs(target: Tensor, log_target: bool) -> Tensor:
    """The logarithm of the target's probabilities; it is -inf, with gradient 0, at 0."""
    if log_target:
        return target.log_softmax(1)
    present = target > 0
    return torch.where(present, torch.where(present, target, 1.0).log(), -math.inf)


def of_classes(mask: Tensor | None, input: Tensor) -> Tensor | None:
    """The mask of the items, for the tensors that have classes as well.

    Raises:
        TypeError: it is no bool tensor.
        ValueError: it does not fit.
    """
    if mask is None:
        return None
    axis = 1 if input.ndim > 1 else 0
    return fits("mask", mask, input.detach().select(axis, 0), kind="bool").unsqueeze(axis)


@loss(
    inputs="mu float[8,4]; log_var float[8,4]",
    convex=True,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    module="KLGaussianLoss",
    also=("VAE", "variational autoencoder", "Kullback-Leibler"),
    peers={
        "torch": "`torch.distributions.kl_divergence`, one value for each latent number",
        "common code": "a mean over the latent numbers too, which is D times smaller",
    },
)
def kl_gaussian_loss(
    mu: Tensor,
    log_var: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""KL divergence of a diagonal normal distribution from the standard one, as in a VAE.

    .. math::
        v = \tfrac12 \sum_d \left( \mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2 \right)

    The sum runs over all latent numbers of a sample: it is the KL term of the evidence bound.

    Args:
        mu: means, floating point.
        log_var: logarithms of the variances, the shape of ``mu``.
        weight: how much each sample counts, (N).
        mask: which samples count, bool, (N). What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of samples that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Mu, log_var: :math:`(N, D, *)`, or :math:`(D)` for a single sample.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import kl_gaussian_loss
        >>> mu, log_var = torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.zeros(2, 2)
        >>> kl_gaussian_loss(mu, log_var, reduction="none")
        tensor([0.0000, 2.5000])

    Source:
        Kingma, Welling (2014), Auto-encoding variational Bayes.
    """
    pair(mu, log_var, ("mu", "log_var"))
    axes("mu", mu, -1, layout="(N, D, *) or (D)")

    def values(mu: Tensor, log_var: Tensor) -> Tensor:
        return 0.5 * (mu.square() + exponential_excess(log_var)).sum(1)

    tensors = (mu, log_var) if mu.ndim < 3 else (mu.flatten(1), log_var.flatten(1))
    return reduce_distributions(
        values, tensors, weight, reduction, mask=mask, normalizer=normalizer
    )


KLGaussianLoss = as_module(kl_gaussian_loss, name="KLGaussianLoss")


@loss(
    inputs=("input float[8,5]; target prob[8,5]", "input logprob[8,5]; target prob[8,5]"),
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="KLDivergenceLoss",
    also=("Kullback-Leibler", "relative entropy", "kl_div", "KLDivLoss"),
    peers={
        "torch": "`kl_div` takes log-probabilities; its 'mean' divides by the classes too, "
        "'batchmean' divides by the first axis alone",
        "keras": "takes probabilities, and clips them",
        "kornia": "takes probabilities",
    },
)
def kl_divergence_loss(
    input: Tensor,
    target: Tensor,
    *,
    log_target: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""KL divergence of the predicted distribution from the target's, one value for each item.

    .. math::
        v = \sum_c p_c \log \frac{p_c}{q_c}, \qquad q = \operatorname{softmax}(z)

    Logits and log-probabilities may be given alike, for the softmax leaves log-probabilities as
    they are. Computed as :math:`\sum_c q_c - p_c + p_c \log (p_c / q_c)`, which is never negative
    and does not cancel near :math:`p = q`.

    Args:
        input: logits :math:`z` or log-probabilities, floating point.
        target: probabilities :math:`p`, the shape of ``input``, each from 0 to 1 and 1 in sum; with
            ``log_target`` logits or log-probabilities.
        log_target: whether ``target`` holds logits or log-probabilities.
        weight: how much each item counts, the shape of the values.
        mask: which items count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of items that count, not of classes:
            for two axes it is torch's ``"batchmean"``.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input, target: :math:`(N, C, *)`, or :math:`(C)` for a single item.
        - Output: scalar; for ``"none"`` :math:`(N, *)`.

    Raises:
        TypeError: a tensor is not floating point, or an option is not of its type.
        ValueError: the shapes differ, or a probability is not from 0 to 1.

    Example:
        >>> import torch
        >>> from lossproof.losses import kl_divergence_loss
        >>> target = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
        >>> kl_divergence_loss(torch.zeros(2, 2), target, reduction="none")
        tensor([0.0000, 0.6931])

    Source:
        Kullback, Leibler (1951), On information and sufficiency.
    """
    pair(input, target)
    axes("input", input, -1, layout="(N, C, *) or (C)")
    if not flag("log_target", log_target):
        within("target", target, 0, 1, where=of_classes(mask, input))

    def values(input: Tensor, target: Tensor) -> Tensor:
        return categorical_kl(target_log_probs(target, log_target), input.log_softmax(1))

    def gradient(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return kl_and_gradient(target_log_probs(target, log_target), input.log_softmax(1))

    return reduce_distributions(
        values,
        (input, target),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        gradient=gradient,
    )


KLDivergenceLoss = as_module(kl_divergence_loss, name="KLDivergenceLoss")


@loss(
    inputs=("input float[8,5]; target prob[8,5]", "input logprob[8,5]; target prob[8,5]"),
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="JSDivergenceLoss",
    also=("Jensen-Shannon", "jsd"),
    peers={"kornia": "takes probabilities, and averages over the maps of a batch"},
)
def js_divergence_loss(
    input: Tensor,
    target: Tensor,
    *,
    log_target: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Jensen-Shannon divergence: the KL divergences of two distributions from their mean.

    .. math::
        v = \tfrac12 \mathrm{KL}(p \,\|\, m) + \tfrac12 \mathrm{KL}(q \,\|\, m), \qquad
        m = \tfrac12 (p + q), \quad q = \operatorname{softmax}(z)

    It is symmetric, at most :math:`\log 2` and finite where the distributions do not overlap; there
    its gradient vanishes, unlike that of the KL divergence.

    Args:
        input: logits :math:`z` or log-probabilities, floating point.
        target: probabilities :math:`p`, the shape of ``input``, each from 0 to 1 and 1 in sum; with
            ``log_target`` logits or log-probabilities.
        log_target: whether ``target`` holds logits or log-probabilities.
        weight: how much each item counts, the shape of the values.
        mask: which items count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of items that count, not of classes.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input, target: :math:`(N, C, *)`, or :math:`(C)` for a single item.
        - Output: scalar; for ``"none"`` :math:`(N, *)`.

    Raises:
        TypeError: a tensor is not floating point, or an option is not of its type.
        ValueError: the shapes differ, or a probability is not from 0 to 1.

    Example:
        >>> import torch
        >>> from lossproof.losses import js_divergence_loss
        >>> target = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
        >>> js_divergence_loss(torch.zeros(2, 2), target, reduction="none")
        tensor([0.0000, 0.2158])

    Source:
        Lin (1991), Divergence measures based on the Shannon entropy.
    """
    pair(input, target)
    axes("input", input, -1, layout="(N, C, *) or (C)")
    if not flag("log_target", log_target):
        within("target", target, 0, 1, where=of_classes(mask, input))

    def values(input: Tensor, target: Tensor) -> Tensor:
        return categorical_jsd(target_log_probs(target, log_target), log_softmax(input), 0.5)

    def gradient(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return jsd_and_gradient(target_log_probs(target, log_target), log_softmax(input), 0.5)

    return reduce_distributions(
        values,
        (input, target),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        gradient=gradient,
    )


JSDivergenceLoss = as_module(js_divergence_loss, name="JSDivergenceLoss")
