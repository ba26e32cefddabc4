"""Heads and losses to be chunked, and what each is on the whole batch, written anew."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Tensor = torch.Tensor
ROWS, WIDTH, CLASSES = 40, 6, 9
IGNORED = -100


@dataclass
class HeadCase:
    """A head, what it computes, and the leaves whose gradients count."""

    head: Any
    logits: Callable[[Tensor], Tensor]
    leaves: Sequence[Tensor]


class Scaled(nn.Module):
    """A head of no kind that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, CLASSES)
        self.scale = nn.Parameter(torch.tensor(1.7))

    def forward(self, rows: Tensor) -> Tensor:
        return torch.tanh(self.inner(rows)) * self.scale


def head_case(kind: str) -> HeadCase:
    torch.manual_seed(3)
    if kind in {"matrix", "function", "partial"}:
        weight = nn.Parameter(torch.randn(CLASSES, WIDTH))
        heads = {
            "matrix": weight,
            "function": lambda rows: rows @ weight.t(),
            "partial": functools.partial(F.linear, weight=weight),
        }
        return HeadCase(heads[kind], lambda rows: rows @ weight.t(), [weight])
    if kind == "computed matrix":
        root = torch.randn(CLASSES, WIDTH, requires_grad=True)
        return HeadCase(root * 2, lambda rows: rows @ (root * 2).t(), [root])
    if kind == "embedding":
        table = nn.Embedding(CLASSES, WIDTH)
        return HeadCase(table, lambda rows: rows @ table.weight.t(), [table.weight])
    head: nn.Module = {
        "linear": lambda: nn.Linear(WIDTH, CLASSES),
        "no bias": lambda: nn.Linear(WIDTH, CLASSES, bias=False),
        "mlp": lambda: nn.Sequential(nn.Linear(WIDTH, 7), nn.GELU(), nn.Linear(7, CLASSES)),
        "sequential": lambda: nn.Sequential(nn.Linear(WIDTH, CLASSES), nn.Tanh()),
        "module": Scaled,
        "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, CLASSES)),
        "body of weight norm": lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, 7)), nn.Linear(7, CLASSES)
        ),
        "hooked": hooked_linear,
    }[kind]()
    return HeadCase(head, head, list(head.parameters()))


def hooked_linear() -> nn.Module:
    head = nn.Linear(WIDTH, CLASSES)
    head.register_forward_hook(lambda _module, _inputs, output: 2 * output + 1)
    return head


HEADS = (
    *("linear", "no bias", "embedding", "matrix", "computed matrix", "mlp", "sequential"),
    *("module", "function", "partial", "weight norm", "body of weight norm", "hooked"),
)


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """A loss in plain PyTorch that knows no reduction and ignores nothing."""
    log_probability = torch.log_softmax(logits, 1).gather(1, target[:, None])[:, 0]
    return -((1 - log_probability.exp()) ** 2) * log_probability


@dataclass
class LossCase:
    """A loss, its values of rows that count, and the weight by which each counts in a mean."""

    loss: Any
    values: Callable[[Tensor, Tensor], Tensor]
    counts: Callable[[Tensor], Tensor]
    leaves: Sequence[Tensor] = ()
    ignore_index: int | None = None


def log_probabilities(logits: Tensor) -> Tensor:
    return logits - logits.exp().sum(1, keepdim=True).log()


def loss_case(kind: str) -> LossCase:
    torch.manual_seed(4)
    weights = torch.rand(CLASSES) + 0.5

    def ones(target: Tensor) -> Tensor:
        return torch.ones(len(target))

    def plain(logits: Tensor, target: Tensor) -> Tensor:
        return -log_probabilities(logits)[torch.arange(len(target)), target]

    def smoothed(logits: Tensor, target: Tensor, by: Tensor) -> Tensor:
        return (
            0.9 * by[target] * plain(logits, target)
            - 0.1 / CLASSES * log_probabilities(logits) @ by
        )

    if kind == "cross entropy":
        return LossCase(F.cross_entropy, plain, ones)
    if kind == "smoothed":
        loss = functools.partial(F.cross_entropy, label_smoothing=0.1)
        return LossCase(loss, lambda a, t: smoothed(a, t, torch.ones(CLASSES)), ones)
    if kind == "weighted and smoothed":
        loss = nn.CrossEntropyLoss(weight=weights, label_smoothing=0.1)
        return LossCase(loss, lambda a, t: smoothed(a, t, weights), lambda t: weights[t])
    if kind == "focal":
        return LossCase(focal, focal, ones, ignore_index=IGNORED)
    if kind == "temperature closed over":
        temperature = nn.Parameter(torch.tensor(1.3))
        return LossCase(
            lambda a, t: focal(a * temperature, t),
            lambda a, t: focal(a * temperature, t),
            ones,
            [temperature],
            IGNORED,
        )
    if kind == "module with parameters":
        module = Soft()
        return LossCase(
            module, lambda a, t: focal(a * module.scale, t), ones, [module.scale], IGNORED
        )
    raise KeyError(kind)


class Soft(nn.Module):
    """A loss with a learned scale, which follows the contract."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.8))
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        values = focal(logits * self.scale, target)
        return {"none": values, "sum": values.sum(), "mean": values.mean()}[self.reduction]


LOSSES = (
    *("cross entropy", "smoothed", "weighted and smoothed", "focal"),
    *("temperature closed over", "module with parameters"),
)


def batch(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)
    target = torch.randint(0, CLASSES, (rows,), generator=generator)
    target[::7] = IGNORED
    return hidden.requires_grad_(), target


def truth(
    head: HeadCase,
    loss: LossCase,
    reduction: str,
    hidden: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | None = None,
) -> Tensor:
    """The loss of the rows that count, through all of their logits."""
    keep = target != IGNORED
    if mask is not None:
        keep = keep & mask
    rows = keep.nonzero()[:, 0]
    values = loss.values(head.logits(hidden[rows]), target[rows])
    counts = loss.counts(target[rows])
    if weight is not None:
        values, counts = values * weight[rows], counts * weight[rows]
    if reduction == "none":
        return torch.zeros(len(target)).index_add(0, rows, values)
    if reduction == "sum":
        return values.sum()
    by = counts.sum() if normalizer is None else normalizer
    return values.sum() / by if len(rows) else 0 * values.sum()


def gradients(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Of a scalar in which each value counts for another factor."""
    if value.ndim:
        value = (value * torch.linspace(0.3, 2, value.numel()).reshape(value.shape)).sum()
    return list(torch.autograd.grad(value * 1.7, leaves))


def assert_equal(ours: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
