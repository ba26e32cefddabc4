"""What a student learns from a teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.checks.likeness.binding import distilled, pair
from lossproof.checks.likeness.families.classification import soft_softmax
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms, Usual

Tensor = torch.Tensor


def _soft_kl(axis: int) -> Definition:
    def terms(input: Tensor, target: Tensor, *, temperature: Usual = (1.0,)) -> Terms:
        if input.dim() < 2 or (axis == 1 and input.dim() == 2):
            return {}
        t = float(temperature)
        logs, teacher = torch.log_softmax(input / t, axis), torch.log_softmax(target / t, axis)
        return {"KL(teacher || student)": Term(teacher.exp() * (teacher - logs))}

    return terms


def _soft_one_cold(which: str, kl: bool) -> Definition:
    def terms(input: Tensor, target: Tensor, *, temperature: Usual = ()) -> Terms:
        t = float(temperature)
        if t == 1 or input.dim() < 2:
            return {}
        logs = torch.log_softmax(input / (1 if which == "student" else t), -1)
        teacher = torch.log_softmax(target / (1 if which == "teacher" else t), -1)
        return {"KL": Term(teacher.exp() * ((teacher if kl else 0) - logs))}

    return terms


def _soft_view_without_permute(kl: bool) -> Definition:
    def terms(input: Tensor, target: Tensor, *, temperature: Usual = (1.0,)) -> Terms:
        if input.dim() < 3:
            return {}
        t, classes = float(temperature), input.shape[1]
        logs = torch.log_softmax(input.contiguous().view(-1, classes) / t, -1)
        teacher = torch.log_softmax(target.contiguous().view(-1, classes) / t, -1)
        return {"soft": Term(teacher.exp() * ((teacher if kl else 0) - logs))}

    return terms


def distillation(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: Usual = (1.0, 4.0),
) -> Terms:
    t = float(temperature)
    logs, soft = torch.log_softmax(student / t, -1), torch.log_softmax(teacher / t, -1)
    return {
        "KL(teacher || student)": Term(soft.exp() * (soft - logs), None),
        "cross entropy": Term(F.cross_entropy(student, target.reshape(-1), reduction="none"), None),
    }


def _distillation_weighted(share: str, squared: bool) -> Definition:
    def terms(
        student: Tensor, teacher: Tensor, target: Tensor, *,
        temperature: Usual = (), alpha: Usual = (),
    ) -> Terms:  # fmt: skip
        t, a = float(temperature), float(alpha)
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


LOSSES = (
    KnownLoss(
        "soft-distillation", "the distillation loss",
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015",
        r"distil|\bkd\b|kd loss|soft target|teacher|knowledge|pixelwise", pair,
        (
            *(Reading(_soft_kl(axis)) for axis in (-1, 1)),
            *(Reading(soft_softmax(axis)) for axis in (-1, 1)),
            *(Reading(_soft_one_cold(which, kl), f"does not divide the {which}'s logits by the "
                      "temperature", "F.log_softmax(student / T, 1), F.softmax(teacher / T, 1)")
              for which in ("student", "teacher") for kl in (True, False)),
            *(Reading(_soft_view_without_permute(kl), "mixes classes and positions: `view(-1, C)` "
                      "of [N, C, ...] without moving the classes last",
                      "student.movedim(1, -1).reshape(-1, C)") for kl in (True, False)),
        ),
        unlike=r"feature|hint|attention|relation|mse|\bl 2\b|revers|jsd|dino|channel",
        named={"input": r"stud|_s$", "target": r"teach|_t$"},
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
        named={"student": r"stud|_s$", "teacher": r"teach|_t$"},
    ),
)  # fmt: skip
