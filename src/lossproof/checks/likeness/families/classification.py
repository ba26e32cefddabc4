"""Losses of class scores: cross entropies, focal losses, label smoothing, hinges, distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from lossproof.checks.likeness.binding import distilled, labelled, pair
from lossproof.checks.likeness.known import KnownLoss, Reading, Term, Terms

Tensor = torch.Tensor
Values = tuple[float, ...]
MOST_CLASSES = 12


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)


# ---------------------------------------------------------------------------- several classes
def _last(input: Tensor, target: Tensor, place: int) -> tuple[Tensor, Tensor] | None:
    """Scores [M, C] and labels [M], with the classes taken from the second or the last axis."""
    shape = tuple(input.shape)
    label_shape = tuple(target.shape)
    if place == 0:
        if label_shape not in ((shape[0], *shape[2:]), (shape[0], 1, *shape[2:])):
            return None
        return input.movedim(1, -1).reshape(-1, shape[1]), target.reshape(-1)
    if len(shape) < 3 or label_shape != shape[:-1]:
        return None
    return input.reshape(-1, shape[-1]), target.reshape(-1)


Scores = tuple[Tensor, Tensor]


def _logits(input: Tensor) -> Tensor:
    return torch.log_softmax(input, -1)


def _probabilities(input: Tensor) -> Tensor | None:
    inside = bool((input >= 0).all()) and bool((input <= 1 + 1e-6).all())
    return torch.log(input.clamp_min(1e-300)) if inside else None


def _log_probabilities(input: Tensor) -> Tensor | None:
    return input if bool((input <= 1e-6).all()) else None


def _twice(input: Tensor) -> Tensor | None:
    if bool((input >= 0).all()) and bool((input.sum(-1) - 1).abs().max() < 1e-3):
        return None
    return torch.log_softmax(torch.softmax(input, -1), -1)


def _over_batch(input: Tensor) -> Tensor | None:
    return torch.log_softmax(input, 0) if len(input) > 1 else None


def _no_log(input: Tensor) -> Tensor:
    return torch.softmax(input, -1)


Activation = Callable[[Tensor], Tensor | None]


def _label_log(
    input: Tensor, target: Tensor, place: int, activation: Activation
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Log-probabilities [M, C], the one of each label [M], and the labels."""
    scores = _last(input, target, place)
    if scores is None or int(target.max()) >= scores[0].shape[1]:
        return None
    logs = activation(scores[0])
    if logs is None:
        return None
    kept = scores[1] >= 0
    logs, labels = logs[kept], scores[1][kept].long()
    return logs, logs.gather(1, labels[:, None])[:, 0], labels


def _cross_entropy(place: int, activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = _label_log(input, target, place, activation)
        return {} if found is None else {"-log p of the label": Term(-found[1])}

    return terms


def _weighted_cross_entropy(place: int, activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = _label_log(input, target, place, activation)
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


def _log_of_mean(place: int):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = _label_log(input, target, place, _logits)
        return {} if found is None else {"-log mean p": Term(-found[1].exp().mean().log())}

    return terms


# ---------------------------------------------------------------------------- label smoothing
def _smoothed(place: int, activation: Activation, share: str):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, smoothing: Values = (0.1,)) -> Terms:
        found = _label_log(input, target, place, activation)
        if found is None:
            return {}
        logs, own, _ = found
        eps, classes = _number(smoothing), logs.shape[1]
        if not 0 < eps < 1 or classes < 2:
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


def _smoothed_binary(activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, smoothing: Values = (0.1,)) -> Terms:
        logs = _binary_logs(input, activation)
        eps = _number(smoothing)
        if logs is None or not 0 < eps < 1 or input.dim() < 2:
            return {}
        each, plain = input.shape[-1], 1 - eps
        up, down = logs
        return {
            "-y log p - (1 - y) log(1 - p)": Term(-target * up - (1 - target) * down, plain),
            "-log p of every class": Term(-up, eps / each),
            "-log(1 - p) of every class": Term(-down, eps - eps / each),
        }

    return terms


def _smoothed_binary_halves(activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, smoothing: Values = (0.1,)) -> Terms:
        logs = _binary_logs(input, activation)
        eps = _number(smoothing)
        if logs is None or not 0 < eps < 1:
            return {}
        up, down = logs
        smooth = (1 - eps) * target + eps / 2
        return {"smoothed": Term(-smooth * up - (1 - smooth) * down)}

    return terms


def _smoothed_binary_one_over_n(activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, smoothing: Values = (0.1,)) -> Terms:
        logs = _binary_logs(input, activation)
        eps = _number(smoothing)
        if logs is None or not 0 < eps < 1 or input.dim() < 2:
            return {}
        up, down = logs
        smooth = (1 - eps) * target + 1 / input.shape[-1]
        return {"smoothed": Term(-smooth * up - (1 - smooth) * down)}

    return terms


def _smoothed_binary_without_discount(activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, smoothing: Values = (0.1,)) -> Terms:
        logs = _binary_logs(input, activation)
        eps = _number(smoothing)
        if logs is None or not 0 < eps < 1 or input.dim() < 2:
            return {}
        up, down = logs
        smooth = target + eps / input.shape[-1]
        return {"smoothed": Term(-smooth * up - (1 - smooth) * down)}

    return terms


# ---------------------------------------------------------------------------- two classes
def _binary_logits(input: Tensor) -> Tensor:
    return input


def _binary_logs(input: Tensor, activation: Activation) -> tuple[Tensor, Tensor] | None:
    """``log p`` and ``log(1 - p)``."""
    logits = activation(input)
    if logits is None:
        return None
    return F.logsigmoid(logits), F.logsigmoid(-logits)


def _binary_probabilities(input: Tensor) -> Tensor | None:
    inside = bool((input > 0).all()) and bool((input < 1).all())
    return torch.logit(input) if inside else None


def _sigmoid_twice(input: Tensor) -> Tensor | None:
    inside = bool((input >= 0).all()) and bool((input <= 1).all())
    return None if inside else torch.sigmoid(input)


def _sides(input: Tensor, target: Tensor, activation: Activation) -> tuple[Tensor, ...] | None:
    logs = _binary_logs(input, activation)
    if logs is None or not bool(((target >= 0) & (target <= 1)).all()):
        return None
    return (*logs, target.double())


def _binary(activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = _sides(input, target, activation)
        if found is None:
            return {}
        up, down, y = found
        return {"-y log p": Term(-y * up), "-(1 - y) log(1 - p)": Term(-(1 - y) * down)}

    return terms


def _weighted_binary(activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = _sides(input, target, activation)
        if found is None:
            return {}
        up, down, y = found
        return {
            "-y log p": Term(-y * up, None),
            "-(1 - y) log(1 - p)": Term(-(1 - y) * down, None),
        }

    return terms


def _one_sided(activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor) -> Terms:
        found = _sides(input, target, activation)
        return {} if found is None else {"-y log p": Term(-found[2] * found[0])}

    return terms


# ---------------------------------------------------------------------------- focal
def _focal_binary(activation: Activation):  # type: ignore[no-untyped-def]
    """Any positive weights of the two sides: how alpha is given differs."""

    def terms(input: Tensor, target: Tensor, *, gamma: Values = (2.0, 1.0)) -> Terms:
        found = _sides(input, target, activation)
        if found is None or isinstance(gamma, list):
            return {}
        up, down, y = found
        g = _number(gamma)
        return {
            "-y (1 - p)^gamma log p": Term(-y * down.exp() ** g * up, None),
            "-(1 - y) p^gamma log(1 - p)": Term(-(1 - y) * up.exp() ** g * down, None),
        }

    return terms


def _focal_alpha(activation: Activation, mirrored: bool):  # type: ignore[no-untyped-def]
    """The positive side weighted by alpha, the negative by 1 - alpha, or the other way round."""

    def terms(
        input: Tensor, target: Tensor, *, gamma: Values = (2.0,), alpha: Values = ()
    ) -> Terms:
        found = _sides(input, target, activation)
        if found is None or isinstance(gamma, list) or isinstance(alpha, list):
            return {}
        a = 1 - _number(alpha) if mirrored else _number(alpha)
        if not 0 < a < 1 or a == 0.5:
            return {}
        up, down, y = found
        g = _number(gamma)
        return {
            "positive": Term(-y * down.exp() ** g * up, a),
            "negative": Term(-(1 - y) * up.exp() ** g * down, 1 - a),
        }

    return terms


def _focal_inverted(activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, gamma: Values = (2.0, 1.0)) -> Terms:
        found = _sides(input, target, activation)
        if found is None or isinstance(gamma, list) or _number(gamma) == 0:
            return {}
        up, down, y = found
        g = _number(gamma)
        return {
            "-y p^gamma log p": Term(-y * up.exp() ** g * up, None),
            "-(1 - y) (1 - p)^gamma log(1 - p)": Term(-(1 - y) * down.exp() ** g * down, None),
        }

    return terms


def _focal_one_modulator(activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, gamma: Values = (2.0, 1.0)) -> Terms:
        found = _sides(input, target, activation)
        if found is None or isinstance(gamma, list) or _number(gamma) == 0:
            return {}
        up, down, y = found
        g = _number(gamma)
        return {
            "-y (1 - p)^gamma log p": Term(-y * down.exp() ** g * up, None),
            "-(1 - y) (1 - p)^gamma log(1 - p)": Term(-(1 - y) * down.exp() ** g * down, None),
        }

    return terms


def _focal_of_batch_binary(activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, gamma: Values = (2.0, 1.0)) -> Terms:
        found = _sides(input, target, activation)
        if found is None or isinstance(gamma, list) or _number(gamma) == 0:
            return {}
        up, down, y = found
        mean = (-y * up - (1 - y) * down).mean()
        return {"batch focal": Term((1 - torch.exp(-mean)) ** _number(gamma) * mean)}

    return terms


def _focal(place: int, activation: Activation, weighted: bool):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, gamma: Values = (2.0, 1.0)) -> Terms:
        found = _label_log(input, target, place, activation)
        if found is None or isinstance(gamma, list):
            return {}
        logs, own, labels = found
        each = -((1 - own.exp()).clamp_min(0) ** _number(gamma)) * own
        if not weighted:
            return {"-(1 - p)^gamma log p": Term(each)}
        classes = sorted(set(labels.tolist()))
        if not 1 < len(classes) <= MOST_CLASSES:
            return {}
        return {f"-(1 - p)^gamma log p of class {c}": Term(each[labels == c], None)
                for c in classes}  # fmt: skip

    return terms


def _focal_inverted_classes(place: int, activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, gamma: Values = (2.0, 1.0)) -> Terms:
        found = _label_log(input, target, place, activation)
        if found is None or isinstance(gamma, list) or _number(gamma) == 0:
            return {}
        return {"-p^gamma log p": Term(-(found[1].exp() ** _number(gamma)) * found[1])}

    return terms


def _focal_of_batch(place: int, activation: Activation):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, gamma: Values = (2.0, 1.0)) -> Terms:
        found = _label_log(input, target, place, activation)
        if found is None or isinstance(gamma, list) or _number(gamma) == 0:
            return {}
        mean = -found[1].mean()
        return {"batch focal": Term((1 - torch.exp(-mean)) ** _number(gamma) * mean)}

    return terms


def _focal_two_classes(place: int, mirrored: bool):  # type: ignore[no-untyped-def]
    def terms(
        input: Tensor, target: Tensor, *, gamma: Values = (2.0,), made_with_alpha: Values = ()
    ) -> Terms:
        found = _label_log(input, target, place, _logits)
        if found is None or found[0].shape[1] != 2 or isinstance(gamma, list):
            return {}
        a = 1 - _number(made_with_alpha) if mirrored else _number(made_with_alpha)
        if not 0 < a < 1 or a == 0.5:
            return {}
        _, own, labels = found
        each = -((1 - own.exp()) ** _number(gamma)) * own
        return {
            "positive": Term(each[labels == 1], a),
            "negative": Term(each[labels == 0], 1 - a),
        }

    return terms


# ---------------------------------------------------------------------------- soft targets
def _soft(axis: int, mean_axis: bool = False):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor) -> Terms:
        if input.dim() < 2 or (axis == 1 and input.dim() == 2):
            return {}
        return {"-sum target log p": Term(-target * torch.log_softmax(input, axis))}

    return terms


def _soft_probabilities(input: Tensor, target: Tensor) -> Terms:
    logs = _probabilities(input)
    return {} if logs is None else {"-sum target log p": Term(-target * logs)}


def _soft_over_batch(input: Tensor, target: Tensor) -> Terms:
    if input.dim() != 2:
        return {}
    return {"-sum target log p": Term(-target * torch.log_softmax(input, 0))}


def _soft_twice(input: Tensor, target: Tensor) -> Terms:
    logs = _twice(input)
    return {} if logs is None else {"-sum target log p": Term(-target * logs)}


def _soft_softmax(axis: int):  # type: ignore[no-untyped-def]
    """The target given as logits."""

    def terms(input: Tensor, target: Tensor, *, temperature: Values = (1.0,)) -> Terms:
        if input.dim() < 2 or (axis == 1 and input.dim() == 2):
            return {}
        t = _number(temperature)
        soft = torch.softmax(target / t, axis)
        logs = torch.log_softmax(input / t, axis)
        return {
            "-sum p_teacher log p_student": Term(-soft * logs),
        }

    return terms


def _soft_kl(axis: int):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, temperature: Values = (1.0,)) -> Terms:
        if input.dim() < 2 or (axis == 1 and input.dim() == 2):
            return {}
        t = _number(temperature)
        logs, teacher = torch.log_softmax(input / t, axis), torch.log_softmax(target / t, axis)
        return {"KL(teacher || student)": Term(teacher.exp() * (teacher - logs))}

    return terms


def _soft_one_cold(which: str, kl: bool):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, temperature: Values = ()) -> Terms:
        t = _number(temperature)
        if t == 1 or input.dim() < 2:
            return {}
        logs = torch.log_softmax(input / (1 if which == "student" else t), -1)
        teacher = torch.log_softmax(target / (1 if which == "teacher" else t), -1)
        return {"KL": Term(teacher.exp() * ((teacher if kl else 0) - logs))}

    return terms


def _soft_view_without_permute(kl: bool):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, temperature: Values = (1.0,)) -> Terms:
        if input.dim() < 3:
            return {}
        t, classes = _number(temperature), input.shape[1]
        logs = torch.log_softmax(input.contiguous().view(-1, classes) / t, -1)
        teacher = torch.log_softmax(target.contiguous().view(-1, classes) / t, -1)
        return {"soft": Term(teacher.exp() * ((teacher if kl else 0) - logs))}

    return terms


def distillation(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: Values = (1.0, 4.0),
) -> Terms:
    t = _number(temperature)
    logs, soft = torch.log_softmax(student / t, -1), torch.log_softmax(teacher / t, -1)
    return {
        "KL(teacher || student)": Term(soft.exp() * (soft - logs), None),
        "cross entropy": Term(F.cross_entropy(student, target.reshape(-1), reduction="none"), None),
    }


def _distillation_weighted(share: str, squared: bool):  # type: ignore[no-untyped-def]
    def terms(
        student: Tensor, teacher: Tensor, target: Tensor, *,
        temperature: Values = (), alpha: Values = (),
    ) -> Terms:  # fmt: skip
        t, a = _number(temperature), _number(alpha)
        if t == 1 or not 0 < a < 1:
            return {}
        logs, soft = torch.log_softmax(student / t, -1), torch.log_softmax(teacher / t, -1)
        kl = a if share == "alpha on the teacher" else 1 - a
        size = t * t if squared else 1.0
        own = F.cross_entropy(student, target.reshape(-1), reduction="none")
        return {
            "T^2 KL(teacher || student)": Term(soft.exp() * (soft - logs), kl * size),
            "cross entropy": Term(own, 1 - kl),
        }

    return terms


# ---------------------------------------------------------------------------- others
def poly(input: Tensor, target: Tensor, *, epsilon: Values = (1.0, 2.0, -1.0)) -> Terms:
    found = _label_log(input, target, 0, _logits)
    if found is None:
        return {}
    return {
        "-log p": Term(-found[1]),
        "1 - p": Term(1 - found[1].exp(), _number(epsilon)),
    }


def hinge(input: Tensor, target: Tensor, *, margin: Values = (1.0,)) -> Terms:
    return {"(margin - y input)+": Term(torch.relu(_number(margin) - target * input))}


def squared_hinge(input: Tensor, target: Tensor, *, margin: Values = (1.0,)) -> Terms:
    return {"(margin - y input)+^2": Term(torch.relu(_number(margin) - target * input) ** 2)}


def hinge_binary(input: Tensor, target: Tensor, *, margin: Values = (1.0,)) -> Terms:
    signs = 2 * target - 1
    return {"(margin - y input)+": Term(torch.relu(_number(margin) - signs * input))}


def hinge_without_sign(input: Tensor, target: Tensor, *, margin: Values = (1.0,)) -> Terms:
    if not bool((target.abs() == 1).all()):
        return {}
    return {"(margin + y input)+": Term(torch.relu(_number(margin) + target * input))}


def hinge_of_binary_labels(input: Tensor, target: Tensor, *, margin: Values = (1.0,)) -> Terms:
    if not bool(((target == 0) | (target == 1)).all()):
        return {}
    return {"(margin - y input)+": Term(torch.relu(_number(margin) - target * input))}


def multi_margin(input: Tensor, target: Tensor, *, margin: Values = (1.0,)) -> Terms:
    if input.dim() != 2:
        return {}
    labels = target.reshape(-1)
    own = input.gather(1, labels[:, None])
    slack = torch.relu(_number(margin) + input - own).scatter(1, labels[:, None], 0.0)
    return {"(margin + other - own)+": Term(slack)}


def multi_margin_with_itself(input: Tensor, target: Tensor, *, margin: Values = (1.0,)) -> Terms:
    if input.dim() != 2:
        return {}
    labels = target.reshape(-1)
    own = input.gather(1, labels[:, None])
    return {"(own - other + margin)+": Term(
        torch.relu(_number(margin) + own - input).scatter(1, labels[:, None], 0.0))}  # fmt: skip


CE = "F.cross_entropy(logits, target)"
LIN = "Lin et al., Focal Loss for Dense Object Detection, 2017"
FOCAL = "return (-(1 - p) ** gamma * log_p).mean()  # p, log_p of each sample's label"
BINARY_FOCAL = "y * alpha * (1 - p) ** gamma * -log_p + (1 - y) * (1 - alpha) * p ** gamma * -log_q"
PLACES = (0, 1)
ACTIVATIONS: tuple[Activation, ...] = (_logits, _probabilities, _log_probabilities)
BINARY: tuple[Activation, ...] = (_binary_logits, _binary_probabilities)

LOSSES = (
    KnownLoss(
        "cross-entropy", "the cross entropy", "torch.nn.CrossEntropyLoss",
        r"cross entropy|crossentropy|\bce\b|celoss|\bnll\b|nll loss|nllloss|neg log lik|softmax",
        labelled,
        (
            *(Reading(_cross_entropy(place, a)) for place in PLACES for a in ACTIVATIONS),
            *(Reading(_weighted_cross_entropy(place, a)) for place in PLACES for a in ACTIVATIONS),
            *(
                Reading(_cross_entropy(place, _over_batch), "takes the softmax over the samples of "
                        "the batch instead of over the classes", CE)
                for place in PLACES
            ),
            *(
                Reading(_cross_entropy(place, _twice), "takes the softmax twice", CE)
                for place in PLACES
            ),
            *(
                Reading(_cross_entropy(place, _no_log), "takes the probability of the label where "
                        "its logarithm belongs", CE, r"mae|expected|accuracy|soft error")
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
            Reading(_soft_softmax(-1)),
            Reading(_soft_softmax(1)),
            Reading(_soft_over_batch, "takes the softmax over the samples of the batch instead of "
                    "over the classes", CE),
            Reading(_soft_twice, "takes the softmax twice", CE),
        ),
        unlike=r"binary|\bbce|focal|dice|smooth|symmetric|general|distil|\bkd\b",
        calls=("cross_entropy", "cross_entropy_loss"),
    ),
    KnownLoss(
        "label-smoothing", "the cross entropy with label smoothing",
        "Szegedy et al., Rethinking the Inception Architecture, 2016",
        r"smooth", labelled,
        tuple(
            Reading(_smoothed(place, a, share))
            for share in ("all", "others", "others but one")
            for place in PLACES
            for a in (_logits, _log_probabilities)
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
    KnownLoss(
        "bce", "the binary cross entropy", "torch.nn.BCEWithLogitsLoss, torch.nn.BCELoss",
        r"\bbce|binary cross|binary ce|bceloss|log loss|logistic", pair,
        (
            *(Reading(_binary(a)) for a in BINARY),
            *(Reading(_weighted_binary(a)) for a in BINARY),
            Reading(_binary(_sigmoid_twice), "takes the sigmoid twice",
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
            *(Reading(_focal_inverted_classes(place, _logits), "has p^gamma where (1 - p)^gamma "
                      "belongs, so that easy samples count more than hard ones", FOCAL)
              for place in PLACES),
            *(Reading(_focal_of_batch(place, _logits), "takes the mean over the batch before the "
                      "factor (1 - p)^gamma, so that no sample is weighted by its own difficulty",
                      'ce = F.cross_entropy(logits, target, reduction="none")')
              for place in PLACES),
        ),
        unlike=r"tversky|quality|varifocal|dice|frequency|heat|center net|centernet",
    ),
    KnownLoss(
        "soft-distillation", "the distillation loss",
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015",
        r"distil|\bkd\b|kd loss|soft target|teacher|knowledge|pixelwise", pair,
        (
            *(Reading(_soft_kl(axis)) for axis in (-1, 1)),
            *(Reading(_soft_softmax(axis)) for axis in (-1, 1)),
            *(Reading(_soft_one_cold(which, kl), f"does not divide the {which}'s logits by the "
                      "temperature", "F.log_softmax(student / T, 1), F.softmax(teacher / T, 1)")
              for which in ("student", "teacher") for kl in (True, False)),
            *(Reading(_soft_view_without_permute(kl), "mixes classes and positions: `view(-1, C)` "
                      "of [N, C, ...] without moving the classes last",
                      "student.movedim(1, -1).reshape(-1, C)") for kl in (True, False)),
        ),
        unlike=r"feature|hint|attention|relation|mse|\bl 2\b|revers|jsd|dino|channel",
    ),
    KnownLoss(
        "distillation", "the distillation loss",
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015",
        r"distil|\bkd\b|kd loss|teacher|knowledge", distilled,
        (
            *(Reading(_distillation_weighted(share, True))
              for share in ("alpha on the teacher", "alpha on the label")),
            *(Reading(_distillation_weighted(share, False), "has no factor T^2 on the softened "
                      "term, whose gradient is smaller by that factor",
                      "alpha * T**2 * kl + (1 - alpha) * ce")
              for share in ("alpha on the teacher", "alpha on the label")),
            Reading(distillation),
        ),
        unlike=r"feature|hint|attention|relation",
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
