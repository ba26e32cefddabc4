"""Class scores as definitions read them: log-probabilities, of all classes and of the labels."""

from __future__ import annotations

from collections.abc import Callable

import torch

Tensor = torch.Tensor
MOST_CLASSES = 12
"""Beyond these many classes no weight is fitted to each."""


def classes_last(scores: Tensor, target: Tensor, place: int) -> tuple[Tensor, Tensor] | None:
    """Scores [M, C] and labels [M], with the classes taken from the second or the last axis."""
    shape = tuple(scores.shape)
    label_shape = tuple(target.shape)
    if place == 0:
        if label_shape not in ((shape[0], *shape[2:]), (shape[0], 1, *shape[2:])):
            return None
        return scores.movedim(1, -1).reshape(-1, shape[1]), target.reshape(-1)
    if len(shape) < 3 or label_shape != shape[:-1]:
        return None
    return scores.reshape(-1, shape[-1]), target.reshape(-1)


def from_logits(scores: Tensor) -> Tensor:
    """Log-probabilities of logits."""
    return torch.log_softmax(scores, -1)


def from_probabilities(scores: Tensor) -> Tensor | None:
    """Log-probabilities of probabilities; ``None`` for what is none."""
    inside = bool((scores >= 0).all()) and bool((scores <= 1 + 1e-6).all())
    return torch.log(scores.clamp_min(1e-300)) if inside else None


def from_log_probabilities(scores: Tensor) -> Tensor | None:
    """Log-probabilities as they are; ``None`` for what is none."""
    return scores if bool((scores <= 1e-6).all()) else None


def softmax_twice(scores: Tensor) -> Tensor | None:
    """A slip: the softmax of the softmax."""
    if bool((scores >= 0).all()) and bool((scores.sum(-1) - 1).abs().max() < 1e-3):
        return None
    return torch.log_softmax(torch.softmax(scores, -1), -1)


def softmax_over_batch(scores: Tensor) -> Tensor | None:
    """A slip: the softmax over the samples."""
    return torch.log_softmax(scores, 0) if len(scores) > 1 else None


def softmax_without_log(scores: Tensor) -> Tensor:
    """A slip: probabilities where log-probabilities belong."""
    return torch.softmax(scores, -1)


Activation = Callable[[Tensor], Tensor | None]


def label_log(
    scores: Tensor, target: Tensor, place: int, activation: Activation
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Log-probabilities [M, C], the one of each label [M], and the labels."""
    found = classes_last(scores, target, place)
    if found is None or int(target.max()) >= found[0].shape[1]:
        return None
    logs = activation(found[0])
    if logs is None:
        return None
    kept = found[1] >= 0
    logs, labels = logs[kept], found[1][kept].long()
    return logs, logs.gather(1, labels[:, None])[:, 0], labels


def from_binary_logits(scores: Tensor) -> Tensor:
    """Logits as they are."""
    return scores


def binary_logs(scores: Tensor, activation: Activation) -> tuple[Tensor, Tensor] | None:
    """``log p`` and ``log(1 - p)``."""
    logits = activation(scores)
    if logits is None:
        return None
    return torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)


def from_binary_probabilities(scores: Tensor) -> Tensor | None:
    """Logits of probabilities; ``None`` for what is none."""
    inside = bool((scores > 0).all()) and bool((scores < 1).all())
    return torch.logit(scores) if inside else None


def sigmoid_twice(scores: Tensor) -> Tensor | None:
    """A slip: what is a logit only after another sigmoid."""
    inside = bool((scores >= 0).all()) and bool((scores <= 1).all())
    return None if inside else torch.sigmoid(scores)


def sides(scores: Tensor, target: Tensor, activation: Activation) -> tuple[Tensor, ...] | None:
    """``log p``, ``log(1 - p)`` and the target as numbers in [0, 1]."""
    logs = binary_logs(scores, activation)
    if logs is None or not bool(((target >= 0) & (target <= 1)).all()):
        return None
    return (*logs, target.double())


PLACES = (0, 1)
ACTIVATIONS: tuple[Activation, ...] = (from_log_probabilities, from_probabilities, from_logits)
BINARY: tuple[Activation, ...] = (from_binary_logits, from_binary_probabilities)
