"""Negative log-likelihoods of continuous distributions whose parameters are predicted."""

from __future__ import annotations

import math

import torch

from lossproof.losses._distribution import counting, log_gamma_growth, of_items, positive
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import flag, number, pair, same_shape, tensor
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input float[8,4]; target float[8,4]; var positive[8,4]",
    convex=True,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    module="GaussianNLLLoss",
    also=("normal", "heteroscedastic", "beta nll", "uncertainty"),
    stops_gradient="with `beta` above 0 the factor var ** beta",
    peers={
        "torch": "raises the variance to `eps` where it is below, which hides that it is; does not "
        "compile into one graph",
    },
)
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    *,
    full: bool = False,
    beta: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Negative log-likelihood of a normal distribution whose mean and variance are predicted.

    .. math::
        v = \frac{s}{2} \left( \log \sigma^2 + \frac{(\hat y - y)^2}{\sigma^2} \right)
            \;[\,+ \tfrac{s}{2} \log 2\pi\,], \qquad s = (\sigma^2)^\beta

    Where the variance is predicted as well, a mean that fits badly is given up for a large
    variance; ``beta`` of 0.5 (beta-NLL) takes away much of that, and 1 gives the mean the gradient
    of the squared error. The factor :math:`s` is held constant in the gradient.

    Args:
        input: predicted means :math:`\hat y`, any shape, floating point.
        target: targets :math:`y`, the shape of ``input``.
        var: predicted variances :math:`\sigma^2` above 0, the shape of ``input``, or a number.
        full: whether to add :math:`\frac12 \log 2\pi`, which no prediction changes.
        beta: the exponent of beta-NLL, from 0 to 1.
        weight: how much each value counts, the shape of ``input`` or 1 where it is the same for
            all.
        mask: which values count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of values that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)`, target: the same.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, a variance that counts is not positive, or an option is out
            of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import gaussian_nll_loss
        >>> mean, target, var = torch.tensor([0.0, 2.0]), torch.zeros(2), torch.tensor([1.0, 4.0])
        >>> gaussian_nll_loss(mean, target, var, reduction="none")
        tensor([0.0000, 1.1931])

    Source:
        Nix, Weigend (1994), Estimating the mean and variance of the target probability
        distribution; for ``beta`` Seitzer, Tavakoli, Antic, Martius (2022), On the pitfalls of
        heteroscedastic uncertainty estimation with probabilistic neural networks.
    """
    pair(input, target)
    flag("full", full)
    number("beta", beta, minimum=0, maximum=1)
    var = positive("var", var, input, counting(mask, input))
    constant = math.log(2 * math.pi) if full else 0.0

    def values(input: Tensor, target: Tensor, var: Tensor) -> Tensor:
        value = 0.5 * (var.log() + (input - target).square() / var + constant)
        return value * var.detach().pow(beta) if beta else value

    return reduce_swept(
        values,
        (input, target, var),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        fill=(0.0, 0.0, 1.0),
    )


GaussianNLLLoss = as_module(gaussian_nll_loss, name="GaussianNLLLoss")


@loss(
    inputs="input float[8,4]; target float[8,4]; scale positive[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="LaplaceNLLLoss",
    also=("double exponential", "uncertainty", "optical flow", "depth"),
    peers={"torch.distributions": "`-Laplace(input, scale).log_prob(target)`"},
)
def laplace_nll_loss(
    input: Tensor,
    target: Tensor,
    scale: Tensor | float,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Negative log-likelihood of a Laplace distribution whose median and scale are predicted.

    .. math::
        v = \log(2b) + \frac{|\hat y - y|}{b}

    Args:
        input: predicted medians :math:`\hat y`, any shape, floating point.
        target: targets :math:`y`, the shape of ``input``.
        scale: predicted scales :math:`b` above 0, the shape of ``input``, or a number. The standard
            deviation is :math:`\sqrt 2\, b`.
        weight: how much each value counts, the shape of ``input`` or 1 where it is the same for
            all.
        mask: which values count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of values that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)`, target: the same.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, a scale that counts is not positive, or an option is out of
            its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import laplace_nll_loss
        >>> median, scale = torch.tensor([0.0, 2.0]), torch.tensor([0.5, 1.0])
        >>> laplace_nll_loss(median, torch.zeros(2), scale, reduction="none")
        tensor([0.0000, 2.6931])

    Source:
        Laplace (1774), Mémoire sur la probabilité des causes par les événements.
    """
    pair(input, target)
    scale = positive("scale", scale, input, counting(mask, input))

    def values(input: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        return scale.log() + math.log(2) + (input - target).abs() / scale

    return reduce_swept(
        values,
        (input, target, scale),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        fill=(0.0, 0.0, 1.0),
    )


LaplaceNLLLoss = as_module(laplace_nll_loss, name="LaplaceNLLLoss")


@loss(
    inputs="input float[8,4]; target float[8,4]; scale positive[8,4]; df positive[8,4]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="StudentTNLLLoss",
    also=("student", "heavy tails", "robust", "deepar", "uncertainty"),
    peers={
        "torch.distributions": "`-StudentT(df, input, scale).log_prob(target)`, which loses its "
        "digits as `df` grows",
    },
)
def student_t_nll_loss(
    input: Tensor,
    target: Tensor,
    scale: Tensor | float,
    df: Tensor | float,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Negative log-likelihood of Student's t: like a normal distribution, with heavy tails.

    .. math::
        v = \log\left( \sigma \sqrt{\nu\pi} \right)
            + \log \frac{\Gamma(\nu/2)}{\Gamma((\nu + 1)/2)}
            + \frac{\nu + 1}{2} \log\left( 1 + \frac{t^2}{\nu} \right),
        \qquad t = \frac{\hat y - y}{\sigma}

    An outlier pulls less the further out it is. As :math:`\nu` grows this becomes the normal
    distribution's, accurately.

    Args:
        input: predicted locations :math:`\hat y`, any shape, floating point.
        target: targets :math:`y`, the shape of ``input``.
        scale: predicted scales :math:`\sigma` above 0, the shape of ``input``, or a number.
        df: the degrees of freedom :math:`\nu` above 0, like ``scale``. The variance is finite above
            2.
        weight: how much each value counts, the shape of ``input`` or 1 where it is the same for
            all.
        mask: which values count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of values that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)`, target: the same.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, a scale or ``df`` that counts is not positive, or an option
            is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import student_t_nll_loss
        >>> student_t_nll_loss(torch.tensor([0.0, 3.0]), torch.zeros(2), 1.0, 4.0, reduction="none")
        tensor([0.9808, 3.9275])

    Source:
        Lange, Little, Taylor (1989), Robust statistical modeling using the t distribution.
    """
    pair(input, target)
    counts = counting(mask, input)
    scale, df = positive("scale", scale, input, counts), positive("df", df, input, counts)

    def values(input: Tensor, target: Tensor, scale: Tensor, df: Tensor) -> Tensor:
        t = (input - target) / scale
        # sqrt(df / 2) Gamma(df / 2) / Gamma((df + 1) / 2), which goes to 1, is the ratio of Gammas.
        value = scale.log() + 0.5 * math.log(2 * math.pi) - log_gamma_growth(2 / df, 0.5)
        return value + 0.5 * (df + 1) * torch.log1p(t.square() / df)

    return reduce_swept(
        values,
        (input, target, scale, df),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        fill=(0.0, 0.0, 1.0, 1.0),
    )


StudentTNLLLoss = as_module(student_t_nll_loss, name="StudentTNLLLoss")


@loss(
    inputs="input float[8,3]; target float[8]; scale positive[8,3]; logits float[8,3]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    also=("mdn", "gaussian mixture", "gmm nll", "multimodal regression"),
    peers={
        "torch.distributions": "`MixtureSameFamily(Categorical(logits=logits), Normal(...))`",
        "neuralforecast": "`GMM`: the same, with fixed or predicted weights",
    },
)
def mixture_density_loss(
    input: Tensor,
    target: Tensor,
    scale: Tensor | float,
    logits: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Negative log-likelihood of a mixture of normal distributions, for targets of many modes.

    .. math::
        v = -\log \sum_k \pi_k\, \mathcal N(y; \mu_k, \sigma_k^2), \qquad \pi = \text{softmax}(x)

    Args:
        input: predicted means :math:`\mu` of the K components, the shape of ``target`` and a last
            axis of K, floating point.
        target: targets :math:`y`, any shape, floating point.
        scale: predicted standard deviations :math:`\sigma` above 0, the shape of ``input``, or a
            number.
        logits: the logits :math:`x` of the components' weights, the shape of ``input``.
        weight: how much each item counts, the shape of ``target`` or 1 where it is the same for
            all.
        mask: which items count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of items that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, K)`, scale and logits: the same. Target: :math:`(*)`.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, a scale that counts is not positive, or an option is out
            of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import mixture_density_loss
        >>> mean, logits = torch.tensor([[-1.0, 1.0]]), torch.zeros(1, 2)
        >>> mixture_density_loss(mean, torch.tensor([1.0]), 0.5, logits)
        tensor(0.9186)

    Source:
        Bishop (1994), Mixture density networks.
    """
    of_items(input, target, "components")
    same_shape(input, tensor("logits", logits), ("input", "logits"))
    counts = counting(mask, target)
    counts = None if counts is None else counts.unsqueeze(-1).expand_as(input)
    scale = positive("scale", scale, input, counts)
    if counts is not None:
        input, logits = torch.where(counts, input, 0.0), torch.where(counts, logits, 0.0)
        scale, target = torch.where(counts, scale, 1.0), torch.where(counts[..., 0], target, 0.0)
    t = (input - target.unsqueeze(-1)) / scale
    log_density = -0.5 * t.square() - scale.log() - 0.5 * math.log(2 * math.pi)
    values = -torch.logsumexp(torch.log_softmax(logits, -1) + log_density, -1)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


MixtureDensityLoss = as_module(mixture_density_loss)
