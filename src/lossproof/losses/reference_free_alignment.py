"""Losses that align a language model with preferences and need no reference model.

Like those of :mod:`lossproof.losses.alignment` they take one log-probability for each answer, which
:func:`lossproof.losses.alignment.sequence_log_probs` makes from the logits of the tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from lossproof.losses.alignment import PAIR, aligned, smoothed_logistic
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import fits, number, within
from lossproof.write.module import as_module
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor


@loss(
    inputs=(
        "chosen float[8]; rejected float[8]",
        "chosen float[8]; rejected float[8]; margin positive[8]",
    ),
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    also=(
        "reward model",
        "pairwise logistic",
        "RLHF",
    ),
    peers={
        "trl": "the same, with an optional margin",
    },
)
def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Bradley-Terry: a reward model learns that the better answer scores higher.

    .. math::
        v = -(1 - \varepsilon) \log \sigma(h) - \varepsilon \log \sigma(-h), \qquad
        h = r_w - r_l - m

    A margin :math:`m` per pair asks for more distance where the preference was clearer.

    Args:
        chosen: reward of the preferred answer, floating point, shape (N).
        rejected: reward of the other answer, shape (N).
        margin: how much higher the reward should be, shape (N); 0 where it is not given.
        label_smoothing: the share :math:`\varepsilon` of labels that are wrong, from 0 to 1.
        weight: how much each pair counts, the shape of the first tensor.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - All tensors: :math:`(N)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import bradley_terry_loss
        >>> chosen, rejected = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 2.5])
        >>> bradley_terry_loss(chosen, rejected, reduction="none")
        tensor([0.3133, 2.1269])

    Source:
        Bradley, Terry (1952), Rank analysis of incomplete block designs. Ouyang et al. (2022),
        Training language models to follow instructions with human feedback. Touvron et al. (2023),
        Llama 2: open foundation and fine-tuned chat models (the margin).
    """
    tensors = aligned(chosen=chosen, rejected=rejected)
    if margin is not None:
        tensors = aligned(chosen=chosen, rejected=rejected, margin=margin)
    number("label_smoothing", label_smoothing, minimum=0, maximum=1)

    def values(chosen: Tensor, rejected: Tensor, *margin: Tensor) -> Tensor:
        return smoothed_logistic(chosen - rejected - sum(margin), label_smoothing)

    return reduce_swept(values, tensors, weight, reduction, mask=mask, normalizer=normalizer)


BradleyTerryLoss = as_module(bradley_terry_loss)


@loss(
    inputs=PAIR,
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    module="SimPOLoss",
    also=("simple preference optimization",),
    peers={
        "liger-kernel": "the same; its defaults are beta=0.1 and gamma=0.5",
        "trl": "the same, as a variant of CPO, with the gamma of the paper's ratio gamma / beta",
    },
)
def simpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""SimPO: the better answer is likelier per token, by a margin.

    .. math::
        v = -(1 - \varepsilon) \log \sigma(h) - \varepsilon \log \sigma(-h), \qquad
        h = \frac{\beta}{|y_w|} \log \pi(y_w) - \frac{\beta}{|y_l|} \log \pi(y_l) - \gamma

    The log-probabilities are *averages* over the tokens: ``sequence_log_probs(..., average=True)``.

    Args:
        policy_chosen: log-probability of the preferred answer under the model that is trained,
            floating point, shape (N), in nats, averaged over the answer's tokens.
        policy_rejected: the same of the other answer.
        beta: scale of the rewards, above 0; the paper has 2 to 2.5.
        gamma: margin of the rewards, at least 0; the paper has 0.3 to 1.6.
        label_smoothing: the share :math:`\varepsilon` of labels that are wrong, from 0 to 1.
        weight: how much each pair counts, the shape of the first tensor.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - All tensors: :math:`(N)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import simpo_loss
        >>> chosen, rejected = torch.tensor([-0.5, -1.5]), torch.tensor([-1.5, -1.0])
        >>> simpo_loss(chosen, rejected, reduction="none")
        tensor([0.3133, 2.1269])

    Source:
        Meng et al. (2024), SimPO: simple preference optimization with a reference-free reward.
    """
    tensors = aligned(policy_chosen=policy_chosen, policy_rejected=policy_rejected)
    number("beta", beta, above=0)
    number("gamma", gamma, minimum=0)
    number("label_smoothing", label_smoothing, minimum=0, maximum=1)

    def values(chosen: Tensor, rejected: Tensor) -> Tensor:
        return smoothed_logistic(beta * (chosen - rejected) - gamma, label_smoothing)

    return reduce_swept(values, tensors, weight, reduction, mask=mask, normalizer=normalizer)


SimPOLoss = as_module(simpo_loss, name="SimPOLoss")


@loss(
    inputs=PAIR,
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    module="CPOLoss",
    also=("contrastive preference optimization",),
    peers={
        "trl, liger-kernel": "the last term is a mean over the tokens of the batch",
    },
)
def cpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Contrastive preference optimisation: prefer the better answer, and learn to write it.

    .. math::
        v = -(1 - \varepsilon) \log \sigma(h) - \varepsilon \log \sigma(-h)
            - \alpha \log \pi(y_w), \qquad
        h = \beta \left( \log \pi(y_w) - \log \pi(y_l) \right)

    DPO with a uniform reference, and behaviour cloning on the preferred answer.

    Args:
        policy_chosen: log-probability of the preferred answer under the model that is trained,
            floating point, shape (N), in nats, summed over the answer's tokens.
        policy_rejected: the same of the other answer.
        beta: scale of the rewards, above 0.
        alpha: weight of the log-likelihood of the preferred answer, at least 0.
        label_smoothing: the share :math:`\varepsilon` of labels that are wrong, from 0 to 1.
        weight: how much each pair counts, the shape of the first tensor.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - All tensors: :math:`(N)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import cpo_loss
        >>> chosen, rejected = torch.tensor([-10.0, -12.0]), torch.tensor([-14.0, -9.0])
        >>> cpo_loss(chosen, rejected, reduction="none")
        tensor([10.5130, 12.8544])

    Source:
        Xu et al. (2024), Contrastive preference optimization: pushing the boundaries of LLM
        performance in machine translation.
    """
    tensors = aligned(policy_chosen=policy_chosen, policy_rejected=policy_rejected)
    number("beta", beta, above=0)
    number("alpha", alpha, minimum=0)
    number("label_smoothing", label_smoothing, minimum=0, maximum=1)

    def values(chosen: Tensor, rejected: Tensor) -> Tensor:
        return smoothed_logistic(beta * (chosen - rejected), label_smoothing) - alpha * chosen

    return reduce_swept(values, tensors, weight, reduction, mask=mask, normalizer=normalizer)


CPOLoss = as_module(cpo_loss, name="CPOLoss")


@loss(
    inputs=PAIR,
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    module="SLiCLoss",
    also=(
        "sequence likelihood calibration",
        "hinge",
    ),
    peers={
        "trl": "the same for beta=1, as the CPO loss of type hinge without its likelihood term",
    },
)
def slic_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    *,
    delta: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""SLiC calibration: the better answer is likelier by a margin, or is pushed.

    .. math::
        v = \max(0, \delta - \log \pi(y_w) + \log \pi(y_l))

    The paper adds a multiple of the negative log-likelihood of a target answer. At the kink the
    gradient is 0.

    Args:
        policy_chosen: log-probability of the preferred answer under the model that is trained,
            floating point, shape (N), in nats, summed over the answer's tokens.
        policy_rejected: the same of the other answer.
        delta: the margin in nats, at least 0.
        weight: how much each pair counts, the shape of the first tensor.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - All tensors: :math:`(N)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import slic_loss
        >>> chosen, rejected = torch.tensor([-10.0, -12.0]), torch.tensor([-14.0, -9.0])
        >>> slic_loss(chosen, rejected, reduction="none")
        tensor([0., 4.])

    Source:
        Zhao et al. (2023), SLiC-HF: sequence likelihood calibration with human feedback.
    """
    tensors = aligned(policy_chosen=policy_chosen, policy_rejected=policy_rejected)
    number("delta", delta, minimum=0)

    def values(chosen: Tensor, rejected: Tensor) -> Tensor:
        return F.relu(delta - (chosen - rejected))

    return reduce_swept(values, tensors, weight, reduction, mask=mask, normalizer=normalizer)


SLiCLoss = as_module(slic_loss, name="SLiCLoss")


def log_odds(log_prob: Tensor) -> Tensor:
    """log(p / (1 - p)) of a probability p, by its logarithm; finite for p = 1 as well."""
    step = torch.where(log_prob == 0, torch.finfo(log_prob.dtype).eps, 0.0)
    log_prob = log_prob - step
    near_one = log_prob > -math.log(2)
    near = torch.where(near_one, log_prob, -math.log(2))
    far = torch.where(near_one, -math.log(2), log_prob)
    complement = torch.where(near_one, (-near.expm1()).log(), (-far.exp()).log1p())
    return log_prob - complement


@loss(
    inputs="policy_chosen logprob[8]; policy_rejected logprob[8]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    module="ORPOLoss",
    also=("odds ratio preference optimization",),
    peers={
        "liger-kernel": "`log1p(-exp(x))`, infinite from x = -3e-8 on",
        "trl": "the same as Liger's; the likelihood is a mean over tokens of the batch",
    },
)
def orpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    *,
    beta: float = 0.1,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""ORPO: supervised fine-tuning that also widens the odds between two answers.

    .. math::
        v = -\log p_w - \beta \log \sigma\left( \log \frac{p_w}{1 - p_w}
            - \log \frac{p_l}{1 - p_l} \right), \qquad
        p = \pi(y)^{1 / |y|}

    The log-probabilities are *averages* over the tokens: ``sequence_log_probs(..., average=True)``.
    The odds of a probability of 1 are not finite; a log-probability of 0 counts as the smallest
    step below it.

    Args:
        policy_chosen: log-probability of the preferred answer under the model that is trained,
            floating point, shape (N), in nats, averaged over the answer's tokens.
        policy_rejected: the same of the other answer.
        beta: weight of the odds ratio (:math:`\lambda` in the paper), at least 0.
        weight: how much each pair counts, the shape of the first tensor.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - All tensors: :math:`(N)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point, or an option is no number.
        ValueError: the shapes differ, a log-probability is above 0, or an option is out of its
            range.

    Example:
        >>> import torch
        >>> from lossproof.losses import orpo_loss
        >>> chosen, rejected = torch.tensor([-0.5, -1.5]), torch.tensor([-1.5, -1.0])
        >>> orpo_loss(chosen, rejected, reduction="none")
        tensor([0.5171, 1.6107])

    Source:
        Hong, Lee, Thorne (2024), ORPO: monolithic preference optimization without reference model.
    """
    tensors = aligned(policy_chosen=policy_chosen, policy_rejected=policy_rejected)
    if mask is not None:
        fits("mask", mask, policy_chosen, kind="bool")
    within("policy_chosen", policy_chosen, maximum=0, where=mask)
    within("policy_rejected", policy_rejected, maximum=0, where=mask)
    number("beta", beta, minimum=0)

    def values(chosen: Tensor, rejected: Tensor) -> Tensor:
        return beta * F.softplus(log_odds(rejected) - log_odds(chosen)) - chosen

    return reduce_swept(
        values, tensors, weight, reduction, mask=mask, normalizer=normalizer, fill=-1.0
    )


ORPOLoss = as_module(orpo_loss, name="ORPOLoss")
