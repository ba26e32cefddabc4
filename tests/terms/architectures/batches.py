"""Terms on parts of one batch that goes through layers which treat each row by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from tests.terms.architectures.registry import Built, architecture, built, mlp, register, squares
from torch import nn

Tensor = torch.Tensor
F = nn.functional
Parts = Callable[[Tensor], Sequence[Tensor]]


@architecture
def separate_forwards() -> Built:
    batches = [torch.randn(size, 3) for size in (5, 2, 7)]
    model = mlp(3, 6, 2)
    return built(squares(*(model(one) for one in batches)), model, *batches)


def _parts_of_a_batch(parts: Parts) -> Built:
    x = torch.randn(12, 3)
    model = mlp(3, 8, 6, 2)
    return built(squares(*parts(model(x))), model, x)


for _name, _parts in (
    ("split", lambda out: out.split(4)),
    ("split_unequal", lambda out: out.split([1, 8, 3])),
    ("split_in_two_levels", lambda out: [*out[:6].split(3), *out[6:].split([1, 5])]),
    ("split_with_an_empty_part", lambda out: out.split([4, 0, 8])[::2]),
    ("split_some_unused", lambda out: out.split(3)[1:3]),
    ("chunk", lambda out: out.chunk(5)),
    ("tensor_split", lambda out: out.tensor_split([2, 3, 9])),
    ("unbind", lambda out: out.unbind(0)),
    ("slices", lambda out: [out[:4], out[4:5], out[5:]]),
    ("slices_out_of_order", lambda out: [out[9:], out[:2], out[2:9]]),
    ("slices_that_overlap", lambda out: [out[:7], out[4:], out[3:9]]),
    ("slices_one_in_another", lambda out: [out, out[2:5], out[3:4]]),
    ("slices_that_leave_rows", lambda out: [out[1:3], out[8:11]]),
    ("slices_with_steps", lambda out: [out[::3], out[1::3], out[2::3]]),
    ("slices_with_steps_in_ranges", lambda out: [out[0:6:2], out[6:12:2]]),
    ("slices_of_columns", lambda out: [out[:, :1], out[:, 1:]]),
    ("slices_of_rows_and_columns", lambda out: [out[:6, :1], out[:6, 1:], out[6:, :1]]),
    ("narrow", lambda out: [out.narrow(0, 0, 5), out.narrow(0, 5, 7)]),
    ("single_rows", lambda out: [out[0], out[-1], out[5]]),
    ("select_and_slice", lambda out: [out[0], out[1:], out.select(1, 0)]),
    ("index_list", lambda out: [out[[0, 3, 5]], out[[1, 2, 4, 6]]]),
    ("index_repeated", lambda out: [out[[0, 0, 1]], out[[2, 3, 3]]]),
    ("index_select", lambda out: [out.index_select(0, torch.tensor(i)) for i in ([4, 1], [2])]),
    ("boolean_mask", lambda out: [out[out.detach()[:, 0] > 0], out[out.detach()[:, 0] <= 0]]),
    ("masked_mean", lambda out: [
        (out * (torch.arange(12) < 5)[:, None]), out * (torch.arange(12) >= 5)[:, None],
    ]),
    ("where", lambda out: [
        torch.where(torch.arange(12)[:, None] < 4, out, 0.0),
        torch.where(torch.arange(12)[:, None] >= 4, out, 0.0),
    ]),
    ("flipped_before_split", lambda out: out.flip(0).split([5, 7])),
    ("rolled_before_split", lambda out: out.roll(2, 0).split([5, 7])),
    ("sorted_before_split", lambda out: out.sort(0).values.split([5, 7])),
    ("permuted_before_split", lambda out: out[torch.randperm(12)].split([5, 7])),
    ("transposed_before_split", lambda out: out.t().split([1, 1])),
    ("reshaped_before_split", lambda out: out.view(3, 4, 2).split([1, 2])),
    ("reshaped_into_columns", lambda out: out.view(2, 12).split([5, 7], 1)),
    ("flattened_before_split", lambda out: out.flatten().split([7, 17])),
    ("cumsum_before_split", lambda out: out.cumsum(0).split([5, 7])),
    ("cumsum_of_columns_before_split", lambda out: out.cumsum(1).split([5, 7])),
    ("differences", lambda out: [out[1:6] - out[:5], out[7:] - out[6:11]]),
    ("pairs_across_the_split", lambda out: [out[:6] * out[6:], out[:6], out[6:]]),
    ("distances", lambda out: torch.cdist(out, out).split([5, 7])),
    ("centred_before_split", lambda out: (out - out.mean(0)).split([5, 7])),
    ("softmax_over_the_batch", lambda out: out.softmax(0).split([5, 7])),
    ("softmax_of_rows", lambda out: out.softmax(1).split([5, 7])),
    ("mean_of_the_whole", lambda out: [out[:5], out[5:], out.mean()]),
    ("stacked_again", lambda out: torch.cat([out[6:], out[:6]]).split([4, 8])),
    ("padded_before_split", lambda out: F.pad(out, (0, 0, 1, 1)).split([5, 9])),
    ("expanded_before_split", lambda out: out[:1].expand(12, 2).split([5, 7])),
    ("repeated_before_split", lambda out: out.repeat(2, 1).split([12, 12])),
    ("repeat_interleave_before_split", lambda out: out.repeat_interleave(2, 0).split([9, 15])),
    ("interpolated_before_split", lambda out: F.interpolate(out.t()[None], 9)[0].t().split([4, 5])),
    ("gathered", lambda out: out.gather(0, torch.tensor([[3, 1], [0, 2], [5, 11]])).split([1, 2])),
    ("diagonal", lambda out: [out[:2].diagonal(), out[2:]]),
    ("matrix_over_the_batch", lambda out: (torch.ones(12, 12).triu() @ out).split([5, 7])),
    ("rows_times_rows", lambda out: (out @ out.t()).split([5, 7])),
    ("scattered", lambda out: torch.zeros(6, 2).index_add(
        0, torch.arange(12) % 6, out).split([2, 4])),
    ("as_strided", lambda out: [out.as_strided((3, 2), (4, 1)), out.as_strided((2, 2), (2, 1), 6)]),
    ("clone_between", lambda out: [part.clone() for part in out.clone().split([5, 7])]),
    ("one_row_left", lambda out: out.split([11, 1])),
    ("whole_batch_each", lambda out: [out, out.clone()]),
):  # fmt: skip
    register(f"batch_{_name}", partial(_parts_of_a_batch, _parts))


def _concatenated(sizes: Sequence[int]) -> Built:
    batches = [torch.randn(size, 3, requires_grad=False) for size in sizes]
    model = mlp(3, 8, 2)
    return built(squares(*model(torch.cat(batches)).split(list(sizes))), model, *batches)


register("batch_concatenated", partial(_concatenated, (5, 2, 9)))
register("batch_concatenated_17", partial(_concatenated, range(1, 18)))
register("batch_concatenated_smaller_than_width", partial(_concatenated, (1, 2)))


@architecture
def batch_concatenated_of_two_encoders() -> Built:
    """The parts come from networks of their own, and meet in a common one."""
    x, y = torch.randn(4, 3), torch.randn(6, 5)
    model = nn.ModuleDict({"x": mlp(3, 6, 4), "y": mlp(5, 4), "both": mlp(4, 7, 2)})
    out = model["both"](torch.cat([model["x"](x).tanh(), model["y"](y).tanh()]))
    return built(squares(*out.split([4, 6])), model, x, y)


@architecture
def batch_split_then_heads() -> Built:
    x = torch.randn(9, 3)
    model = nn.ModuleDict({"trunk": mlp(3, 8, 8), "a": nn.Linear(8, 2), "b": nn.Linear(8, 3)})
    first, second = model["trunk"](x).tanh().split([4, 5])
    return built(squares(model["a"](first), model["b"](second), model["a"](first) * 2), model, x)


@architecture
def batch_split_then_one_head_for_both() -> Built:
    x = torch.randn(9, 3)
    model = nn.ModuleDict({"trunk": mlp(3, 8, 8), "head": nn.Linear(8, 2)})
    first, second = model["trunk"](x).tanh().split([4, 5])
    return built(squares(model["head"](first), model["head"](second)), model, x)


@architecture
def batch_split_and_a_decay() -> Built:
    x = torch.randn(9, 3)
    model = mlp(3, 8, 2)
    first, second = model(x).split([4, 5])
    decay = sum(one.square().sum() for one in model.parameters())
    return built({**squares(first, second), "decay": decay}, model, x)


@architecture
def batch_split_and_a_second_forward() -> Built:
    """The same layers see one batch whose rows are shared out, and another that is not."""
    x, y = torch.randn(9, 3), torch.randn(4, 3)
    model = mlp(3, 8, 2)
    first, second = model(x).split([4, 5])
    return built(squares(first, second, model(y)), model, x, y)


@architecture
def batch_split_at_two_depths() -> Built:
    """The rows are shared out differently after the first layer than after the second."""
    x = torch.randn(10, 3)
    model = nn.ModuleList([nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)])
    early = model[0](x).tanh()
    late = model[1](early).tanh()
    out = model[2](late)
    return built(squares(early[:3], early[3:], late[5:], out[:7], out[7:]), model, x)


@architecture
def batch_of_tokens() -> Built:
    x = torch.randn(6, 4, 3)
    model = mlp(3, 8, 2)
    out = model(x)
    return built(squares(*out.split([1, 2, 3])), model, x)


@architecture
def batch_of_tokens_split_by_token() -> Built:
    x = torch.randn(6, 4, 3)
    model = mlp(3, 8, 2)
    return built(squares(*model(x).split([1, 3], dim=1)), model, x)


@architecture
def batch_of_images() -> Built:
    x = torch.randn(6, 1, 6, 6)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    return built(squares(*model(x).split([1, 5])), model, x)


@architecture
def batch_through_layernorm() -> Built:
    x = torch.randn(9, 3)
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2))
    return built(squares(*model(x).split([4, 5])), model, x)


@architecture
def batch_through_a_residual_network() -> Built:
    x = torch.randn(9, 4)
    model = nn.ModuleList(mlp(4, 7, 4) for _ in range(3))
    for block in model:
        x = x + block(x)
    return built(squares(*x.split([2, 7])), model)


@architecture
def batch_of_an_embedding() -> Built:
    tokens = torch.randint(0, 6, (9,))
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    return built(squares(*model(tokens).split([4, 5])), model, tokens)


@architecture
def batch_of_points_with_derivatives() -> Built:
    """A PINN with one forward for inside and edge, whose derivatives are taken at once."""
    points = torch.rand(9, 2, requires_grad=True)
    model = mlp(2, 7, 1)
    u = model(points)
    slope = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
    bend = torch.autograd.grad(slope[:, 0].sum(), points, create_graph=True)[0]
    return built(squares(bend[:5, 0] - u[:5, 0], u[5:], slope[5:, 1]), model, points)


@architecture
def batch_of_size_zero() -> Built:
    x = torch.randn(0, 3)
    model = mlp(3, 6, 2)
    out = model(x)
    return built({"sum": out.sum(), "square": out.square().sum()}, model, x)


@architecture
def one_part_of_size_zero() -> Built:
    x = torch.randn(6, 3)
    model = mlp(3, 6, 2)
    out = model(x)
    return built(
        {"none": out[:0].sum(), "all": out.square().sum(), "some": out[2:].sum()}, model, x
    )
