"""One training in one process or in several: terms, weighted means, missing labels, a balancer.

Each batch is divided among the ranks, and the labels that are missing are not divided evenly: a
rank may have none at all. With global normalizers every run ends at the same parameters, whatever
the number of processes. With ``--mean-of-means`` each rank divides by what it has itself, as data
parallelism makes of any mean over items, and the run ends somewhere else.

    python examples/distributed.py --save one.pt
    torchrun --nproc-per-node 2 examples/distributed.py --save two.pt
    torchrun --nproc-per-node 2 examples/distributed.py --fsdp --save sharded.pt
    torchrun --nproc-per-node 2 examples/distributed.py --mean-of-means --save wrong.pt

It computes in float64, so that what differs is not rounding.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lossproof.losses import cross_entropy_loss, huber_loss
from lossproof.terms import UncertaintyWeights, UPGrad
from lossproof.terms.balance.base import Balancer

TERMS = ("value", "label", "size")
CLASS_WEIGHT = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)
MISSING = -100
BATCH = 27  # two ranks have 14 and 13 of them
STEPS = 20


class Batch(NamedTuple):
    """Some rows of the data."""

    x: Tensor
    value: Tensor
    trust: Tensor
    """How much each value counts."""
    label: Tensor

    def part(self, rank: int, size: int) -> Batch:
        """What one rank sees of it."""
        return Batch(*(column.tensor_split(size)[rank] for column in self))


class Net(nn.Module):
    """A trunk with a head for a value and one for a label."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.value = nn.Linear(16, 1)
        self.label = nn.Linear(16, len(CLASS_WEIGHT))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(x)
        return self.value(hidden)[:, 0], self.label(hidden)


def whole_batch(step: int) -> Batch:
    """The batch of a step; most labels of its second half are missing, in some steps all."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 5, generator=generator, dtype=torch.float64)
    trust = torch.rand(BATCH, generator=generator, dtype=torch.float64)
    label = (x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
    known = torch.rand(BATCH, generator=generator) < 0.9
    known[BATCH // 2 + 1 :] &= torch.rand(BATCH // 2, generator=generator) < 0.1 * (step % 4)
    return Batch(x, x[:, 0] * x[:, 1], trust, torch.where(known, label, MISSING))


def over_ranks(counting: Tensor) -> Tensor:
    """What the mean of a rank divides by, from what counts on this rank.

    It is the sum over all ranks, divided by their number, because data parallelism takes the mean
    of the gradients of the ranks, not the sum.
    """
    if not dist.is_initialized():
        return counting
    total = counting.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def normalizers(batch: Batch) -> dict[str, Tensor]:
    """What each term divides by: the weights that count, of all ranks."""
    known = batch.label != MISSING
    counting = {
        "value": batch.trust.sum(),
        "label": CLASS_WEIGHT[batch.label[known]].sum(),
        "size": torch.tensor(float(len(batch.x)), dtype=torch.float64),
    }
    return {name: over_ranks(each) for name, each in counting.items()}


def compute_terms(model: nn.Module, batch: Batch, by: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The terms of a rank's part of the batch; without normalizers each is a mean of its own."""
    value, logits = model(batch.x)
    return {
        "value": huber_loss(value, batch.value, weight=batch.trust, normalizer=by.get("value")),
        "label": cross_entropy_loss(
            logits,
            batch.label,
            weight=CLASS_WEIGHT,
            ignore_index=MISSING,
            normalizer=by.get("label"),
        ),
        "size": huber_loss(value, torch.zeros_like(value), normalizer=by.get("size")),
    }


def wrapped(model: Net, sharded: bool) -> nn.Module:
    """The model as the processes train it together."""
    if not dist.is_initialized():
        return model
    if not sharded:
        return DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model.trunk, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def balancer_of(name: str) -> Balancer:
    """The balancer: by values, which is exact under DDP and FSDP2, or by gradients."""
    return UncertaintyWeights(TERMS) if name == "UncertaintyWeights" else UPGrad(TERMS)


def train(
    balancer: Balancer, *, sharded: bool = False, local: bool = False, steps: int = STEPS
) -> dict[str, Tensor]:
    """Train, and return the whole parameters."""
    torch.manual_seed(0)
    net = Net().double()
    model = wrapped(net, sharded)
    parameters = [*model.parameters(), *balancer.parameters()]  # weights may be learned
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for number in range(steps):
        batch = whole_batch(number).part(rank, size)
        optimizer.zero_grad()
        terms = compute_terms(model, batch, {} if local else normalizers(batch))
        step = balancer.backward(terms, model)
        optimizer.step()
        if rank == 0 and number % 5 == 0:
            print(f"step {number}\n{step}\n")
    return {name: whole(parameter) for name, parameter in net.named_parameters()}


def whole(parameter: Tensor) -> Tensor:
    """A parameter as one tensor; every rank takes part in this."""
    full = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return full.detach().clone()


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fsdp", action="store_true", help="shard the parameters (FSDP2)")
    parser.add_argument("--mean-of-means", action="store_true", help="the mean of means: wrong")
    parser.add_argument(
        "--balancer", choices=["UncertaintyWeights", "UPGrad"], default="UncertaintyWeights"
    )
    parser.add_argument("--save", type=Path, help="a file for the trained parameters")
    options = parser.parse_args()
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    try:
        parameters = train(
            balancer_of(options.balancer), sharded=options.fsdp, local=options.mean_of_means
        )
        first = not dist.is_initialized() or dist.get_rank() == 0
        if options.save and first:
            torch.save(parameters, options.save)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
