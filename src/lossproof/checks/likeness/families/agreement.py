"""Agreement of two series: the concordance and the Pearson correlation."""

from __future__ import annotations

import torch

from lossproof.checks.likeness.binding import pair
from lossproof.checks.likeness.known import KnownLoss, Reading, Term, Terms

Tensor = torch.Tensor


def _concordance(input: Tensor, target: Tensor, unbiased: bool) -> Tensor:
    x, y = input.reshape(-1), target.reshape(-1)
    share = 1 / (len(x) - unbiased)
    covariance = ((x - x.mean()) * (y - y.mean())).sum() * share
    total = x.var(unbiased=unbiased) + y.var(unbiased=unbiased) + (x.mean() - y.mean()) ** 2
    return 2 * covariance / total


def concordance(input: Tensor, target: Tensor) -> Terms:
    return {"concordance": Term(_concordance(input, target, False), -1.0)}


def concordance_unbiased(input: Tensor, target: Tensor) -> Terms:
    return {"concordance": Term(_concordance(input, target, True), -1.0)}


def concordance_mixed(input: Tensor, target: Tensor) -> Terms:
    x, y = input.reshape(-1), target.reshape(-1)
    r = _correlation(x, y)
    total = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return {"concordance": Term(2 * r * x.std() * y.std() / total, -1.0)}


def concordance_without_means(input: Tensor, target: Tensor) -> Terms:
    x, y = input.reshape(-1), target.reshape(-1)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    total = x.var(unbiased=False) + y.var(unbiased=False)
    return {"concordance": Term(2 * covariance / total, -1.0)}


def concordance_unsquared_means(input: Tensor, target: Tensor) -> Terms:
    x, y = input.reshape(-1), target.reshape(-1)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    total = x.var(unbiased=False) + y.var(unbiased=False) + (x.mean() - y.mean())
    return {"concordance": Term(2 * covariance / total, -1.0)}


def concordance_of_deviations(input: Tensor, target: Tensor) -> Terms:
    x, y = input.reshape(-1), target.reshape(-1)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    total = x.std(unbiased=False) + y.std(unbiased=False) + (x.mean() - y.mean()) ** 2
    return {"concordance": Term(2 * covariance / total, -1.0)}


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    return (x * y).sum(-1) / ((x * x).sum(-1) * (y * y).sum(-1)).sqrt()


def pearson(input: Tensor, target: Tensor) -> Terms:
    return {"correlation": Term(_correlation(input.reshape(-1), target.reshape(-1)), -1.0)}


def pearson_rows(input: Tensor, target: Tensor) -> Terms:
    if input.dim() < 2 or input.shape[-1] < 2:
        return {}
    return {"correlation": Term(_correlation(input, target), -1.0)}


def pearson_columns(input: Tensor, target: Tensor) -> Terms:
    if input.dim() != 2 or input.shape[0] < 2:
        return {}
    return {"correlation": Term(_correlation(input.t(), target.t()), -1.0)}


def cosine_uncentred(input: Tensor, target: Tensor) -> Terms:
    x, y = input.reshape(-1), target.reshape(-1)
    return {"cosine": Term((x * y).sum() / (x.norm() * y.norm()), -1.0)}


LOSSES = (
    KnownLoss(
        "concordance", "1 minus the concordance correlation",
        "Lin, A Concordance Correlation Coefficient, 1989", r"concordance|\bccc\b|cccloss", pair,
        (
            Reading(concordance),
            Reading(concordance_unbiased),
            Reading(concordance_mixed),
            Reading(concordance_without_means,
                    "leaves the squared difference of the means out of the denominator",
                    "2 * cov / (var_x + var_y + (mean_x - mean_y) ** 2)"),
            Reading(concordance_unsquared_means,
                    "has the difference of the means in the denominator, not squared",
                    "2 * cov / (var_x + var_y + (mean_x - mean_y) ** 2)"),
            Reading(concordance_of_deviations,
                    "has standard deviations in the denominator where variances belong",
                    "2 * cov / (var_x + var_y + (mean_x - mean_y) ** 2)"),
        ),
        unlike=r"survival|index|cindex",
    ),
    KnownLoss(
        "pearson", "1 minus the Pearson correlation", "Pearson, 1895",
        r"pearson|correlation", pair,
        (
            Reading(pearson),
            Reading(pearson_rows),
            Reading(pearson_columns),
            Reading(cosine_uncentred, "does not subtract the means: this is the cosine",
                    "x, y = x - x.mean(), y - y.mean()", r"cos"),
        ),
        unlike=r"concordance|cross|\bccc\b|auto|\bncc\b|decorrel|spear",
    ),
)  # fmt: skip
