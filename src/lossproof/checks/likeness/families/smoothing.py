"""Cross entropies with smoothed labels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lossproof.checks.likeness.binding import labelled, pair
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms, Usual
from lossproof.checks.likeness.scores import (
    BINARY,
    PLACES,
    Activation,
    binary_logs,
    from_log_probabilities,
    from_logits,
    label_log,
)

Tensor = torch.Tensor
LEAST = 1e-3
"""An `eps` below this stabilises a logarithm and smooths no label."""


def _smoothed(place: int, activation: Activation, share: str) -> Definition:
    def terms(input: Tensor, target: Tensor, *, smoothing: Usual = ()) -> Terms:
        found = label_log(input, target, place, activation)
        if found is None:
            return {}
        logs, own, _ = found
        eps, classes = float(smoothing), logs.shape[1]
        if not LEAST < eps < 1 or classes < 2:
            return {}
        label, uniform = 1 - eps, eps / classes
        if share == "others":
            uniform = eps / (classes - 1)
            label = 1 - eps - uniform
        if share == "others but one" and classes > 2:
            uniform = eps / (classes - 2)
            label = 1 - eps - uniform
        return {
            "-log p of the label": Term(-own, label),
            "-sum of log p over the classes": Term(-logs, uniform),
        }

    return terms


def _some_smoothing(place: int, activation: Activation) -> Definition:
    """Smoothing of a strength that no option tells."""

    def terms(input: Tensor, target: Tensor, *, unnamed_smoothing: Usual = (None,)) -> Terms:
        del unnamed_smoothing
        found = label_log(input, target, place, activation)
        if found is None:
            return {}
        return {
            "-log p of the label": Term(-found[1], None),
            "-sum of log p over the classes": Term(-found[0], None),
        }

    return terms


def _smoothed_binary(activation: Activation) -> Definition:
    def terms(input: Tensor, target: Tensor, *, smoothing: Usual = ()) -> Terms:
        logs = binary_logs(input, activation)
        eps = float(smoothing)
        if logs is None or not LEAST < eps < 1 or input.dim() < 2:
            return {}
        each, plain = input.shape[-1], 1 - eps
        up, down = logs
        return {
            "-y log p - (1 - y) log(1 - p)": Term(-target * up - (1 - target) * down, plain),
            "-log p of every class": Term(-up, eps / each),
            "-log(1 - p) of every class": Term(-down, eps - eps / each),
        }

    return terms


def _smoothed_binary_halves(activation: Activation) -> Definition:
    return _softened(activation, lambda y, eps, _: (1 - eps) * y + eps / 2, flat=True)


def _smoothed_binary_one_over_n(activation: Activation) -> Definition:
    return _softened(activation, lambda y, eps, classes: (1 - eps) * y + 1 / classes)


def _smoothed_binary_without_discount(activation: Activation) -> Definition:
    return _softened(activation, lambda y, eps, classes: y + eps / classes)


def _softened(
    activation: Activation, soft: Callable[[Tensor, float, int], Tensor], *, flat: bool = False
) -> Definition:
    """The cross entropy of targets that are softened: by the target, eps and the classes.

    ``flat`` is for what needs no axis of classes.
    """

    def terms(input: Tensor, target: Tensor, *, smoothing: Usual = ()) -> Terms:
        logs = binary_logs(input, activation)
        eps = float(smoothing)
        if logs is None or not LEAST < eps < 1 or (input.dim() < 2 and not flat):
            return {}
        up, down = logs
        smooth = soft(target, eps, input.shape[-1] if input.dim() else 1)
        return {"smoothed": Term(-smooth * up - (1 - smooth) * down)}

    return terms


LOSSES = (
    KnownLoss(
        "label-smoothing", "the cross entropy with label smoothing",
        "Szegedy et al., Rethinking the Inception Architecture, 2016",
        r"smooth", labelled,
        (
            *(
                Reading(_smoothed(place, a, share))
                for share in ("all", "others", "others but one")
                for place in PLACES
                for a in (from_log_probabilities, from_logits)
            ),
            *(
                Reading(_some_smoothing(place, a))
                for place in PLACES
                for a in (from_log_probabilities, from_logits)
            ),
        ),
        unlike=r"smooth l|smooth l1|smoothl1|smoothness|edge|focal|dice|smooth ap|smooth grad",
        mend="F.cross_entropy(logits, target, label_smoothing=eps)",
    ),
    KnownLoss(
        "smoothed-bce", "the binary cross entropy with label smoothing",
        "Szegedy et al., Rethinking the Inception Architecture, 2016", r"smooth", pair,
        (
            *(Reading(_smoothed_binary(a)) for a in BINARY),
            *(Reading(_smoothed_binary_halves(a)) for a in BINARY),
            *(
                Reading(_smoothed_binary_one_over_n(a), "adds 1/N to every target where it should "
                        "add eps/N", "target = (1 - eps) * target + eps / target.size(-1)")
                for a in BINARY
            ),
            *(
                Reading(_smoothed_binary_without_discount(a), "adds eps/N to every target and does "
                        "not take it from the label",
                        "target = (1 - eps) * target + eps / target.size(-1)")
                for a in BINARY
            ),
        ),
        unlike=r"smooth l|smooth l1|smoothl1|smoothness|edge|focal|dice|smooth ap|smooth grad",
        mend="target = (1 - eps) * target + eps / target.size(-1)",
    ),
)  # fmt: skip
