"""The binary cross entropy, and its weighted forms."""

from __future__ import annotations

import torch

from lossproof.checks.likeness.binding import pair
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms, Usual
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


def _one_logarithm(activation: Activation, of_negatives: bool) -> Definition:
    """The same logarithm for both sides, as a copied line has it."""

    def terms(input: Tensor, target: Tensor) -> Terms:
        found = sides(input, target, activation)
        if found is None:
            return {}
        up, down, y = found
        log, name = (down, "log(1 - p)") if of_negatives else (up, "log p")
        return {f"-y {name}": Term(-y * log, None), f"-(1 - y) {name}": Term(-(1 - y) * log, None)}

    return terms


def _one_sided(activation: Activation) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = sides(input, target, activation)
        if found is None or (target.dim() > 1 and bool((target.double().sum(-1) == 1).all())):
            return {}  # one-hot: this is the cross entropy of several classes
        return {"-y log p": Term(-found[2] * found[0])}

    return terms


def _balanced(activation: Activation, inverted: bool) -> Definition:
    """Each side weighted by how many belong to the other, or, by mistake, to itself."""

    def terms(input: Tensor, target: Tensor) -> Terms:
        found = sides(input, target, activation)
        if found is None or not bool(((target == 0) | (target == 1)).all()):
            return {}
        up, down, y = found
        positives = float(y.sum())
        negatives = y.numel() - positives
        if positives == negatives or 0 in (positives, negatives):
            return {}
        if inverted:
            positives, negatives = negatives, positives
        return {
            "-y log p": Term(-y * up, negatives),
            "-(1 - y) log(1 - p)": Term(-(1 - y) * down, positives),
        }

    return terms


def _asymmetric(activation: Activation, swapped: bool) -> Definition:
    def terms(
        input: Tensor, target: Tensor, *, gamma_neg: Usual = (4.0,), gamma_pos: Usual = (1.0, 0.0),
        shift: Usual = (0.05, 0.0),
    ) -> Terms:  # fmt: skip
        found = sides(input, target, activation)
        if found is None or (swapped and gamma_neg == gamma_pos):
            return {}
        up, down, y = found
        wide, narrow = (gamma_pos, gamma_neg) if swapped else (gamma_neg, gamma_pos)
        away = (down.exp() + shift).clamp(max=1)
        return {
            "positive": Term(-y * down.exp() ** narrow * up),
            "negative": Term(-(1 - y) * (1 - away) ** wide * away.log()),
        }

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
            *(Reading(_one_logarithm(a, False), "takes log p of the negatives, too, where "
                      "log(1 - p) belongs", "-(y * log(p) + (1 - y) * log(1 - p)).mean()")
              for a in BINARY),
            *(Reading(_one_logarithm(a, True), "takes log(1 - p) of the positives, too, where "
                      "log p belongs", "-(y * log(p) + (1 - y) * log(1 - p)).mean()")
              for a in BINARY),
        ),
        unlike=r"smooth|focal|dice|asym|balanc|rank|pair|bpr|robust|adjust",
        calls=("binary_cross_entropy_with_logits", "binary_cross_entropy"), everyday=True,
    ),
    KnownLoss(
        "balanced-bce", "the class-balanced cross entropy", "Xie and Tu, HED, 2015",
        r"balanc|\bhed\b", pair,
        (
            *(Reading(_balanced(a, False)) for a in BINARY),
            *(Reading(_balanced(a, True), "weights each class by its own frequency, so that the "
                      "frequent one counts even more",
                      "beta = negatives / total; beta * positive_part + (1 - beta) * negative_part")
              for a in BINARY),
            *(Reading(_weighted_binary(a)) for a in BINARY),
        ),
        unlike=r"focal|dice|effective|softmax",
    ),
    KnownLoss(
        "asymmetric", "the asymmetric loss", "Ridnik et al., Asymmetric Loss, 2021",
        r"asymmetric|\basl\b", pair,
        (
            *(Reading(_asymmetric(a, False)) for a in BINARY),
            *(Reading(_asymmetric(a, True), "has gamma_pos and gamma_neg in each other's place",
                      "gamma = gamma_pos * y + gamma_neg * (1 - y)") for a in BINARY),
        ),
        unlike=r"unified|tversky|similarity|laplace|least|single",
    ),
)  # fmt: skip
