"""Alignment losses of other libraries, at the point where they have log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks.catalogue.imported import Imported
from benchmarks.catalogue.peer import JOINED_HERE, MEAN_HERE, Peer
from lossproof.losses.alignment import dpo_loss, kto_loss, rso_hinge_loss
from lossproof.losses.reference_free_alignment import (
    bradley_terry_loss,
    cpo_loss,
    orpo_loss,
    simpo_loss,
    slic_loss,
)

Tensor = torch.Tensor
Loss = Callable[..., Tensor]


def _liger(name: str) -> Imported:
    """The loss of pairs that a fused head of Liger ends with.

    The head makes both halves of a pair from one tensor, so that they cannot differ in length.
    """
    return Imported(
        f"liger_kernel.chunked_loss.{name.lower()}_loss",
        f"LigerFusedLinear{name}Function.preference_loss_fn",
    )


def _rows_of(chosen: Tensor) -> Tensor:
    """What Liger counts pairs by: the labels of all answers."""
    return chosen.new_zeros(2 * len(chosen), 1)


def _liger_dpo(**options: Any) -> Loss:
    dpo = _liger("DPO")

    def loss(chosen: Tensor, rejected: Tensor, chosen_0: Tensor, rejected_0: Tensor) -> Tensor:
        value: Tensor = dpo(
            chosen,
            rejected,
            _rows_of(chosen),
            ref_chosen_logps=chosen_0,
            ref_rejected_logps=rejected_0,
            **options,
        )[0]
        return value

    return loss


def _liger_pairs(name: str, **options: Any) -> Loss:
    of_pairs = _liger(name)

    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        value: Tensor = of_pairs(chosen, rejected, _rows_of(chosen), **options)[0]
        return value

    return loss


ORPO, CPO, KTO = _liger("ORPO"), _liger("CPO"), _liger("KTO")


def _liger_orpo(chosen: Tensor, rejected: Tensor) -> Tensor:
    """With the likelihood of the chosen answers, which the fused head adds."""
    value: Tensor = ORPO(chosen, rejected, _rows_of(chosen), beta=0.3)[0]
    return value - chosen.mean()


def _liger_cpo(chosen: Tensor, rejected: Tensor) -> Tensor:
    value: Tensor = CPO(chosen, rejected, _rows_of(chosen), beta=0.3)[0]
    return value - chosen.mean()


def _liger_kto(policy: Tensor, reference: Tensor, desirable: Tensor, kl: Tensor) -> Tensor:
    value: Tensor = KTO(policy, desirable, policy, ref_log_prob_chunk=reference, beta=0.2, kl=kl)[0]
    return value


def _torch_slic(chosen: Tensor, rejected: Tensor) -> Tensor:
    return functional.margin_ranking_loss(chosen, rejected, torch.ones_like(chosen), margin=1.0)


def _torch_bradley_terry(chosen: Tensor, rejected: Tensor) -> Tensor:
    return functional.soft_margin_loss(chosen - rejected, torch.ones_like(chosen))


PAIRS = "policy_chosen float[8]; policy_rejected float[8]"
WITH_REFERENCE = f"{PAIRS}; reference_chosen float[8]; reference_rejected float[8]"
LOG_PROBS = "policy_chosen logprob[8]; policy_rejected logprob[8]"

PEERS = (
    Peer(
        "dpo_loss",
        "liger-kernel",
        "LigerFusedLinearDPOFunction.preference_loss_fn(...)",
        dpo_loss,
        _liger_dpo(beta=0.1),
        WITH_REFERENCE,
        not_asked=JOINED_HERE,
    ),
    Peer(
        "dpo_loss",
        "liger-kernel",
        "LigerFusedLinearDPOFunction.preference_loss_fn(..., loss_type='robust')",
        lambda *tensors: dpo_loss(*tensors, label_smoothing=0.2, robust=True),
        _liger_dpo(beta=0.1, label_smoothing=0.2, loss_type="robust"),
        WITH_REFERENCE,
        not_asked=JOINED_HERE,
    ),
    Peer(
        "rso_hinge_loss",
        "liger-kernel",
        "LigerFusedLinearDPOFunction.preference_loss_fn(..., loss_type='hinge')",
        lambda *tensors: rso_hinge_loss(*tensors, beta=0.3),
        _liger_dpo(beta=0.3, loss_type="hinge"),
        WITH_REFERENCE,
        not_asked=JOINED_HERE,
    ),
    Peer(
        "kto_loss",
        "liger-kernel",
        "LigerFusedLinearKTOFunction.preference_loss_fn(..., beta=0.2)",
        lambda *tensors: kto_loss(*tensors, beta=0.2),
        _liger_kto,
        "policy float[8]; reference float[8]; desirable bool[8]; kl positive[]",
        not_asked=JOINED_HERE,
    ),
    Peer(
        "simpo_loss",
        "liger-kernel",
        "LigerFusedLinearSimPOFunction.preference_loss_fn(..., beta=2.0, gamma=1.0)",
        lambda *tensors: simpo_loss(*tensors, label_smoothing=0.1),
        _liger_pairs("SimPO", beta=2.0, gamma=1.0, label_smoothing=0.1),
        PAIRS,
        not_asked=JOINED_HERE,
    ),
    Peer(
        "cpo_loss",
        "liger-kernel",
        "LigerFusedLinearCPOFunction.preference_loss_fn(..., beta=0.3) - chosen.mean()",
        lambda *tensors: cpo_loss(*tensors, beta=0.3),
        _liger_cpo,
        PAIRS,
        not_asked=(*JOINED_HERE, *MEAN_HERE),
    ),
    Peer(
        "orpo_loss",
        "liger-kernel",
        "LigerFusedLinearORPOFunction.preference_loss_fn(..., beta=0.3) - chosen.mean()",
        lambda *tensors: orpo_loss(*tensors, beta=0.3),
        _liger_orpo,
        LOG_PROBS,
        not_asked=(*JOINED_HERE, *MEAN_HERE),
    ),
    Peer(
        "slic_loss",
        "torch",
        "margin_ranking_loss(chosen, rejected, ones, margin=1.0)",
        slic_loss,
        _torch_slic,
        PAIRS,
    ),
    Peer(
        "bradley_terry_loss",
        "torch",
        "soft_margin_loss(chosen - rejected, ones)",
        bradley_terry_loss,
        _torch_bradley_terry,
        "chosen float[8]; rejected float[8]",
        not_asked=JOINED_HERE,
    ),
)
