"""Pairs over ranks: two processes do what one does with the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lossproof.speed.pairing import pairs
from lossproof.speed.ranks import gathered, share_of_rank, usable_ranks

REDUCES = ("sum", "mean", "logsumexp", "max", "min")
EVEN, UNEVEN = (6, 6), (5, 9)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def batch(counts: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, sum(counts), 3, generator=generator, dtype=torch.float64)
    return one, other, torch.arange(sum(counts)) % 3


def value(x: Any, y: Any, scale: torch.Tensor) -> torch.Tensor:
    """The similarity of two rows; those of one number or of one label count less."""
    (a, i, of_a), (b, j, of_b) = x, y
    same = (i[:, None] == j) | (of_a[:, None] == of_b)
    return torch.where(same, 0.5, scale) * torch.tanh(a @ b.T)


def loss_of(
    results: tuple[torch.Tensor, ...], weights: torch.Tensor, mean_over: float
) -> torch.Tensor:
    """A weighted mean over the rows of all ranks."""
    return sum((one.square() * weights).sum() for one in results) / mean_over


def weights_of(count: int) -> torch.Tensor:
    return torch.linspace(0.5, 2.0, count, dtype=torch.float64)


def on_rank(reduce: str, dim: Any, counts: tuple[int, ...], block_size: int) -> Any:
    model = DistributedDataParallel(encoder())
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    one, other, labels = (torch.split(t, counts)[dist.get_rank()] for t in batch(counts))
    share = share_of_rank(len(one))
    embedded = model(torch.cat([one, other]))
    x, y = embedded[: len(one)], embedded[len(one) :]
    numbers = share.numbers()
    reduction = pairs(value, reduce, dim=dim, block_size=block_size, across_ranks=True)
    results = reduction((x, numbers, labels), (y, numbers, labels), scale=scale)
    results = results if isinstance(results, tuple) else (results,)
    own = weights_of(share.total)[share.start : share.stop]
    loss = loss_of(results, own, share.total / len(counts))
    loss.backward()
    gradients = [p.grad.tolist() for p in model.parameters()]
    return loss.item(), gradients, scale.grad.item(), [one.tolist() for one in results]


def alone(reduce: str, dim: Any, counts: tuple[int, ...]) -> Any:
    model = encoder()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    one, other, labels = batch(counts)
    x, y = model(one), model(other)
    numbers = torch.arange(len(one))
    matrix = value((x, numbers, labels), (y, numbers, labels), scale)
    reduced = {
        "sum": torch.sum,
        "mean": torch.mean,
        "logsumexp": torch.logsumexp,
        "max": torch.amax,
        "min": torch.amin,
    }[reduce]
    dims = dim if isinstance(dim, tuple) else (dim,)
    results = tuple(reduced(matrix, d) for d in dims)
    loss = loss_of(results, weights_of(len(one)), len(one))
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters()], scale.grad.item(), results


CASES = [
    (reduce, dim, counts)
    for reduce in REDUCES
    for dim, counts in ((1, EVEN), (0, UNEVEN), ((1, 0), UNEVEN), ((1, 0), EVEN))
]


@pytest.mark.parametrize(("reduce", "dim", "counts"), CASES)
@pytest.mark.parametrize("block_size", [4, 100])
def test_two_ranks_train_as_one_process_does(two_ranks, reduce, dim, counts, block_size):
    answers = two_ranks.run(on_rank, reduce, dim, counts, block_size)
    loss, gradients, of_scale, results = alone(reduce, dim, counts)
    assert sum(answer[0] for answer in answers) / 2 == pytest.approx(loss, rel=1e-12)
    for rank, answer in enumerate(answers):
        for found, expected in zip(answer[1], gradients, strict=True):
            torch.testing.assert_close(
                torch.tensor(found, dtype=torch.float64), expected, rtol=1e-10, atol=1e-12
            )
        for found, expected in zip(answer[3], results, strict=True):
            own = torch.split(expected.detach(), counts)[rank]
            torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), own)
    assert sum(answer[2] for answer in answers) / 2 == pytest.approx(of_scale, rel=1e-10)


def self_pairs(block_size: int) -> Any:
    """The logarithm of the sum over all others, squared, and the gradient of a gradient."""
    rank = dist.get_rank()
    z = torch.split(batch(UNEVEN)[0], UNEVEN)[rank].clone().requires_grad_()
    numbers = share_of_rank(len(z)).numbers()
    reduction = pairs(others, "logsumexp", block_size=block_size, across_ranks=True)
    (slope,) = torch.autograd.grad(reduction((z, numbers)).square().sum(), z, create_graph=True)
    # Each rank has the gradient of the sum of all losses in its own rows, so the sum of squares
    # over the ranks is that of one process.
    slope.square().sum().backward()
    return slope.tolist(), z.grad.tolist()


def others(x: Any, y: Any) -> torch.Tensor:
    (a, i), (b, j) = x, y
    return (a @ b.T).masked_fill(i[:, None] == j, -torch.inf)


@pytest.mark.parametrize("block_size", [3, 100])
def test_second_derivatives_go_over_the_ranks_and_back(two_ranks, block_size):
    answers = two_ranks.run(self_pairs, block_size)
    z = batch(UNEVEN)[0].requires_grad_()
    numbers = torch.arange(len(z))
    rows = torch.logsumexp(others((z, numbers), (z, numbers)), 1)
    (slope,) = torch.autograd.grad(rows.square().sum(), z, create_graph=True)
    slope.square().sum().backward()
    for place, expected in enumerate((slope.detach(), z.grad)):
        found = [row for answer in answers for row in answer[place]]
        torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected)


def differing(what: str) -> str:
    rank = dist.get_rank()
    x = torch.zeros(3, 4 + rank if what == "width" else 4)
    x = x.double() if what == "dtype" and rank else x
    y = torch.zeros(3, 4, requires_grad=what == "gradient" and rank == 1)
    parts = (x, torch.arange(3)) if what == "parts" and rank else (x,)
    try:
        pairs(lambda a, b: a[0] @ b[0].T, "sum", across_ranks=True)(
            x, y if what == "gradient" else parts
        )
    except ValueError as error:
        return str(error)
    return "fine"


@pytest.mark.parametrize("what", ["width", "dtype", "gradient", "parts"])
def test_ranks_that_differ_are_told_on_all_of_them(two_ranks, what):
    for rank, words in enumerate(two_ranks.run(differing, what)):
        assert "`y` must be the same on all ranks but for the number of rows" in words
        assert f"on rank {rank} it is torch." in words


def largest_of(counts: tuple[int, int], dim: int) -> Any:
    x = torch.arange(counts[dist.get_rank()], dtype=torch.float64).unsqueeze(1) + 1
    try:
        return pairs(lambda a, b: a * b.T, "max", dim=dim, across_ranks=True)(x).tolist()
    except ValueError as error:
        return str(error)


def test_a_rank_may_have_no_rows_where_something_is_left_to_reduce(two_ranks):
    assert two_ranks.run(largest_of, (0, 3), 1) == [[], [3.0, 6.0, 9.0]]
    told = two_ranks.run(largest_of, (0, 3), 0)
    assert told == ["`x` must have rows on every rank for reduce='max', dim=0"] * 2


def sum_of_all(kind: str) -> Any:
    rank = dist.get_rank()
    own = dist.new_group([0]), dist.new_group([1])
    group = own[rank] if kind == "own" else dist.group.WORLD
    x = torch.ones(2 + rank, 1) * (rank + 1)
    with torch.no_grad():
        return pairs(lambda a, b: a * b.T, "sum", across_ranks=group)(x).tolist()


def test_a_process_group_says_which_ranks(two_ranks):
    assert two_ranks.run(sum_of_all, "own") == [[2.0] * 2, [12.0] * 3]
    assert two_ranks.run(sum_of_all, "world") == [[8.0] * 2, [16.0] * 3]


def rows_of_all(dtype: torch.dtype) -> Any:
    rank = dist.get_rank()
    own = torch.full((1 + rank, 2), rank + 1).to(dtype)
    (rows,), share = gathered("y", [own], dist.group.WORLD)
    return rows.tolist(), rows.dtype == dtype, share.start, share.stop, share.total


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float16, torch.float64]
)
def test_rows_of_every_dtype_are_gathered(two_ranks, dtype):
    rows = torch.tensor([[1, 1], [2, 2], [2, 2]]).to(dtype).tolist()
    assert two_ranks.run(rows_of_all, dtype) == [(rows, True, 0, 1, 3), (rows, True, 1, 3, 3)]


def test_a_process_that_is_alone_has_all_rows():
    share = share_of_rank(5)
    assert (share.start, share.stop, share.total) == (0, 5, 5)
    assert share.numbers().tolist() == [0, 1, 2, 3, 4]
    x = torch.randn(5, 2)
    product = pairs(lambda a, b: a @ b.T, "sum", across_ranks=True)
    torch.testing.assert_close(product(x), (x @ x.T).sum(1))


def test_across_ranks_is_a_flag_or_a_group():
    with pytest.raises(TypeError, match="`across_ranks` must be True, False or a process group"):
        usable_ranks("yes")
    with pytest.raises(TypeError, match="`count` must be an integer"):
        share_of_rank(2.0)
