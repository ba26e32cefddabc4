"""Chunked losses under DDP and FSDP2: two processes do what one does with the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.terms.on_ranks import grads_of
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from lossproof.errors import UnsupportedGraphError
from lossproof.speed.chunking import chunk

WIDTH, CLASSES, PART = 5, 11, 30
IGNORED = -100


class Model(nn.Module):
    """A trunk and a head; the loss is part of it."""

    def __init__(self, head: nn.Module, reduction: str) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh())
        self.head = head
        self.loss = chunk(F.cross_entropy, head, reduction=reduction, chunk_size=8)

    def forward(self, x: torch.Tensor, target: torch.Tensor, normalizer: torch.Tensor) -> Any:
        hidden = self.trunk(x)
        if self.loss.reduction == "none":
            return self.loss(hidden, target).sum() / normalizer
        return self.loss(hidden, target, normalizer=normalizer)


def model(reduction: str, head: str = "linear") -> Model:
    torch.manual_seed(0)
    layers = {
        "linear": lambda: nn.Linear(WIDTH, CLASSES),
        "mlp": lambda: nn.Sequential(nn.Linear(WIDTH, 6), nn.GELU(), nn.Linear(6, CLASSES)),
    }
    return Model(layers[head](), reduction).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Most of what the second rank sees is ignored."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2 * PART, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(0, CLASSES, (2 * PART,), generator=generator)
    target[:3] = IGNORED
    target[PART + 4 :] = IGNORED
    return x, target


def alone(reduction: str, head: str) -> list[Any]:
    whole = model(reduction, head)
    x, target = batch()
    F.cross_entropy(whole.head(whole.trunk(x)), target).backward()
    return grads_of(whole)


def train_on_ranks(wrapping: str, reduction: str, head: str, steps: int) -> Any:
    own = model(reduction, head)
    if wrapping == "ddp":
        wrapped: Any = DistributedDataParallel(own)
    else:
        from torch.distributed.fsdp import fully_shard

        fully_shard(own.trunk)
        if wrapping == "fsdp, a unit of its own":
            fully_shard(own.head)
        wrapped = fully_shard(own)
    rows = slice(dist.get_rank() * PART, (dist.get_rank() + 1) * PART)
    x, target = batch()
    for _ in range(steps):
        own.zero_grad()
        # The gradients become means over the ranks: each counts the items of an average rank.
        counted = (target != IGNORED).sum() / dist.get_world_size()
        wrapped(x[rows], target[rows], counted).backward()
    return grads_of(own)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("wrapping", ["ddp", "fsdp, in the root"])
def test_training_is_that_of_one_process(two_ranks, wrapping, head, reduction):
    for found in two_ranks.run(train_on_ranks, wrapping, reduction, head, 2):
        assert_close(found, alone(reduction, head))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_linear_head_may_be_sharded_by_itself(two_ranks, reduction):
    for found in two_ranks.run(train_on_ranks, "fsdp, a unit of its own", reduction, "linear", 2):
        assert_close(found, alone(reduction, "linear"))


def refused_on_rank() -> str:
    try:
        train_on_ranks("fsdp, a unit of its own", "mean", "mlp", 1)
    except UnsupportedGraphError as error:
        return str(error)
    return "fine"


def test_another_head_that_is_sharded_by_itself_is_refused_in_words(two_ranks):
    for words in two_ranks.run(refused_on_rank):
        assert "parameters are sharded by itself" in words


def assert_close(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-10, atol=1e-12)
