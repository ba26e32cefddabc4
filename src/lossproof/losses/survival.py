"""Losses for the time until an event, where some subjects are lost from sight before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from lossproof.losses.catalogue import loss
from lossproof.write.arguments import (
    among,
    axes,
    choice,
    class_indices,
    finite,
    fits,
    pair,
    same_device,
    same_shape,
    tensor,
    within,
)
from lossproof.write.cumulative import log_sum_following
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce
from lossproof.write.sweeping import reduce_swept

Tensor = torch.Tensor

NEVER = 800.0
"""So much lower, the exponential of a number is nothing beside that of another in float64."""
TIES = ("efron", "breslow")


@loss(
    inputs="input float[12]; time positive[12]; event bool[12]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=True,
    module="CoxPHLoss",
    also=("cox proportional hazards", "partial likelihood", "deepsurv", "survival analysis"),
    peers={
        "torchsurv": "`neg_partial_log_likelihood(log_hz, event, time)`: with ties it depends on "
        "the order of the rows, is infinite from a log hazard of 89 on, and divides by the number "
        "of distinct times; a batch without events is cut off from the graph",
        "pycox": "`cox_ph_loss`: adds 1e-7 inside the logarithm, takes ties in the order of the "
        "rows, and is NaN without events",
    },
)
def cox_ph_loss(
    input: Tensor,
    time: Tensor,
    event: Tensor,
    strata: Tensor | None = None,
    *,
    ties: str = "efron",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Cox proportional hazards: who has the event, of all who still could have had it.

    .. math::
        v_i = -\log \frac{\exp x_i}{\sum_{j:\, t_j \geq t_i} \exp x_j}
        \quad \text{where subject } i \text{ has an event}

    This is Breslow's form. Where :math:`m` subjects have their events at one time, Efron's takes
    :math:`r/m` of the sum over these :math:`m` away from the denominator, for
    :math:`r = 0, \dots, m - 1`, and here each of them has the mean of the :math:`m` logarithms.
    A subject that is lost from sight at the time of an event was still at risk.

    For weights that count in the risk sets, too, as R's ``coxph`` has them, pass
    ``input + weight.log()`` beside ``weight``.

    Args:
        input: logarithm :math:`x` of each subject's hazard relative to the others, (N,), floating
            point.
        time: time :math:`t` of the event or of the last sight, (N,), not negative, any unit.
        event: whether it was an event, (N,), bool or 0 and 1.
        strata: a group for each subject, (N,), integers: only subjects of one group are compared.
        ties: ``"efron"`` or ``"breslow"``.
        weight: how much each event counts, (N,) or (1,).
        mask: which subjects count, bool, (N,) or (1,). The others are in no risk set, and may be
            NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights of the events, without weights by the number of events.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N)`, time and event: the same.
        - Output: scalar; for ``"none"`` :math:`(N)`, 0 where there is no event.

    Raises:
        TypeError: the input is not floating point, or strata are no integers.
        ValueError: the shapes differ, a time is negative, infinite or NaN, an event is neither 0
            nor 1, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import cox_ph_loss
        >>> log_hazard = torch.tensor([1.0, 0.0, -1.0])
        >>> cox_ph_loss(log_hazard, torch.tensor([2.0, 5.0, 5.0]), torch.tensor([1, 0, 1]))
        tensor(0.8604)

    Source:
        Cox (1972), Regression models and life-tables; Efron (1977), The efficiency of Cox's
        likelihood function for censored data; Breslow (1974), Covariance analysis of censored
        survival data.
    """
    choice("ties", ties, TIES)
    axes("input", tensor("input", input), 1, layout="(N,)")
    pair(input, time, ("input", "time"), target_kind="number")
    if strata is not None:
        same_shape(input, tensor("strata", strata, "integer"), ("input", "strata"))
    counts = _fitting(mask, input)
    event = _events(event, time, counts)
    within("time", time, 0, where=counts)
    finite("time", time, where=counts)
    keys = [] if strata is None else [strata]
    if counts is not None:
        input, time = torch.where(counts, input, 0.0), torch.where(counts, time, 0)
        keys.append(counts.expand_as(input))  # what does not count comes first, in no risk set
    order = _order([~event, time, *keys])
    ordered = [key.gather(0, order) for key in (event, time, *keys)]
    block = None if strata is None else _runs([strata.gather(0, order)])
    risks = _log_risks(input.gather(0, order), _runs(ordered), block, ties)
    values = torch.zeros_like(risks).scatter(0, order, risks).to(input.dtype)
    return reduce(values, weight, reduction, mask=event, normalizer=normalizer)


def _log_risks(scores: Tensor, group: Tensor, block: Tensor | None, ties: str) -> Tensor:
    """How far the logarithm of the risk set's sum is above each score.

    The scores are sorted: strata are blocks, times ascend in a block, and of the subjects of one
    time those with an event stand first; each such run of ties is a group.
    """
    scores = scores.double() if scores.device.type != "mps" else scores
    position = torch.arange(scores.shape[0], device=scores.device)
    size = torch.zeros_like(group).scatter_add(0, group, torch.ones_like(group))
    start, size = (size.cumsum(0) - size).gather(0, group), size.gather(0, group)
    # The ties themselves, relative to the highest of them.
    peak = torch.full_like(scores, -torch.inf).scatter_reduce(0, group, scores.detach(), "amax")
    peak = peak.gather(0, group)
    share = _sum_of_group(torch.exp(scores - peak), group).log()
    if ties == "efron":
        share = share + torch.log1p((start - position).to(scores.dtype) / size)
    # All who come after them.
    after = start + size
    follows = after < position.shape[0]
    after = torch.where(follows, after, 0)
    offset = torch.zeros_like(scores)
    if block is not None:
        follows = follows & (block.gather(0, after) == block)
        offset = block * (NEVER + 2 * F.pad(scores.detach().abs(), (0, 1)).amax())
    rest = log_sum_following(scores - offset).gather(0, after) + offset - peak
    log_risk = share - F.logsigmoid(torch.where(follows, share - rest, torch.inf))
    return _sum_of_group(log_risk, group) / size + (peak - scores)


def _sum_of_group(values: Tensor, group: Tensor) -> Tensor:
    return torch.zeros_like(values).scatter_add(0, group, values).gather(0, group)


def _order(keys: Sequence[Tensor]) -> Tensor:
    """The order by several keys, the most significant last."""
    order = keys[0].argsort(dim=0, stable=True)
    for key in keys[1:]:
        order = order.gather(0, key.gather(0, order).argsort(dim=0, stable=True))
    return order


def _runs(keys: Sequence[Tensor]) -> Tensor:
    """The number, from 0 on, of the run of equal keys in which an element stands."""
    changes = torch.stack([key[1:] != key[:-1] for key in keys]).any(0)
    return F.pad(changes.long(), (1, 0)).cumsum(0)[: keys[0].shape[0]]


def _fitting(mask: Tensor | None, values: Tensor) -> Tensor | None:
    return None if mask is None else fits("mask", mask, values, kind="bool")


def _events(event: Tensor, time: Tensor, counts: Tensor | None) -> Tensor:
    """Which subjects have an event, and count."""
    same_shape(time, tensor("event", event, "any"), ("time", "event"))
    happened = among("event", event, (0, 1), where=counts) == 1
    return happened if counts is None else happened & counts


@loss(
    inputs="input float[8,5]; time int[8]<5; event bool[8]",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="DiscreteHazardNLLLoss",
    also=("discrete time survival", "logistic hazard", "nnet survival", "censoring"),
    peers={
        "pycox": "`NLLLogistiHazardLoss`: the same function",
        "nnet-survival": "takes probabilities to survive each interval; a subject lost from sight "
        "in one survived it only if it was seen for half of it",
    },
)
def discrete_hazard_nll_loss(
    input: Tensor,
    time: Tensor,
    event: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Discrete hazard: the likelihood of surviving interval after interval, then having the event.

    .. math::
        v = -\sum_{k < t} \log (1 - h_k) - \begin{cases}
            \log h_t & \text{with an event} \\ \log (1 - h_t) & \text{without} \end{cases},
        \qquad h_k = \sigma(x_k)

    A subject that is lost from sight in an interval has survived it. Where it should count as
    having survived only the intervals before, pass ``time - 1``, and mask what was lost in the
    first.

    Args:
        input: logits :math:`x` of the hazard in each of T intervals, the last axis, floating point.
        time: the interval of the event or of the last sight, from 0 to T - 1, integers, the shape
            of ``input`` without its last axis.
        event: whether it was an event, the shape of ``time``, bool or 0 and 1.
        weight: how much each subject counts, the shape of ``time`` or 1 where it is the same for
            all.
        mask: which subjects count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of subjects that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, T)`, time and event: :math:`(*)`.
        - Output: scalar; for ``"none"`` the shape of the times.

    Raises:
        TypeError: the input is not floating point, or a time is no integer.
        ValueError: the shapes differ, a time is no interval, an event is neither 0 nor 1, or an
            option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import discrete_hazard_nll_loss
        >>> logits = torch.tensor([[-2.0, 0.0, 5.0], [-2.0, 0.0, 5.0]])
        >>> time, event = torch.tensor([1, 1]), torch.tensor([True, False])
        >>> discrete_hazard_nll_loss(logits, time, event, reduction="none")
        tensor([0.8201, 0.8201])

    Source:
        Singer, Willett (1993), It's about time: using discrete-time survival analysis to study
        duration and the timing of events; for networks: Gensheimer, Narasimhan (2019), A scalable
        discrete-time survival model for neural networks.
    """
    axes("input", tensor("input", input), -1, layout="(*, T)")
    tensor("time", time, "integer")
    if time.shape != input.shape[:-1]:
        raise ValueError(
            "`time` must have the shape of `input` without its last axis, "
            f"{list(input.shape[:-1])}, got {list(time.shape)}"
        )
    same_device(input, time, ("input", "time"))
    counts = _fitting(mask, time)
    event = _events(event, time, counts)
    interval = torch.arange(input.shape[-1], device=input.device)
    if counts is not None:
        time, input = torch.where(counts, time, 0), torch.where(counts[..., None], input, 0.0)
    time = class_indices("time", time, input.shape[-1])
    place = torch.where(event, time, -1).unsqueeze(-1)
    outcome = torch.where(interval == place, 1.0, -1.0).to(input.dtype)
    # What is no more seen is as good as certain.
    logits = torch.where(interval <= time.unsqueeze(-1), outcome * input, torch.inf)
    values = -F.logsigmoid(logits).sum(-1)
    return reduce(values, weight, reduction, mask=counts, normalizer=normalizer)


@loss(
    inputs=(
        "input float[8]; time positive[8]; event bool[8]",
        "input float[8]; time positive[8]; event bool[8]; log_shape unit[8]",
    ),
    convex=True,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    module="WeibullNLLLoss",
    also=("exponential", "accelerated failure time", "aft", "parametric survival", "censoring"),
    peers={
        "torchsurv": "`neg_log_likelihood_weibull`: the same for `log_params` (N, 2); cuts the "
        "cumulative hazard off at 1e10, where its gradient ends, and leaves infinite values out",
    },
)
def weibull_nll_loss(
    input: Tensor,
    time: Tensor,
    event: Tensor,
    log_shape: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Weibull: the likelihood of a time until an event, or of having no event until then.

    .. math::
        v = \Bigl(\frac{t}{\lambda}\Bigr)^k - \delta \log \biggl(\frac{k}{t}
            \Bigl(\frac{t}{\lambda}\Bigr)^k\biggr), \qquad \lambda = \exp x

    with :math:`\delta = 1` for an event and 0 for a subject lost from sight. The shape 1 is the
    exponential distribution, with the rate :math:`1/\lambda`.

    Args:
        input: logarithm :math:`x` of the scale, any shape, floating point.
        time: time :math:`t > 0` of the event or of the last sight, the shape of ``input``.
        event: whether it was an event, the shape of ``input``, bool or 0 and 1.
        log_shape: logarithm of the shape :math:`k`, as many as there are scales; without it
            :math:`k = 1`. One shape for all is ``log_shape.expand_as(log_scale)``.
        weight: how much each subject counts, the shape of ``input`` or 1 where it is the same for
            all.
        mask: which subjects count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of subjects that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*)`, time and event: the same.
        - Output: scalar; for ``"none"`` the shape of the input.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the shapes differ, a time is not above 0, an event is neither 0 nor 1, or an
            option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import weibull_nll_loss
        >>> log_scale, time = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])
        >>> weibull_nll_loss(log_scale, time, torch.tensor([1, 0]), torch.tensor([0.5, 0.5]))
        tensor(1.6812)

    Source:
        Kalbfleisch, Prentice (2002), The statistical analysis of failure time data, 2nd edition.
    """
    pair(input, time, ("input", "time"), target_kind="number")
    counts = _fitting(mask, input)
    happened = _events(event, time, counts).to(input.dtype)
    within("time", time, above=0, where=counts)
    if log_shape is None:
        log_shape = torch.zeros_like(input)
    pair(input, log_shape, ("input", "log_shape"))

    def values(input: Tensor, time: Tensor, event: Tensor, log_shape: Tensor) -> Tensor:
        log_time = time.log()
        log_hazard = torch.exp(log_shape) * (log_time - input)  # of all the time up to now
        return torch.exp(log_hazard) - event * (log_shape + log_hazard - log_time)

    tensors = (input, time.to(input.dtype), happened, log_shape)
    return reduce_swept(
        values, tensors, weight, reduction, mask=mask, normalizer=normalizer, fill=(0, 1, 0, 0)
    )


CoxPHLoss = as_module(cox_ph_loss, name="CoxPHLoss")
DiscreteHazardNLLLoss = as_module(discrete_hazard_nll_loss, name="DiscreteHazardNLLLoss")
WeibullNLLLoss = as_module(weibull_nll_loss, name="WeibullNLLLoss")
