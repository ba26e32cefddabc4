"""Focal losses, of two classes and of several."""

from __future__ import annotations

import torch

from lossproof.checks.likeness.binding import labelled, pair
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms, Usual
from lossproof.checks.likeness.scores import (
    ACTIVATIONS,
    BINARY,
    MOST_CLASSES,
    PLACES,
    Activation,
    from_logits,
    label_log,
    sides,
)

Tensor = torch.Tensor


def _focal_binary(activation: Activation) -> Definition:
    return _modulated(activation, "(1 - p)^gamma", "p^gamma")


def _focal_inverted(activation: Activation) -> Definition:
    return _modulated(activation, "p^gamma", "(1 - p)^gamma", slip=True)


def _focal_one_modulator(activation: Activation) -> Definition:
    return _modulated(activation, "(1 - p)^gamma", "(1 - p)^gamma", slip=True)


def _modulated(
    activation: Activation, positive: str, negative: str, *, slip: bool = False
) -> Definition:
    """Any positive weights of the two sides: how alpha is given differs.

    A slip is none where gamma is 0: every modulator is 1 there.
    """

    def terms(input: Tensor, target: Tensor, *, gamma: Usual = (2.0, 1.0)) -> Terms:
        found = sides(input, target, activation)
        g = float(gamma)
        if found is None or (slip and g == 0):
            return {}
        up, down, y = found
        modulators = {"(1 - p)^gamma": down.exp() ** g, "p^gamma": up.exp() ** g}
        return {
            f"-y {positive} log p": Term(-y * modulators[positive] * up, None),
            f"-(1 - y) {negative} log(1 - p)": Term(-(1 - y) * modulators[negative] * down, None),
        }

    return terms


def _focal_alpha(activation: Activation, mirrored: bool) -> Definition:
    """The positive side weighted by alpha, the negative by 1 - alpha, or the other way round."""

    def terms(input: Tensor, target: Tensor, *, gamma: Usual = (2.0,), alpha: Usual = ()) -> Terms:
        found = sides(input, target, activation)
        if found is None:
            return {}
        a = 1 - float(alpha) if mirrored else float(alpha)
        if not 0 < a < 1 or a == 0.5:
            return {}
        up, down, y = found
        g = float(gamma)
        return {
            "positive": Term(-y * down.exp() ** g * up, a),
            "negative": Term(-(1 - y) * up.exp() ** g * down, 1 - a),
        }

    return terms


def _focal_of_batch_binary(activation: Activation) -> Definition:
    def terms(input: Tensor, target: Tensor, *, gamma: Usual = (2.0, 1.0)) -> Terms:
        found = sides(input, target, activation)
        if found is None or float(gamma) == 0:
            return {}
        up, down, y = found
        mean = (-y * up - (1 - y) * down).mean()
        return {"batch focal": Term((1 - torch.exp(-mean)) ** float(gamma) * mean)}

    return terms


def _focal(place: int, activation: Activation, weighted: bool) -> Definition:
    def terms(input: Tensor, target: Tensor, *, gamma: Usual = (2.0, 1.0)) -> Terms:
        found = label_log(input, target, place, activation)
        if found is None:
            return {}
        _, own, labels = found
        each = -((1 - own.exp()).clamp_min(0) ** float(gamma)) * own
        if not weighted:
            return {"-(1 - p)^gamma log p": Term(each)}
        classes = sorted(set(labels.tolist()))
        if not 1 < len(classes) <= MOST_CLASSES:
            return {}
        return {f"-(1 - p)^gamma log p of class {c}": Term(each[labels == c], None)
                for c in classes}  # fmt: skip

    return terms


def _focal_inverted_classes(place: int, activation: Activation) -> Definition:
    def terms(input: Tensor, target: Tensor, *, gamma: Usual = (2.0, 1.0)) -> Terms:
        found = label_log(input, target, place, activation)
        if found is None or float(gamma) == 0:
            return {}
        return {"-p^gamma log p": Term(-(found[1].exp() ** float(gamma)) * found[1])}

    return terms


def _focal_of_batch(place: int, activation: Activation) -> Definition:
    def terms(input: Tensor, target: Tensor, *, gamma: Usual = (2.0, 1.0)) -> Terms:
        found = label_log(input, target, place, activation)
        if found is None or float(gamma) == 0:
            return {}
        mean = -found[1].mean()
        return {"batch focal": Term((1 - torch.exp(-mean)) ** float(gamma) * mean)}

    return terms


def _focal_two_classes(place: int, mirrored: bool) -> Definition:
    def terms(
        input: Tensor, target: Tensor, *, gamma: Usual = (2.0,), made_with_alpha: Usual = ()
    ) -> Terms:
        found = label_log(input, target, place, from_logits)
        if found is None or found[0].shape[1] != 2:
            return {}
        a = 1 - float(made_with_alpha) if mirrored else float(made_with_alpha)
        if not 0 < a < 1 or a == 0.5:
            return {}
        _, own, labels = found
        each = -((1 - own.exp()) ** float(gamma)) * own
        return {
            "positive": Term(each[labels == 1], a),
            "negative": Term(each[labels == 0], 1 - a),
        }

    return terms


LIN = "Lin et al., Focal Loss for Dense Object Detection, 2017"
FOCAL = "return (-(1 - p) ** gamma * log_p).mean()  # p, log_p of each sample's label"
BINARY_FOCAL = "y * alpha * (1 - p) ** gamma * -log_p + (1 - y) * (1 - alpha) * p ** gamma * -log_q"

LOSSES = (
    KnownLoss(
        "sigmoid-focal", "the focal loss", LIN, r"focal", pair,
        (
            *(Reading(_focal_alpha(a, False)) for a in BINARY),
            *(Reading(_focal_alpha(a, True), "gives alpha to the negatives and 1 - alpha to the "
                      "positives; in the paper alpha is for the positives", BINARY_FOCAL,
                      r"background|neg") for a in BINARY),
            *(Reading(_focal_binary(a)) for a in BINARY),
            *(Reading(_focal_inverted(a), "has p^gamma where (1 - p)^gamma belongs, so that easy "
                      "samples count more than hard ones", BINARY_FOCAL) for a in BINARY),
            *(Reading(_focal_one_modulator(a), "weights the negatives by (1 - p)^gamma, which is "
                      "for the positives; theirs is p^gamma", BINARY_FOCAL) for a in BINARY),
            *(Reading(_focal_of_batch_binary(a), "takes the mean over the batch before the factor "
                      "(1 - p)^gamma, so that no sample is weighted by its own difficulty",
                      'bce = F.binary_cross_entropy_with_logits(input, target, reduction="none")')
              for a in BINARY),
        ),
        unlike=r"tversky|quality|varifocal|dice|frequency|heat|center net|centernet|gaussian|"
        r"penalty reduced|asymm|distribution",
    ),
    KnownLoss(
        "softmax-focal", "the focal loss", LIN, r"focal", labelled,
        (
            *(Reading(_focal_two_classes(place, False)) for place in PLACES),
            *(Reading(_focal_two_classes(place, True), "gives alpha to class 0 and 1 - alpha to "
                      "class 1; in the paper alpha is for the positive class",
                      "self.alpha = torch.tensor([1 - alpha, alpha])", r"background|neg")
              for place in PLACES),
            *(Reading(_focal(place, a, False)) for place in PLACES for a in ACTIVATIONS),
            *(Reading(_focal(place, a, True)) for place in PLACES for a in ACTIVATIONS),
            *(Reading(_focal_inverted_classes(place, from_logits), "has p^gamma where "
                      "(1 - p)^gamma belongs, so that easy samples count "
                      "more than hard ones", FOCAL)
              for place in PLACES),
            *(Reading(_focal_of_batch(place, from_logits), "takes the mean over the batch before "
                      "the factor (1 - p)^gamma, so that no sample is weighted by its own "
                      "difficulty",
                      'ce = F.cross_entropy(logits, target, reduction="none")')
              for place in PLACES),
        ),
        unlike=r"tversky|quality|varifocal|dice|frequency|heat|center net|centernet",
    ),
)  # fmt: skip
