"""Losses of several classes: cross entropies, Poly-1, hinges."""

from __future__ import annotations

import torch

from lossproof.checks.likeness.binding import labelled, pair
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms, Usual
from lossproof.checks.likeness.scores import (
    ACTIVATIONS,
    MOST_CLASSES,
    PLACES,
    Activation,
    from_logits,
    from_probabilities,
    label_log,
    softmax_over_batch,
    softmax_twice,
    softmax_without_log,
)

Tensor = torch.Tensor


def _cross_entropy(place: int, activation: Activation) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = label_log(input, target, place, activation)
        return {} if found is None else {"-log p of the label": Term(-found[1])}

    return terms


def _weighted_cross_entropy(place: int, activation: Activation) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = label_log(input, target, place, activation)
        if found is None or found[0].shape[1] > MOST_CLASSES:
            return {}
        _, own, labels = found
        classes = sorted(set(labels.tolist()))
        if len(classes) < 2:
            return {}
        return {f"-log p of class {c}": Term(-own[labels == c], None) for c in classes}

    return terms


def _view_without_permute(input: Tensor, target: Tensor) -> Terms:
    if input.dim() < 3 or target.shape != (input.shape[0], *input.shape[2:]):
        return {}
    logs = torch.log_softmax(input.contiguous().view(-1, input.shape[1]), -1)
    labels = target.reshape(-1)
    return {"-log p": Term(-logs.gather(1, labels[:, None]))}


def _log_of_mean(place: int) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = label_log(input, target, place, from_logits)
        return {} if found is None else {"-log mean p": Term(-found[1].exp().mean().log())}

    return terms


def _soft(axis: int, mean_axis: bool = False) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        if input.dim() < 2 or (axis == 1 and input.dim() == 2):
            return {}
        return {"-sum target log p": Term(-target * torch.log_softmax(input, axis))}

    return terms


def _soft_probabilities(input: Tensor, target: Tensor) -> Terms:
    logs = from_probabilities(input)
    return {} if logs is None else {"-sum target log p": Term(-target * logs)}


def _soft_over_batch(input: Tensor, target: Tensor) -> Terms:
    if input.dim() != 2:
        return {}
    return {"-sum target log p": Term(-target * torch.log_softmax(input, 0))}


def _soft_twice(input: Tensor, target: Tensor) -> Terms:
    logs = softmax_twice(input)
    return {} if logs is None else {"-sum target log p": Term(-target * logs)}


def soft_softmax(axis: int) -> Definition:
    """The target given as logits."""

    def terms(input: Tensor, target: Tensor, *, temperature: Usual = (1.0,)) -> Terms:
        if input.dim() < 2 or (axis == 1 and input.dim() == 2):
            return {}
        t = float(temperature)
        soft = torch.softmax(target / t, axis)
        logs = torch.log_softmax(input / t, axis)
        return {
            "-sum p_teacher log p_student": Term(-soft * logs),
        }

    return terms


def poly(input: Tensor, target: Tensor) -> Terms:
    found = label_log(input, target, 0, from_logits)
    if found is None:
        return {}
    return {
        "-log p": Term(-found[1]),
        "1 - p": Term(1 - found[1].exp(), 1.0, "polynomial"),
    }


def hinge(input: Tensor, target: Tensor, *, margin: Usual = (1.0,)) -> Terms:
    return {"(margin - y input)+": Term(torch.relu(float(margin) - target * input))}


def squared_hinge(input: Tensor, target: Tensor, *, margin: Usual = (1.0,)) -> Terms:
    return {"(margin - y input)+^2": Term(torch.relu(float(margin) - target * input) ** 2)}


def hinge_binary(input: Tensor, target: Tensor, *, margin: Usual = (1.0,)) -> Terms:
    signs = 2 * target - 1
    return {"(margin - y input)+": Term(torch.relu(float(margin) - signs * input))}


def hinge_without_sign(input: Tensor, target: Tensor, *, margin: Usual = (1.0,)) -> Terms:
    if not bool((target.abs() == 1).all()):
        return {}
    return {"(margin + y input)+": Term(torch.relu(float(margin) + target * input))}


def hinge_of_binary_labels(input: Tensor, target: Tensor, *, margin: Usual = (1.0,)) -> Terms:
    if not bool(((target == 0) | (target == 1)).all()):
        return {}
    return {"(margin - y input)+": Term(torch.relu(float(margin) - target * input))}


def multi_margin(input: Tensor, target: Tensor, *, margin: Usual = (1.0,)) -> Terms:
    if input.dim() != 2:
        return {}
    labels = target.reshape(-1)
    own = input.gather(1, labels[:, None])
    slack = torch.relu(float(margin) + input - own).scatter(1, labels[:, None], 0.0)
    return {"(margin + other - own)+": Term(slack)}


def multi_margin_with_itself(input: Tensor, target: Tensor, *, margin: Usual = (1.0,)) -> Terms:
    if input.dim() != 2:
        return {}
    labels = target.reshape(-1)
    own = input.gather(1, labels[:, None])
    return {"(own - other + margin)+": Term(
        torch.relu(float(margin) + own - input).scatter(1, labels[:, None], 0.0))}  # fmt: skip


NOT_A_LOG = r"mae|expected|accuracy|soft error"
CE = "F.cross_entropy(logits, target)"

LOSSES = (
    KnownLoss(
        "cross-entropy", "the cross entropy", "torch.nn.CrossEntropyLoss",
        r"cross entropy|crossentropy|\bce\b|celoss|\bnll\b|nll loss|nllloss|neg log lik",
        labelled,
        (
            *(Reading(_cross_entropy(place, a)) for place in PLACES for a in ACTIVATIONS),
            *(Reading(_weighted_cross_entropy(place, a)) for place in PLACES for a in ACTIVATIONS),
            *(
                Reading(_cross_entropy(place, softmax_over_batch), "takes the softmax over the "
                        "samples of the batch instead of over the classes", CE)
                for place in PLACES
            ),
            *(
                Reading(_cross_entropy(place, softmax_twice), "takes the softmax twice", CE)
                for place in PLACES
            ),
            *(
                Reading(_cross_entropy(place, softmax_without_log), "takes the probability of the "
                        "label where its logarithm belongs", CE, NOT_A_LOG)
                for place in PLACES
            ),
            *(
                Reading(_log_of_mean(place), "takes the logarithm of the mean probability, not the "
                        "mean of the logarithms", CE)
                for place in PLACES
            ),
            Reading(_view_without_permute, "mixes classes and positions: `view(-1, C)` of [N, C, "
                    "...] without moving the classes last",
                    "logits.movedim(1, -1).reshape(-1, C)"),
        ),
        unlike=r"smooth|focal|binary|\bbce|margin|arc|gaussian|poisson|triplet|contrast|gumbel|"
        r"temperature|general|symmetric|bi temper|truncat|poly|taylor|ohem|top k|kd|distil|surviv|"
        r"cox|dice|seesaw|adjust|balanced|ldam|hazard|ranking|list",
        calls=("cross_entropy", "nll_loss", "cross_entropy_loss"), everyday=True,
    ),
    KnownLoss(
        "soft-cross-entropy", "the cross entropy with soft targets", "torch.nn.CrossEntropyLoss",
        r"cross entropy|crossentropy|\bce\b|soft target|soft ce|celoss|softmax", pair,
        (
            Reading(_soft(-1)),
            Reading(_soft(1)),
            Reading(_soft_probabilities),
            Reading(soft_softmax(-1)),
            Reading(soft_softmax(1)),
            Reading(_soft_over_batch, "takes the softmax over the samples of the batch instead of "
                    "over the classes", CE),
            Reading(_soft_twice, "takes the softmax twice", CE),
        ),
        unlike=r"binary|\bbce|focal|dice|smooth|symmetric|general|distil|\bkd\b",
        calls=("cross_entropy", "cross_entropy_loss"),
    ),
    KnownLoss(
        "poly-1", "the Poly-1 loss", "Leng et al., PolyLoss, 2022", r"\bpoly", labelled,
        (Reading(poly),), unlike=r"polygon|polynomial",
    ),
    KnownLoss(
        "hinge", "the hinge loss", "Rosasco et al., Are Loss Functions All the Same?, 2004",
        r"hinge", pair,
        (
            Reading(hinge),
            Reading(squared_hinge),
            Reading(hinge_binary),
            Reading(hinge_without_sign, "has the opposite sign at the score: it pushes scores to "
                    "the wrong side", "torch.relu(1 - target * score)"),
            Reading(hinge_of_binary_labels, "is given labels 0 and 1, of which 0 takes the score "
                    "out of the loss", "torch.relu(1 - (2 * target - 1) * score)"),
        ),
        unlike=r"embedding|gan|disc|gen|adv|rank|lovasz|pair|triplet|d loss|g loss",
    ),
    KnownLoss(
        "multi-margin", "the multi-class hinge loss", "Crammer and Singer, 2001",
        r"multi margin|multi class hinge|multiclass hinge|crammer|hinge|svm", labelled,
        (
            Reading(multi_margin),
            Reading(multi_margin_with_itself, "has own and other scores in each other's place",
                    "torch.relu(margin + other - own)"),
        ),
        everyday=True,
    ),
)  # fmt: skip
