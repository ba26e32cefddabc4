"""Losses for counts, and for amounts that are often 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.losses._distribution import counting, log1p_ratio, log_gamma_growth, positive
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import flag, number, pair, within
from lossproof.write.module import as_module
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="input float[8,4]; target count[8,4]",
    convex=True,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    module="PoissonNLLLoss",
    also=("poisson regression", "spike counts"),
    peers={
        "torch": "`log_input=False` adds `eps` to the rate inside the logarithm; `full` adds "
        "Stirling's approximation, and only for targets above 1",
        "keras": "takes the rate, adds 1e-7 to it inside the logarithm",
    },
)
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    *,
    log_input: bool = True,
    full: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Negative log-likelihood of a Poisson distribution, for counts.

    .. math::
        v = \lambda - y \log \lambda \;[\,+ \log y!\,],
        \qquad \lambda = e^x \text{ or } x

    It is least where the rate :math:`\lambda` is the target; its value there is not 0.

    Args:
        input: log-rates :math:`x`, or rates with ``log_input=False``, any shape, floating point.
        target: counts :math:`y` of at least 0, the shape of ``input``, of any real dtype.
        log_input: whether ``input`` is the logarithm of the rate. A rate must be above 0.
        full: whether to add :math:`\log y!`, which no prediction changes.
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
        TypeError: a tensor is not of its kind.
        ValueError: the shapes differ, a target that counts is negative, a rate is not positive, or
            an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import poisson_nll_loss
        >>> rate, count = torch.tensor([1.0, 4.0]), torch.tensor([0.0, 5.0])
        >>> poisson_nll_loss(rate.log(), count, full=True, reduction="none")
        tensor([1.0000, 1.8560])

    Source:
        Nelder, Wedderburn (1972), Generalized linear models.
    """
    pair(input, target, target_kind="number")
    flag("log_input", log_input)
    flag("full", full)
    counts = counting(mask, input)
    within("target", target, 0, where=counts)
    if not log_input:
        within("input", input, above=0, where=counts)

    def values(input: Tensor, target: Tensor) -> Tensor:
        value = input.exp() - target * input if log_input else input - target * input.log()
        return value + torch.lgamma(target + 1) if full else value

    return reduce_swept(
        values,
        (input, target.to(input.dtype)),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        fill=(1.0, 0.0),
    )


PoissonNLLLoss = as_module(poisson_nll_loss, name="PoissonNLLLoss")


@loss(
    inputs="input float[8,4]; target count[8,4]",
    convex=True,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    also=("insurance", "zero inflated", "compound poisson gamma", "intermittent demand"),
    peers={
        "lightgbm, neuralforecast, pytorch-forecasting": "the same function, with `log_input`",
        "torchmetrics, scikit-learn": "twice its excess over the best prediction, of means",
    },
)
def tweedie_loss(
    input: Tensor,
    target: Tensor,
    *,
    p: float = 1.5,
    log_input: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Tweedie loss, for amounts that are exactly 0 or positive: claims, rainfall, sales.

    .. math::
        v = \frac{y\, \mu^{1-p}}{p - 1} + \frac{\mu^{2-p}}{2 - p},
        \qquad \mu = e^x \text{ or } x, \quad 1 < p < 2

    Up to terms without :math:`\mu` the negative log-likelihood of a Poisson number of gamma
    amounts. It is least where :math:`\mu` is the target; its value there is not 0.

    Args:
        input: log-means :math:`x`, or means with ``log_input=False``, any shape, floating point.
        target: amounts :math:`y` of at least 0, the shape of ``input``, of any real dtype.
        p: the power of the mean to which the variance is proportional, between 1 (Poisson) and 2
            (gamma), both excluded.
        log_input: whether ``input`` is the logarithm of the mean. A mean must be above 0.
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
        TypeError: a tensor is not of its kind.
        ValueError: the shapes differ, a target that counts is negative, a mean is not positive, or
            an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import tweedie_loss
        >>> mean, amount = torch.tensor([1.0, 4.0]), torch.tensor([0.0, 5.0])
        >>> tweedie_loss(mean.log(), amount, reduction="none")
        tensor([2., 9.])

    Source:
        Tweedie (1984), An index which distinguishes between some important exponential families;
        Jørgensen (1987), Exponential dispersion models.
    """
    pair(input, target, target_kind="number")
    number("p", p, above=1, below=2)
    flag("log_input", log_input)
    counts = counting(mask, input)
    within("target", target, 0, where=counts)
    if not log_input:
        within("input", input, above=0, where=counts)

    def values(input: Tensor, target: Tensor) -> Tensor:
        log_mean = input if log_input else input.log()
        # Where the target is 0, its factor may be infinite.
        factor = torch.exp((1 - p) * torch.where(target > 0, log_mean, 0.0))
        return target * factor / (p - 1) + torch.exp((2 - p) * log_mean) / (2 - p)

    return reduce_swept(
        values,
        (input, target.to(input.dtype)),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        fill=(1.0, 0.0),
    )


TweedieLoss = as_module(tweedie_loss)


@loss(
    inputs="input float[8,4]; target count[8,4]; dispersion positive[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    module="NegativeBinomialNLLLoss",
    also=("overdispersed counts", "single cell", "gamma poisson", "deepar"),
    peers={
        "torch.distributions": "`NegativeBinomial(1 / dispersion, logits=x + dispersion.log())`, "
        "which loses its digits as the dispersion goes to 0",
        "scvi-tools": "takes `theta`, 1 / dispersion, and adds `eps` inside the logarithms",
    },
)
def negative_binomial_nll_loss(
    input: Tensor,
    target: Tensor,
    dispersion: Tensor | float,
    *,
    log_input: bool = True,
    full: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Negative log-likelihood of a negative binomial, for counts that vary more than Poisson's.

    .. math::
        v = r \log(1 + \alpha\mu) + y \log\left(1 + \frac{1}{\alpha\mu}\right)
            - \log \frac{\Gamma(y + r)}{\Gamma(r)} \;[\,+ \log y!\,],
        \qquad r = \frac{1}{\alpha}, \quad \mu = e^x \text{ or } x

    The mean is :math:`\mu` and the variance :math:`\mu + \alpha\mu^2`. It is least where
    :math:`\mu` is the target, and goes to Poisson's as :math:`\alpha` goes to 0, accurately.

    Args:
        input: log-means :math:`x`, or means with ``log_input=False``, any shape, floating point.
        target: counts :math:`y` of at least 0, the shape of ``input``, of any real dtype.
        dispersion: :math:`\alpha` above 0, the shape of ``input``, or a number.
        log_input: whether ``input`` is the logarithm of the mean. A mean must be above 0.
        full: whether to add :math:`\log y!`, which no prediction changes.
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
        TypeError: a tensor is not of its kind.
        ValueError: the shapes differ, a target that counts is negative, a mean or dispersion is not
            positive, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import negative_binomial_nll_loss
        >>> mean, count = torch.tensor([1.0, 4.0]), torch.tensor([0.0, 5.0])
        >>> negative_binomial_nll_loss(mean.log(), count, 0.5, full=True, reduction="none")
        tensor([0.8109, 2.4328])

    Source:
        Lawless (1987), Negative binomial and mixed Poisson regression.
    """
    pair(input, target, target_kind="number")
    flag("log_input", log_input)
    flag("full", full)
    counts = counting(mask, input)
    within("target", target, 0, where=counts)
    if not log_input:
        within("input", input, above=0, where=counts)
    dispersion = positive("dispersion", dispersion, input, counts)

    def values(input: Tensor, target: Tensor, dispersion: Tensor) -> Tensor:
        log_mean = input if log_input else input.log()
        value = _binomial_terms(log_mean, target, dispersion)
        value = value - log_gamma_growth(dispersion, target)
        return value + torch.lgamma(target + 1) if full else value

    return reduce_swept(
        values,
        (input, target.to(input.dtype), dispersion),
        weight,
        reduction,
        mask=mask,
        normalizer=normalizer,
        fill=(1.0, 0.0, 1.0),
    )


def _binomial_terms(log_mean: Tensor, target: Tensor, dispersion: Tensor) -> Tensor:
    """The terms with the mean: log(1 + a m) / a + y log(1 + 1 / (a m)) + y log a."""
    odds = log_mean + dispersion.log()
    small = odds < -3
    mean = torch.where(small, log_mean, 0.0).exp()
    ratio = torch.where(small, dispersion, 0.0) * mean
    near = mean * log1p_ratio(ratio) + target * (torch.log1p(ratio) - log_mean)
    odds, dispersion = torch.where(small, 0.0, odds), torch.where(small, 1.0, dispersion)
    far = F.softplus(odds) / dispersion + target * (F.softplus(-odds) + dispersion.log())
    return torch.where(small, near, far)


NegativeBinomialNLLLoss = as_module(negative_binomial_nll_loss, name="NegativeBinomialNLLLoss")
