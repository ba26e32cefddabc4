"""Losses of generative adversarial networks, from the scores that a discriminator gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import pair, tensor
from lossproof.write.module import as_module
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs="real float[8,4]; fake float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    also=("gan", "adversarial", "sagan", "biggan"),
    peers={
        "monai": "behind a tanh, so that no score reaches the margin",
        "taming-transformers": "half of it",
    },
)
def hinge_discriminator_loss(
    real: Tensor,
    fake: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Hinge loss of a discriminator: real scores above 1, generated ones below -1.

    .. math::
        v = \max(0, 1 - D(x)) + \max(0, 1 + D(\hat x))

    Scores beyond the margin have no gradient: they are right enough.

    Args:
        real: scores :math:`D(x)` of real samples, any shape, floating point.
        fake: scores :math:`D(\hat x)` of generated samples, the shape of ``real``.
        weight: how much each pair of scores counts, the shape of ``real`` or 1 where it is the same
            for all.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of pairs that count: it is the mean
            over the real scores plus the mean over the generated ones.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Real: :math:`(*)`, fake: the same.
        - Output: scalar; for ``"none"`` the shape of ``real``.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import hinge_discriminator_loss
        >>> real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
        >>> hinge_discriminator_loss(real, fake, reduction="none")
        tensor([0., 3.])

    Source:
        Lim, Ye (2017), Geometric GAN; Miyato, Kataoka, Koyama, Yoshida (2018), Spectral
        normalization for generative adversarial networks.
    """
    pair(real, fake, ("real", "fake"))

    def values(real: Tensor, fake: Tensor) -> Tensor:
        return (1 - real).relu() + (1 + fake).relu()

    return reduce_swept(values, (real, fake), weight, reduction, mask=mask, normalizer=normalizer)


HingeDiscriminatorLoss = as_module(hinge_discriminator_loss)


@loss(
    inputs="fake float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    also=("gan", "adversarial"),
    peers={"monai": "one minus the tanh of the score"},
)
def hinge_generator_loss(
    fake: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Hinge loss of a generator: the scores of what it makes should be high.

    .. math::
        v = -D(\hat x)

    There is no margin: it belongs to the discriminator alone.

    Args:
        fake: scores :math:`D(\hat x)` of generated samples, any shape, floating point.
        weight: how much each score counts, the shape of ``fake`` or 1 where it is the same for all.
        mask: which scores count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of scores that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Fake: :math:`(*)`.
        - Output: scalar; for ``"none"`` the shape of ``fake``.

    Raises:
        TypeError: ``fake`` is not floating point.
        ValueError: an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import hinge_generator_loss
        >>> hinge_generator_loss(torch.tensor([-3.0, 1.0]), reduction="none")
        tensor([ 3., -1.])

    Source:
        Lim, Ye (2017), Geometric GAN; Miyato, Kataoka, Koyama, Yoshida (2018), Spectral
        normalization for generative adversarial networks.
    """
    tensor("fake", fake)

    def values(fake: Tensor) -> Tensor:
        return -fake

    return reduce_swept(values, (fake,), weight, reduction, mask=mask, normalizer=normalizer)


HingeGeneratorLoss = as_module(hinge_generator_loss)


@loss(
    inputs="real float[8,4]; fake float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    also=("gan", "adversarial", "minimax", "logistic", "stylegan"),
    peers={"monai": "takes the log of a sigmoid that is rounded, cut off at -100"},
)
def nonsaturating_discriminator_loss(
    real: Tensor,
    fake: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Logistic loss of a discriminator: real or generated, as a binary cross entropy.

    .. math::
        v = -\log \sigma(D(x)) - \log(1 - \sigma(D(\hat x)))

    It is the loss of the original GAN; the scores are logits.

    Args:
        real: scores :math:`D(x)` of real samples, any shape, floating point.
        fake: scores :math:`D(\hat x)` of generated samples, the shape of ``real``.
        weight: how much each pair of scores counts, the shape of ``real`` or 1 where it is the same
            for all.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of pairs that count: it is the mean
            over the real scores plus the mean over the generated ones.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Real: :math:`(*)`, fake: the same.
        - Output: scalar; for ``"none"`` the shape of ``real``.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import nonsaturating_discriminator_loss
        >>> real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
        >>> nonsaturating_discriminator_loss(real, fake, reduction="none")
        tensor([0.1755, 2.0064])

    Source:
        Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014),
        Generative adversarial nets.
    """
    pair(real, fake, ("real", "fake"))

    def values(real: Tensor, fake: Tensor) -> Tensor:
        return -F.logsigmoid(real) - F.logsigmoid(-fake)

    return reduce_swept(values, (real, fake), weight, reduction, mask=mask, normalizer=normalizer)


NonsaturatingDiscriminatorLoss = as_module(nonsaturating_discriminator_loss)


@loss(
    inputs="fake float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    also=("gan", "adversarial", "logistic", "stylegan"),
    peers={"monai": "takes the log of a sigmoid that is rounded, cut off at -100"},
)
def nonsaturating_generator_loss(
    fake: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Non-saturating loss of a generator: what it makes should be taken for real.

    .. math::
        v = -\log \sigma(D(\hat x))

    Unlike the minimax loss :math:`\log(1 - \sigma(D(\hat x)))` it has a gradient where the
    discriminator is sure. The scores are logits.

    Args:
        fake: scores :math:`D(\hat x)` of generated samples, any shape, floating point.
        weight: how much each score counts, the shape of ``fake`` or 1 where it is the same for all.
        mask: which scores count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of scores that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Fake: :math:`(*)`.
        - Output: scalar; for ``"none"`` the shape of ``fake``.

    Raises:
        TypeError: ``fake`` is not floating point.
        ValueError: an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import nonsaturating_generator_loss
        >>> nonsaturating_generator_loss(torch.tensor([-3.0, 1.0]), reduction="none")
        tensor([3.0486, 0.3133])

    Source:
        Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014),
        Generative adversarial nets.
    """
    tensor("fake", fake)

    def values(fake: Tensor) -> Tensor:
        return -F.logsigmoid(fake)

    return reduce_swept(values, (fake,), weight, reduction, mask=mask, normalizer=normalizer)


NonsaturatingGeneratorLoss = as_module(nonsaturating_generator_loss)


@loss(
    inputs="real float[8,4]; fake float[8,4]",
    convex=True,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    also=("gan", "adversarial", "lsgan"),
    peers={"monai": "without the half, and by default behind a leaky relu"},
)
def least_squares_discriminator_loss(
    real: Tensor,
    fake: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Least-squares loss of a discriminator: real scores at 1, generated ones at 0.

    .. math::
        v = \tfrac{1}{2} (D(x) - 1)^2 + \tfrac{1}{2} D(\hat x)^2

    Args:
        real: scores :math:`D(x)` of real samples, any shape, floating point.
        fake: scores :math:`D(\hat x)` of generated samples, the shape of ``real``.
        weight: how much each pair of scores counts, the shape of ``real`` or 1 where it is the same
            for all.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of pairs that count: it is the mean
            over the real scores plus the mean over the generated ones.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Real: :math:`(*)`, fake: the same.
        - Output: scalar; for ``"none"`` the shape of ``real``.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import least_squares_discriminator_loss
        >>> real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
        >>> least_squares_discriminator_loss(real, fake, reduction="none")
        tensor([5., 1.])

    Source:
        Mao, Li, Xie, Lau, Wang, Smolley (2017), Least squares generative adversarial networks.
    """
    pair(real, fake, ("real", "fake"))

    def values(real: Tensor, fake: Tensor) -> Tensor:
        return ((real - 1).square() + fake.square()) / 2

    return reduce_swept(values, (real, fake), weight, reduction, mask=mask, normalizer=normalizer)


LeastSquaresDiscriminatorLoss = as_module(least_squares_discriminator_loss)


@loss(
    inputs="fake float[8,4]",
    convex=True,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    also=("gan", "adversarial", "lsgan"),
    peers={"monai": "without the half, and by default behind a leaky relu"},
)
def least_squares_generator_loss(
    fake: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Least-squares loss of a generator: the scores of what it makes should be 1.

    .. math::
        v = \tfrac{1}{2} (D(\hat x) - 1)^2

    Args:
        fake: scores :math:`D(\hat x)` of generated samples, any shape, floating point.
        weight: how much each score counts, the shape of ``fake`` or 1 where it is the same for all.
        mask: which scores count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of scores that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Fake: :math:`(*)`.
        - Output: scalar; for ``"none"`` the shape of ``fake``.

    Raises:
        TypeError: ``fake`` is not floating point.
        ValueError: an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import least_squares_generator_loss
        >>> least_squares_generator_loss(torch.tensor([-3.0, 1.0]), reduction="none")
        tensor([8., 0.])

    Source:
        Mao, Li, Xie, Lau, Wang, Smolley (2017), Least squares generative adversarial networks.
    """
    tensor("fake", fake)

    def values(fake: Tensor) -> Tensor:
        return (fake - 1).square() / 2

    return reduce_swept(values, (fake,), weight, reduction, mask=mask, normalizer=normalizer)


LeastSquaresGeneratorLoss = as_module(least_squares_generator_loss)


@loss(
    inputs="real float[8,4]; fake float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    also=("gan", "adversarial", "wgan", "critic"),
)
def wasserstein_discriminator_loss(
    real: Tensor,
    fake: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Wasserstein loss of a critic: real scores far above generated ones.

    .. math::
        v = D(\hat x) - D(x)

    It is minus the estimate of the Wasserstein distance, where the critic is 1-Lipschitz: by
    :func:`gradient_penalty_loss`, spectral normalisation or clipped weights.

    Args:
        real: scores :math:`D(x)` of real samples, any shape, floating point.
        fake: scores :math:`D(\hat x)` of generated samples, the shape of ``real``.
        weight: how much each pair of scores counts, the shape of ``real`` or 1 where it is the same
            for all.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of pairs that count: it is the mean
            over the real scores plus the mean over the generated ones.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Real: :math:`(*)`, fake: the same.
        - Output: scalar; for ``"none"`` the shape of ``real``.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import wasserstein_discriminator_loss
        >>> real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
        >>> wasserstein_discriminator_loss(real, fake, reduction="none")
        tensor([-5.,  1.])

    Source:
        Arjovsky, Chintala, Bottou (2017), Wasserstein generative adversarial networks.
    """
    pair(real, fake, ("real", "fake"))

    def values(real: Tensor, fake: Tensor) -> Tensor:
        return fake - real

    return reduce_swept(values, (real, fake), weight, reduction, mask=mask, normalizer=normalizer)


WassersteinDiscriminatorLoss = as_module(wasserstein_discriminator_loss)


@loss(
    inputs="fake float[8,4]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    also=("gan", "adversarial", "wgan"),
)
def wasserstein_generator_loss(
    fake: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Wasserstein loss of a generator: the scores of what it makes should be high.

    .. math::
        v = -D(\hat x)

    Args:
        fake: scores :math:`D(\hat x)` of generated samples, any shape, floating point.
        weight: how much each score counts, the shape of ``fake`` or 1 where it is the same for all.
        mask: which scores count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of scores that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Fake: :math:`(*)`.
        - Output: scalar; for ``"none"`` the shape of ``fake``.

    Raises:
        TypeError: ``fake`` is not floating point.
        ValueError: an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import wasserstein_generator_loss
        >>> wasserstein_generator_loss(torch.tensor([-3.0, 1.0]), reduction="none")
        tensor([ 3., -1.])

    Source:
        Arjovsky, Chintala, Bottou (2017), Wasserstein generative adversarial networks.
    """
    tensor("fake", fake)

    def values(fake: Tensor) -> Tensor:
        return -fake

    return reduce_swept(values, (fake,), weight, reduction, mask=mask, normalizer=normalizer)


WassersteinGeneratorLoss = as_module(wasserstein_generator_loss)
