"""Losses over all pairs of a batch: with the matrix of all pairs, and without it on `pairs`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN, EPSILON, ITERATIONS = 0.3, 0.1, 20


def squares(x: Tensor, y: Tensor) -> Tensor:
    """The squared distances of all rows of one to all rows of the other."""
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean, with a slope where two rows meet."""
    return (squares(x, y) + 1e-12).sqrt()


# ---- InfoNCE, both ways, with a learned scale


def info_nce(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    logits = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T * scale
    own = torch.arange(len(query))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _similarity(x: Tensor, y: Tensor, *, scale: Tensor) -> Tensor:
    return x @ y.T * scale


def info_nce_pairs(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    from lossproof import pairs

    query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    rows, columns = pairs(_similarity, "logsumexp", dim=(1, 0))(query, key, scale=scale)
    own = (query * key).sum(1) * scale
    return (rows - own).mean() / 2 + (columns - own).mean() / 2


def info_nce_catalogue(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    from lossproof.losses import info_nce_loss

    return info_nce_loss(query, key, temperature=1 / scale, symmetric=True)


# ---- MMD with a Gaussian kernel of a given width


def mmd(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    def mean(a: Tensor, b: Tensor) -> Tensor:
        return (-0.5 * squares(a, b) / width**2).exp().mean()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def _kernel(x: Tensor, y: Tensor, *, width: Tensor) -> Tensor:
    return (-0.5 * squares(x, y) / width**2).exp()


def mmd_pairs(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    from lossproof import pairs

    rows = pairs(_kernel, "mean")

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return rows(a, b, width=width).mean()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def mmd_catalogue(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    from lossproof.losses import mmd_loss

    return mmd_loss(x, y, bandwidths=float(width))


# ---- triplets of the farthest positive and the nearest negative


def batch_hard(x: Tensor, labels: Tensor) -> Tensor:
    every, same = distances(x, x), labels[:, None] == labels
    far = torch.where(same, every, 0.0).amax(1)
    near = torch.where(same, math.inf, every).amin(1)
    return F.relu(far - near + MARGIN).mean()


def _to_positives(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    return torch.where(x[1][:, None] == y[1], distances(x[0], y[0]), 0.0)


def _to_negatives(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    return torch.where(x[1][:, None] == y[1], math.inf, distances(x[0], y[0]))


def batch_hard_pairs(x: Tensor, labels: Tensor) -> Tensor:
    from lossproof import pairs

    far = pairs(_to_positives, "max")((x, labels))
    near = pairs(_to_negatives, "min")((x, labels))
    return F.relu(far - near + MARGIN).mean()


def batch_hard_catalogue(x: Tensor, labels: Tensor) -> Tensor:
    from lossproof.losses import batch_hard_triplet_loss

    return batch_hard_triplet_loss(x, labels, margin=MARGIN)


# ---- entropic optimal transport


def sinkhorn(x: Tensor, y: Tensor) -> Tensor:
    """The dual value after some iterations, differentiated through all of them."""
    cost = squares(x, y)
    rows, columns = math.log(len(x)), math.log(len(y))
    of_y = cost.new_zeros(len(y))
    for _ in range(ITERATIONS):
        of_x = -EPSILON * torch.logsumexp((of_y - cost) / EPSILON - columns, 1)
        of_y = -EPSILON * torch.logsumexp((of_x[:, None] - cost) / EPSILON - rows, 0)
    of_x = -EPSILON * torch.logsumexp((of_y - cost) / EPSILON - columns, 1)
    return of_x.mean() + of_y.mean()


def divergence(x: Tensor, y: Tensor) -> Tensor:
    """The transport without its bias: three of them."""
    return sinkhorn(x, y) - sinkhorn(x, x) / 2 - sinkhorn(y, y) / 2


def _softened(x: Tensor, y: tuple[Tensor, Tensor]) -> Tensor:
    points, potential = y
    return (potential - squares(x, points)) / EPSILON


def sinkhorn_pairs(x: Tensor, y: Tensor) -> Tensor:
    """The same; in the gradient the potential is held, which is right where it has converged."""
    from lossproof import pairs

    along = pairs(_softened, "logsumexp")
    rows, columns = math.log(len(x)), math.log(len(y))
    with torch.no_grad():
        of_y = y.new_zeros(len(y))
        for _ in range(ITERATIONS):
            of_x = -EPSILON * (along(x, (y, of_y)) - columns)
            of_y = -EPSILON * (along(y, (x, of_x)) - rows)
    last_of_x = -EPSILON * (along(x, (y, of_y)) - columns)
    return last_of_x.mean() + of_y.mean()


def sinkhorn_catalogue(x: Tensor, y: Tensor) -> Tensor:
    from lossproof.losses import sinkhorn_loss

    return sinkhorn_loss(x, y, epsilon=EPSILON, iterations=ITERATIONS)


def sinkhorn_geomloss(x: Tensor, y: Tensor) -> Tensor:
    """The same divergence, with a regularisation that falls by its own schedule."""
    from geomloss import SamplesLoss

    loss: Callable[..., Tensor] = SamplesLoss(
        "sinkhorn", p=2, blur=math.sqrt(EPSILON / 2), backend="tensorized"
    )
    return 2 * loss(x, y)
