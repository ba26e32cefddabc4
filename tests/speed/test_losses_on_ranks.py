"""Contrastive losses across ranks: two processes train as one does with the whole batch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lossproof.losses import clip_loss, info_nce_loss, nt_xent_loss, siglip_loss, sup_con_loss

Tensor = torch.Tensor
FLOAT64 = torch.float64
LOSSES = {
    "info_nce": info_nce_loss,
    "info_nce_both_ways": partial(info_nce_loss, symmetric=True),
    "nt_xent": nt_xent_loss,
    "clip": clip_loss,
    "siglip": siglip_loss,
    "sup_con": sup_con_loss,
}
COUNT = 12


class Model(nn.Module):
    """Encoders of two views, and a scale that is learned."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.one, self.other = (nn.Linear(5, 4, dtype=FLOAT64) for _ in range(2))
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=FLOAT64))

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.one(batch[:, 0]), self.other(batch[:, 1]), self.scale.square()


def value(name: str, model: nn.Module, rows: slice, weighted: bool, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(COUNT, 2, 5, generator=generator, dtype=FLOAT64)
    weight = torch.rand(COUNT, generator=generator, dtype=FLOAT64)
    mask, labels = torch.arange(COUNT) % 5 != 3, torch.arange(COUNT) % 4
    if weighted:
        options["weight"] = weight[rows]
        if name != "sup_con":
            batch[~mask] = math.nan
            options["mask"] = mask[rows]
    one, other, scale = model(batch[rows].nan_to_num())
    if name == "sup_con":
        if weighted:
            labels, options["weight"] = torch.where(mask, labels, -100), weight[rows].unsqueeze(1)
        views = torch.stack((one, other), 1)
        return sup_con_loss(views, labels[rows], temperature=1 / scale, **options)
    if name in {"clip", "siglip"}:
        return LOSSES[name](one, other, scale, **options)
    return LOSSES[name](one, other, temperature=1 / scale, **options)


def trained(name: str, first: int, weighted: bool) -> tuple[float, list[Tensor]]:
    """The loss of this rank, and the gradients that DDP averages."""
    model = DistributedDataParallel(Model())
    rows = slice(0, first) if dist.get_rank() == 0 else slice(first, COUNT)
    loss = value(name, model, rows, weighted, across_ranks=True)
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters()]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("first", "weighted"), [(6, False), (4, False), (7, True), (0, False)])
@pytest.mark.filterwarnings("ignore")
def test_two_ranks_train_as_one_process_does(two_ranks, name: str, first: int, weighted: bool):
    model = Model()
    wanted = value(name, model, slice(0, COUNT), weighted)
    wanted.backward()
    (one, gradients), (other, same) = two_ranks.run(trained, name, first, weighted)
    assert (one + other) / 2 == pytest.approx(wanted.item(), rel=1e-12)
    for found, again, parameter in zip(gradients, same, model.parameters(), strict=True):
        torch.testing.assert_close(found, again, rtol=0, atol=0)
        torch.testing.assert_close(found, parameter.grad, rtol=1e-10, atol=1e-12)


def values_of_rank(name: str, first: int) -> Tensor:
    rows = slice(0, first) if dist.get_rank() == 0 else slice(first, COUNT)
    with torch.no_grad():
        return value(name, Model(), rows, False, across_ranks=True, reduction="none")


@pytest.mark.parametrize("name", LOSSES)
def test_each_rank_has_the_values_of_its_own(two_ranks, name: str):
    found = torch.cat(two_ranks.run(values_of_rank, name, 5))
    wanted = value(name, Model(), slice(0, COUNT), False, reduction="none")
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-12, atol=1e-14)


def with_learned_weights() -> list[Tensor]:
    rows = slice(0, 5) if dist.get_rank() == 0 else slice(5, COUNT)
    views, weight = learned_weights()
    own = weight[rows].clone().requires_grad_()
    info_nce_loss(*views[:, rows], weight=own, across_ranks=dist.group.WORLD).backward()
    return own.grad


def learned_weights() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, COUNT, 5, generator=generator, dtype=FLOAT64)
    return views, torch.rand(COUNT, generator=generator, dtype=FLOAT64)


def test_weights_that_are_learned_know_the_denominator_of_all_ranks(two_ranks):
    views, weight = learned_weights()
    info_nce_loss(*views, weight=weight.requires_grad_()).backward()
    # Each rank's own weights are no parameters in common, of which DDP would take the mean.
    found = torch.cat(two_ranks.run(with_learned_weights)) / 2
    torch.testing.assert_close(found, weight.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_a_process_that_is_alone_has_the_whole_batch(name: str) -> None:
    found = value(name, Model(), slice(0, COUNT), True, across_ranks=True)
    wanted = value(name, Model(), slice(0, COUNT), True)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0.0)


ROWS = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: info_nce_loss(ROWS, ROWS, across_ranks=2), TypeError, "`across_ranks` must be"),
        (lambda: siglip_loss(ROWS, ROWS, across_ranks="all"), TypeError, "`across_ranks` must be"),
        (lambda: nt_xent_loss(ROWS, ROWS, across_ranks=None), TypeError, "`across_ranks` must be"),
        (
            lambda: info_nce_loss(ROWS, ROWS, ROWS, across_ranks=True),
            ValueError,
            "`across_ranks` must be False where `negatives`",
        ),
        (
            lambda: clip_loss(torch.eye(3), across_ranks=True),
            ValueError,
            "`across_ranks` must be False for logits",
        ),
    ],
)
def test_wrong_calls(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
