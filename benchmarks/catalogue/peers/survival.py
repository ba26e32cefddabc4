"""Survival losses of other libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.catalogue.imported import Imported
from benchmarks.catalogue.peer import Peer
from lossproof.losses.survival import cox_ph_loss, discrete_hazard_nll_loss, weibull_nll_loss

Tensor = torch.Tensor
Loss = Callable[..., Tensor]

DISTINCT = "input float[12]; time positive[12]; event bool[12]"
TIED = "input float[12]; time count[12]; event bool[12]"


def torchsurv(name: str, **options: Any) -> Loss:
    """A loss of torchsurv, of the file ``module.name``; it takes the event before the time."""
    file, _, function = name.rpartition(".")
    found = Imported(f"torchsurv.loss.{file}", function)

    def loss(input: Tensor, time: Tensor, event: Tensor, *strata: Tensor) -> Tensor:
        more = {"strata": strata[0]} if strata else {}
        value: Tensor = found(input, event.bool(), time, **more, **options)
        return value

    return loss


def pycox(name: str) -> Loss:
    """A loss of pycox, to which an event is a number, as its data sets have it."""
    found = Imported("pycox.models.loss", name)
    return lambda input, time, event: found(input, time, event.to(input.dtype))


def _lost_at_events(loss: Loss) -> Loss:
    """At each time one subject is lost from sight, and then another has its event."""

    def of_pairs(input: Tensor, time: Tensor, event: Tensor) -> Tensor:
        number = torch.arange(len(input))
        return loss(input, (number // 2).to(time.dtype), number % 2 == 1)

    return of_pairs


def _well_ordered(loss: Loss) -> Loss:
    """Hazards from 20 to -20, in the order of the times."""

    def of_ordered(input: Tensor, time: Tensor, event: Tensor) -> Tensor:
        place = time.argsort().argsort() / (len(time) - 1)
        return loss(0 * input + (20 - 40 * place).to(input.dtype), time, event)

    return of_ordered


def _sum_of_cox(ties: str) -> Loss:
    return functools.partial(cox_ph_loss, ties=ties, reduction="sum")


def _torchsurv_cox(ties: str, reduction: str = "sum") -> Loss:
    return torchsurv("cox.neg_partial_log_likelihood", ties_method=ties, reduction=reduction)


def _with_columns(loss: Loss) -> Loss:
    """Scale and shape as two columns."""

    def of_columns(input: Tensor, time: Tensor, event: Tensor, log_shape: Tensor) -> Tensor:
        return loss(torch.stack([input, log_shape], 1), time, event)

    return of_columns


PEERS = (
    Peer(
        "cox_ph_loss", "torchsurv", "neg_partial_log_likelihood()",
        cox_ph_loss, _torchsurv_cox("efron", "mean"), DISTINCT,
    ),
    Peer(
        "cox_ph_loss", "torchsurv", 'neg_partial_log_likelihood(reduction="sum"), ties',
        _sum_of_cox("efron"), _torchsurv_cox("efron"), TIED,
    ),
    Peer(
        "cox_ph_loss", "torchsurv",
        'neg_partial_log_likelihood(ties_method="breslow", reduction="sum"), ties',
        _sum_of_cox("breslow"), _torchsurv_cox("breslow"), TIED,
    ),
    Peer(
        "cox_ph_loss", "torchsurv", "neg_partial_log_likelihood(), ties",
        cox_ph_loss, _torchsurv_cox("efron", "mean"), TIED,
        "the mean divides by the number of distinct times, and by that of events without ties",
    ),
    Peer(
        "cox_ph_loss", "torchsurv", "neg_partial_log_likelihood(), subjects lost at an event",
        _lost_at_events(cox_ph_loss), _lost_at_events(_torchsurv_cox("efron", "mean")), DISTINCT,
        "who is lost from sight at the time of an event leaves its risk set, or not, by the order "
        "of the rows",
        only_compared=True,
    ),
    Peer(
        "cox_ph_loss", "torchsurv", 'neg_partial_log_likelihood(strata=strata, reduction="sum")',
        _sum_of_cox("efron"), _torchsurv_cox("efron"), f"{DISTINCT}; strata int[12]<3",
    ),
    Peer("cox_ph_loss", "pycox", "cox_ph_loss()", cox_ph_loss, pycox("cox_ph_loss"), DISTINCT),
    Peer(
        "cox_ph_loss", "pycox", "cox_ph_loss(), ties",
        functools.partial(cox_ph_loss, ties="breslow"), pycox("cox_ph_loss"), TIED,
        "takes ties in the order of the rows, so that some of them miss one another's risk sets",
    ),
    Peer(
        "cox_ph_loss", "pycox", "cox_ph_loss(), hazards in order",
        _well_ordered(cox_ph_loss), _well_ordered(pycox("cox_ph_loss")), DISTINCT,
        "adds 1e-7 inside the logarithm of sums relative to the highest hazard",
        only_compared=True,
    ),
    Peer(
        "discrete_hazard_nll_loss", "pycox", "nll_logistic_hazard()",
        discrete_hazard_nll_loss, pycox("nll_logistic_hazard"),
        "input float[8,5]; time int[8]<5; event bool[8]",
    ),
    Peer(
        "weibull_nll_loss", "torchsurv", "neg_log_likelihood_weibull()",
        weibull_nll_loss, _with_columns(torchsurv("weibull.neg_log_likelihood_weibull")),
        "input float[8]; time positive[8]; event bool[8]; log_shape unit[8]",
    ),
)  # fmt: skip
