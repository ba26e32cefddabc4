"""What users write themselves and give to lossproof: plain functions that check nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lossproof.write.reduction import reduce

Tensor = torch.Tensor


def squared(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2).mean()


def smooth(input: Tensor, target: Tensor) -> Tensor:
    return (torch.sqrt((input - target) ** 2 + 1) - 1).sum()


def quartic(
    input: Tensor,
    target: Tensor,
    *,
    scale: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """The fourth power of the error."""
    values = ((input - target) / scale) ** 4
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


def of_rows(logits: Tensor, target: Tensor) -> Tensor:
    return torch.logsumexp(logits, 1) - logits.gather(1, target[:, None])[:, 0]


def distances(logits: Tensor, target: Tensor) -> Tensor:
    return (logits - target).square().sum(-1)


def capped(logits: Tensor, target: Tensor, cap: Any) -> Tensor:
    return of_rows(cap * torch.tanh(logits / cap), target)


def batch_mean(logits: Tensor, target: Tensor) -> Tensor:
    """The mean, where a value for each row is wanted."""
    return of_rows(logits, target).mean()


def coupled(logits: Tensor, target: Tensor) -> Tensor:
    """Each row looks at the whole batch."""
    return of_rows(logits - logits.mean(0), target)


LOSSES_OF_LOGITS = (functional.cross_entropy, of_rows, batch_mean, coupled, distances)


class Squared(nn.Module):
    """A loss that learns its scale."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return (self.scale * (input - target)).square().mean()


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.layers(rows)
        return found


def products(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.T


def gaps(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b).square().flatten(2).sum(-1)


def softmaxed(a: Tensor, b: Tensor) -> Tensor:
    """Each pair looks at its row."""
    return (a @ b.T).softmax(1)


def one_number(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T).sum()


def scaled(a: Tensor, b: Tensor, scale: Any) -> Tensor:
    return scale * (a @ b.T)


PAIR_FUNCTIONS = (products, gaps, softmaxed, one_number, scaled)


def cosh(x: Any, y: Any) -> Any:
    return np.cosh(np.clip(x - y, -50, 50)) - 1


def sinh(x: Any, y: Any) -> Any:
    return np.sinh(np.clip(x - y, -50, 50))


def plain_square(x: Any, y: Any) -> Any:
    """Runs on arrays and on tensors."""
    return (x - y) ** 2


def wrong_shape(x: Any, y: Any) -> Any:
    return np.ones(7)


def wrong_slope(x: Any, y: Any) -> Any:
    return 3 * np.sinh(x - y) + 1


def errors(score: Tensor, label: Tensor) -> Tensor:
    return ((score > 0) != (label > 0)).to(score.dtype).mean()


def soft_errors(score: Tensor, label: Tensor) -> Tensor:
    return torch.sigmoid(-score * label).mean()


def error_of_each(score: Tensor, label: Tensor) -> Tensor:
    return ((score > 0) != (label > 0)).to(score.dtype)
