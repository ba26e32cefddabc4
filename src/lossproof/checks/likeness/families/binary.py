"""The binary cross entropy."""

from __future__ import annotations

import torch

from lossproof.checks.likeness.binding import pair
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms
from lossproof.checks.likeness.scores import (
    BINARY,
    Activation,
    sides,
    sigmoid_twice,
)

Tensor = torch.Tensor


def _binary(activation: Activation) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = sides(input, target, activation)
        if found is None:
            return {}
        up, down, y = found
        return {"-y log p": Term(-y * up), "-(1 - y) log(1 - p)": Term(-(1 - y) * down)}

    return terms


def _weighted_binary(activation: Activation) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = sides(input, target, activation)
        if found is None:
            return {}
        up, down, y = found
        return {
            "-y log p": Term(-y * up, None),
            "-(1 - y) log(1 - p)": Term(-(1 - y) * down, None),
        }

    return terms


def _one_sided(activation: Activation) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = sides(input, target, activation)
        if found is None or (target.dim() > 1 and bool((target.double().sum(-1) == 1).all())):
            return {}  # one-hot: this is the cross entropy of several classes
        return {"-y log p": Term(-found[2] * found[0])}

    return terms


LOSSES = (
    KnownLoss(
        "bce", "the binary cross entropy", "torch.nn.BCEWithLogitsLoss, torch.nn.BCELoss",
        r"\bbce|binary cross|binary ce|bceloss|log loss|logistic", pair,
        (
            *(Reading(_binary(a)) for a in BINARY),
            *(Reading(_weighted_binary(a)) for a in BINARY),
            Reading(_binary(sigmoid_twice), "takes the sigmoid twice",
                    "F.binary_cross_entropy_with_logits(logits, target)"),
            *(
                Reading(_one_sided(a), "leaves out the term (1 - y) log(1 - p) of the negatives",
                        "F.binary_cross_entropy_with_logits(logits, target)",
                        r"positive|partial|\bpu\b")
                for a in BINARY
            ),
        ),
        unlike=r"smooth|focal|dice|asym|balanc|rank|pair|bpr|robust|adjust",
        calls=("binary_cross_entropy_with_logits", "binary_cross_entropy"), everyday=True,
    ),
)  # fmt: skip
