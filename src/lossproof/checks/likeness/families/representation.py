"""Losses of representations: alignment, redundancy, and distances of distributions."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.checks.likeness.binding import pair, rows_of_two, single
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms, Usual

Tensor = torch.Tensor


def _cosine(axis: int) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        if input.dim() < 2 or (axis == 1 and input.dim() == 2):
            return {}
        return {"cosine": Term(F.cosine_similarity(input, target, dim=axis), -1.0)}

    return terms


def _cosine_of_all(input: Tensor, target: Tensor) -> Terms:
    return {"cosine": Term(F.cosine_similarity(input.reshape(-1), target.reshape(-1), 0), -1.0)}


def _standardised(x: Tensor, unbiased: bool, eps: float = 0.0, inside: bool = False) -> Tensor:
    """``inside``: the epsilon is added to the variance, as batch normalisation does."""
    spread = x.var(0, unbiased=unbiased)
    scale = (spread + eps).sqrt() if inside else spread.sqrt() + eps
    return (x - x.mean(0)) / scale


def _barlow(unbiased: bool, whole: bool, inside: bool = False) -> Definition:
    """``whole``: the square of the whole matrix, diagonal included, as the redundancy."""

    def terms(one: Tensor, other: Tensor, *, eps: Usual = (0.0, 1e-5, 1e-6, 1e-8, 1e-4)) -> Terms:
        if one.shape != other.shape or len(one) < 3:
            return {}
        z, w = (_standardised(x, unbiased, float(eps), inside) for x in (one, other))
        matrix = z.t() @ w / len(one)
        apart = matrix if whole else matrix - torch.diag(matrix.diagonal())
        return {
            "(1 - c_ii)^2": Term((1 - matrix.diagonal()) ** 2, None),
            "c_ij^2": Term(apart**2, None),
        }

    return terms


def _barlow_unsquared(one: Tensor, other: Tensor) -> Terms:
    if one.shape != other.shape or len(one) < 3:
        return {}
    matrix = _standardised(one, False).t() @ _standardised(other, False) / len(one)
    return {
        "1 - c_ii": Term(1 - matrix.diagonal(), None),
        "c_ij^2": Term((matrix - torch.diag(matrix.diagonal())) ** 2, None),
    }


def _kernel(x: Tensor, y: Tensor, width: float, squared: str) -> Tensor:
    distance = ((x[:, None] - y[None]) ** 2).sum(-1)
    scale = {"2 sigma^2": 2 * width**2, "sigma^2": width**2, "sigma": width, "1": 1 / width}
    return torch.exp(-distance / scale[squared])


def _discrepancy(squared: str, unbiased: bool) -> Definition:
    def terms(one: Tensor, other: Tensor, *, sigma: Usual = (1.0, 2.0, 0.5)) -> Terms:
        own, others = _kernel(one, one, sigma, squared), _kernel(other, other, sigma, squared)
        both = _kernel(one, other, sigma, squared)
        n, m = len(own), len(others)
        if unbiased:
            own = n / (n - 1) * (own - torch.eye(n))
            others = m / (m - 1) * (others - torch.eye(m))
        return {
            "k(x, x)": Term(own / n**2),
            "k(y, y)": Term(others / m**2),
            "k(x, y)": Term(both / (n * m), -2.0),
        }

    return terms


def _penalty(how: str) -> Definition:
    def terms(input: Tensor) -> Terms:
        if input.dim() < 2:
            return {}
        rows = (input.flatten(1) ** 2).sum(1)
        if how == "batch":
            return {"(norm - 1)^2": Term((rows.sum().sqrt() - 1) ** 2)}
        if how == "no root":
            return {"(norm^2 - 1)^2": Term((rows - 1) ** 2)}
        return {"(norm - 1)^2": Term((rows.sqrt() - 1) ** 2)}

    return terms


PENALTY = "((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()"

LOSSES = (
    KnownLoss(
        "negative-cosine", "the negative cosine similarity", "Chen and He, SimSiam, 2021",
        r"cosine|\bcos sim|sim ?siam|byol", pair,
        (Reading(_cosine(-1)), Reading(_cosine(1)), Reading(_cosine_of_all)),
        unlike=r"embedding|margin|annealing|triplet|face|cosine mse",
    ),
    KnownLoss(
        "barlow-twins", "the Barlow Twins loss", "Zbontar et al., Barlow Twins, 2021", r"barlow",
        rows_of_two,
        (
            *(Reading(_barlow(unbiased, False, inside))
              for unbiased in (False, True) for inside in (False, True)),
            *(Reading(_barlow(unbiased, True, inside), "counts the diagonal among what should be 0",
                      "off_diagonal = c - torch.diag(c.diagonal())")
              for unbiased in (False, True) for inside in (False, True)),
            Reading(_barlow_unsquared, "does not square the distance of the diagonal to 1",
                    "((1 - c.diagonal()) ** 2).sum()"),
        ),
    ),
    KnownLoss(
        "mmd", "the squared maximum mean discrepancy",
        "Gretton et al., A Kernel Two-Sample Test, 2012", r"\bmmd|mean discrepancy", rows_of_two,
        tuple(
            Reading(_discrepancy(squared, unbiased))
            for unbiased in (False, True)
            for squared in ("2 sigma^2", "sigma^2", "sigma", "1")
        ),
        mend="k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()",
    ),
    KnownLoss(
        "gradient-penalty", "the gradient penalty", "Gulrajani et al., WGAN-GP, 2017",
        r"gradient penalty|\bgp\b|grad pen", single,
        (
            Reading(_penalty("")),
            Reading(_penalty("batch"), "takes one norm over the whole batch; each sample has its "
                    "own", PENALTY),
            Reading(_penalty("no root"), "takes the squared norm for the norm", PENALTY),
        ),
        unlike=r"\br 1|\br 2|zero",
    ),
)  # fmt: skip
