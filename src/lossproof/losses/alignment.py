"""Losses that align a language model with preferences, as functions of log-probabilities.

Each takes the log-probability of whole answers, one number for each sequence, from the model that
is trained (the policy) and from the one that it started from (the reference). How they come about,
in one pass or in chunks, with or without a fused head, is of no concern here;
:func:`sequence_log_probs` makes them from the logits of the tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import (
    axes,
    class_indices,
    flag,
    integer,
    number,
    same_device,
    same_shape,
    tensor,
)
from lossproof.write.module import as_module
from lossproof.write.precision import widened
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor

PAIR = "policy_chosen float[8]; policy_rejected float[8]"
PAIR_WITH_REFERENCE = f"{PAIR}; reference_chosen float[8]; reference_rejected float[8]"


def sequence_log_probs(
    logits: Tensor, labels: Tensor, *, ignore_index: int = -100, average: bool = False
) -> Tensor:
    r"""The log-probability of each sequence, from the logits of its tokens.

    .. math::
        \log \pi(y \mid x) = \sum_t \log \operatorname{softmax}(z_t)_{y_t}

    The sum runs over the tokens that are not ignored (prompt and padding are), and is 0 where there
    are none. The logits of an ignored token may hold NaN. Position t of the logits is compared with
    position t of the labels: for a causal model, give ``logits[:, :-1]`` and ``labels[:, 1:]``.

    Args:
        logits: unnormalised scores of the vocabulary, floating point; half precision is computed,
            and returned, in float32.
        labels: the tokens, integers from 0 to V - 1, or ``ignore_index``.
        ignore_index: the label of tokens that do not count.
        average: divide by the number of tokens that count, as SimPO, ORPO and IPO in practice do.

    Shape:
        - Logits: :math:`(N, L, V)`, labels: :math:`(N, L)`.
        - Output: :math:`(N,)`.

    Raises:
        TypeError: a tensor or an option is not of its type.
        ValueError: the shapes differ, or a label is no token.

    Example:
        >>> import torch
        >>> from lossproof.losses.alignment import sequence_log_probs
        >>> logits = torch.zeros(2, 3, 4)  # each of 4 tokens is as likely
        >>> sequence_log_probs(logits, torch.tensor([[1, 2, 3], [0, -100, -100]]))
        tensor([-4.1589, -1.3863])
    """
    logits = axes("logits", widened(tensor("logits", logits)), 3, layout="(N, L, V)")
    integer("ignore_index", ignore_index)
    flag("average", average)
    labels = class_indices("labels", labels, logits.shape[-1], ignore_index=ignore_index)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"`labels` must have the shape of `logits` without its last axis, "
            f"{list(logits.shape[:-1])}, got {list(labels.shape)}"
        )
    same_device(logits, labels, ("logits", "labels"))
    counts = labels != ignore_index
    logits = torch.where(counts.unsqueeze(-1), logits, 0.0)
    labels = torch.where(counts, labels, 0).long()
    costs = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    per_token = torch.where(counts, -costs.view_as(labels), 0.0)
    total = per_token.sum(-1)
    return total / counts.sum(-1).clamp(min=1) if average else total


def aligned(**tensors: Tensor) -> tuple[Tensor, ...]:
    """Log-probabilities of the same sequences: floating point, of one shape, on one device."""
    (name, first), *others = tensors.items()
    tensor(name, first)
    for other, value in others:
        same_shape(first, tensor(other, value), (name, other))
    return tuple(tensors.values())


def smoothed_logistic(margin: Tensor, label_smoothing: float) -> Tensor:
    """-log sigmoid(margin), where a share of the preferences is the wrong way round."""
    right = F.softplus(-margin)
    if not label_smoothing:  # so that an infinite margin is no 0 * inf
        return right
    return (1 - label_smoothing) * right + label_smoothing * F.softplus(margin)


@loss(
    inputs=PAIR_WITH_REFERENCE,
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    module="DPOLoss",
    also=(
        "direct preference optimization",
        "cDPO",
        "robust DPO",
    ),
    peers={
        "trl, liger-kernel": "the same, in a trainer or a fused head; no tokens: NaN in Liger",
    },
)
def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    robust: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Direct preference optimisation: the better answer becomes likelier than the worse one.

    .. math::
        v = -(1 - \varepsilon) \log \sigma(h) - \varepsilon \log \sigma(-h), \qquad
        h = \beta \left( \log \frac{\pi(y_w)}{\pi_0(y_w)} - \log \frac{\pi(y_l)}{\pi_0(y_l)} \right)

    With :math:`\varepsilon > 0` this is conservative DPO (cDPO): a share of the labels is taken to
    be wrong. ``robust=True`` removes the bias of such labels instead: :math:`v = (-(1 -
    \varepsilon) \log \sigma(h) + \varepsilon \log \sigma(-h)) / (1 - 2 \varepsilon)`, which is not
    bounded below.

    Args:
        policy_chosen: log-probability of the preferred answer under the model that is trained,
            floating point, shape (N), in nats, summed over the answer's tokens.
        policy_rejected: the same of the other answer.
        reference_chosen: log-probability of the preferred answer under the reference model.
        reference_rejected: the same of the other answer.
        beta: how strongly the policy is held to the reference, above 0.
        label_smoothing: the share :math:`\varepsilon` of labels that are wrong, from 0 to 1; below
            0.5 if ``robust``.
        robust: remove the bias of wrong labels rather than smooth them.
        weight: how much each pair counts, the shape of the first tensor.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - All tensors: :math:`(N)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point, or an option is not of its type.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import dpo_loss
        >>> policy_chosen = torch.tensor([-10.0, -12.0])
        >>> policy_rejected = torch.tensor([-14.0, -9.0])
        >>> reference = torch.tensor([-11.0, -11.0])
        >>> dpo_loss(policy_chosen, policy_rejected, reference, reference, reduction="none")
        tensor([0.5130, 0.8544])

    Source:
        Rafailov et al. (2023), Direct preference optimization: your language model is secretly a
        reward model. Mitchell (2023), A note on DPO with noisy preferences and relationship to IPO.
        Chowdhury et al. (2024), Provably robust DPO: aligning language models with noisy feedback.
    """
    tensors = aligned(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    number("beta", beta, above=0)
    flag("robust", robust)
    if robust:
        number("label_smoothing", label_smoothing, minimum=0, below=0.5)
    else:
        number("label_smoothing", label_smoothing, minimum=0, maximum=1)

    def values(chosen: Tensor, rejected: Tensor, chosen_0: Tensor, rejected_0: Tensor) -> Tensor:
        margin = beta * ((chosen - chosen_0) - (rejected - rejected_0))
        if not robust:
            return smoothed_logistic(margin, label_smoothing)
        right, wrong = F.softplus(-margin), F.softplus(margin)
        return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)

    return reduce_swept(values, tensors, weight, reduction, mask=mask, normalizer=normalizer)


DPOLoss = as_module(dpo_loss, name="DPOLoss")


@loss(
    inputs=PAIR_WITH_REFERENCE,
    convex=True,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    module="IPOLoss",
    also=("identity preference optimization",),
    peers={
        "trl": "the same, on averages over tokens; `tau` is its `beta`",
    },
)
def ipo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    tau: float = 0.1,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Identity preference optimisation: the margin of the better answer is drawn to 1 / (2 tau).

    .. math::
        v = \left( h - \frac{1}{2 \tau} \right)^2, \qquad
        h = \log \frac{\pi(y_w)}{\pi_0(y_w)} - \log \frac{\pi(y_l)}{\pi_0(y_l)}

    Unlike that of DPO the margin has a finite goal, so that certain preferences do not drive the
    policy away from the reference.

    Args:
        policy_chosen: log-probability of the preferred answer under the model that is trained,
            floating point, shape (N), in nats, summed over the answer's tokens (averaged in common
            practice).
        policy_rejected: the same of the other answer.
        reference_chosen: log-probability of the preferred answer under the reference model.
        reference_rejected: the same of the other answer.
        tau: how strongly the policy is held to the reference, above 0.
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
        >>> from lossproof.losses import ipo_loss
        >>> policy_chosen = torch.tensor([-10.0, -12.0])
        >>> policy_rejected = torch.tensor([-14.0, -9.0])
        >>> reference = torch.tensor([-11.0, -11.0])
        >>> ipo_loss(policy_chosen, policy_rejected, reference, reference, reduction="none")
        tensor([ 1., 64.])

    Source:
        Azar et al. (2024), A general theoretical paradigm to understand learning from human
        preferences.
    """
    tensors = aligned(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    goal = 1 / (2 * number("tau", tau, above=0))

    def values(chosen: Tensor, rejected: Tensor, chosen_0: Tensor, rejected_0: Tensor) -> Tensor:
        return ((chosen - chosen_0) - (rejected - rejected_0) - goal).square()

    return reduce_swept(values, tensors, weight, reduction, mask=mask, normalizer=normalizer)


IPOLoss = as_module(ipo_loss, name="IPOLoss")


@loss(
    inputs=PAIR_WITH_REFERENCE,
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    module="RSOHingeLoss",
    also=("hinge DPO",),
    peers={
        "trl, liger-kernel": "the same, as the DPO loss of type hinge",
    },
)
def rso_hinge_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Hinge on DPO's implicit rewards: a pair far enough apart does not pull any more.

    .. math::
        v = \max(0, 1 - h), \qquad
        h = \beta \left( \log \frac{\pi(y_w)}{\pi_0(y_w)} - \log \frac{\pi(y_l)}{\pi_0(y_l)} \right)

    Of statistical rejection sampling optimisation (RSO). At the kink the gradient is 0.

    Args:
        policy_chosen: log-probability of the preferred answer under the model that is trained,
            floating point, shape (N), in nats, summed over the answer's tokens.
        policy_rejected: the same of the other answer.
        reference_chosen: log-probability of the preferred answer under the reference model.
        reference_rejected: the same of the other answer.
        beta: how strongly the policy is held to the reference, above 0.
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
        >>> from lossproof.losses import rso_hinge_loss
        >>> policy_chosen = torch.tensor([-10.0, -12.0])
        >>> policy_rejected = torch.tensor([-14.0, -9.0])
        >>> reference = torch.tensor([-11.0, -11.0])
        >>> rso_hinge_loss(policy_chosen, policy_rejected, reference, reference, reduction="none")
        tensor([0.6000, 1.3000])

    Source:
        Liu et al. (2024), Statistical rejection sampling improves preference optimization.
    """
    tensors = aligned(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    number("beta", beta, above=0)

    def values(chosen: Tensor, rejected: Tensor, chosen_0: Tensor, rejected_0: Tensor) -> Tensor:
        return F.relu(1 - beta * ((chosen - chosen_0) - (rejected - rejected_0)))

    return reduce_swept(values, tensors, weight, reduction, mask=mask, normalizer=normalizer)


RSOHingeLoss = as_module(rso_hinge_loss, name="RSOHingeLoss")


@loss(
    inputs="policy float[8]; reference float[8]; desirable bool[8]; kl positive[]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    module="KTOLoss",
    also=(
        "Kahneman-Tversky optimization",
        "prospect theory",
    ),
    stops_gradient="the reference point `kl`",
    peers={
        "trl": "the same, with `kl` computed in the trainer",
        "liger-kernel": "the same for a `kl` that is not negative; it does not bound it",
    },
)
def kto_loss(
    policy: Tensor,
    reference: Tensor,
    desirable: Tensor,
    kl: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Kahneman-Tversky optimisation: answers that are good or bad by themselves, without pairs.

    .. math::
        v = \begin{cases}
            \lambda_D \, \sigma(-\beta (r - z_0)) & y \text{ is desirable} \\
            \lambda_U \, \sigma(\beta (r - z_0)) & y \text{ is undesirable}
        \end{cases}, \qquad
        r = \log \frac{\pi(y)}{\pi_0(y)}, \quad z_0 = \max(0, \mathrm{kl})

    The reference point :math:`z_0` is estimated from answers to other prompts of the batch, ``kl =
    (policy_mismatched - reference_mismatched).mean()``, and is held constant; 0 leaves it out.

    Args:
        policy: log-probability of each answer under the model that is trained, floating point,
            shape (N), in nats, summed over the answer's tokens.
        reference: the same under the reference model.
        desirable: whether the answer is a good one, bool, shape (N).
        kl: how far the policy has moved from the reference, a scalar tensor, in nats. A negative
            estimate counts as 0. No gradient flows through it.
        beta: how soon gains and losses saturate, above 0.
        desirable_weight: the weight :math:`\lambda_D` of good answers, at least 0.
        undesirable_weight: the weight :math:`\lambda_U` of bad answers, at least 0.
        weight: how much each answer counts, the shape of the first tensor.
        mask: which answers count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the weights
            that count, without weights by the number of answers that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - All tensors: :math:`(N)`, kl: a scalar.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not of the type above, or an option is no number.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import kto_loss
        >>> policy, reference = torch.tensor([-10.0, -12.0]), torch.tensor([-11.0, -11.0])
        >>> desirable, kl = torch.tensor([True, False]), torch.tensor(2.0)
        >>> kto_loss(policy, reference, desirable, kl, reduction="none")
        tensor([0.5250, 0.4256])

    Source:
        Ethayarajh et al. (2024), KTO: model alignment as prospect theoretic optimization.
    """
    aligned(policy=policy, reference=reference)
    same_shape(policy, tensor("desirable", desirable, "bool"), ("policy", "desirable"))
    number("beta", beta, above=0)
    number("desirable_weight", desirable_weight, minimum=0)
    number("undesirable_weight", undesirable_weight, minimum=0)
    origin = axes("kl", tensor("kl", kl), 0, layout="()").detach().clamp(min=0)
    same_device(policy, kl, ("policy", "kl"))

    def values(policy: Tensor, reference: Tensor, desirable: Tensor, origin: Tensor) -> Tensor:
        gain = beta * (policy - reference - origin)
        lost_good = desirable_weight * torch.sigmoid(-gain)
        kept_bad = undesirable_weight * torch.sigmoid(gain)
        return torch.where(desirable, lost_good, kept_bad)

    tensors = (policy, reference, desirable, origin.expand_as(policy))
    return reduce_swept(values, tensors, weight, reduction, mask=mask, normalizer=normalizer)


KTOLoss = as_module(kto_loss, name="KTOLoss")
