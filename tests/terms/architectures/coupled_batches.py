"""Terms on parts of one batch whose rows the network mixes on the way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tests.terms.architectures.registry import (
    Built,
    architecture,
    built,
    mlp,
    parameter,
    register,
    squares,
)
from torch import nn

Tensor = torch.Tensor
F = nn.functional


def _mixed(mix: Callable[[Tensor], Tensor]) -> Built:
    """Two halves of a batch that was mixed between two layers."""
    x = torch.randn(10, 3)
    model = nn.ModuleDict({"before": mlp(3, 6, 6), "after": mlp(6, 5, 2)})
    out = model["after"](mix(model["before"](x)))
    return built(squares(*out.split([4, 6])), model, x)


_ORDER = torch.tensor([3, 7, 0, 9, 1, 4, 8, 2, 6, 5])

for _name, _mix in (
    ("flip", lambda h: h.flip(0)),
    ("roll", lambda h: h.roll(3, 0)),
    ("roll_of_all_entries", lambda h: h.roll(3)),
    ("sort", lambda h: h.sort(0).values),
    ("sort_of_columns", lambda h: h.sort(1).values),
    ("flip_of_columns", lambda h: h.flip(1)),
    ("permute_by_index", lambda h: h[_ORDER]),
    ("permute_by_gather", lambda h: h.gather(0, _ORDER[:, None].expand(10, 6))),
    ("index_with_repeats", lambda h: h[_ORDER // 2]),
    ("mean_subtracted", lambda h: h - h.mean(0)),
    ("mean_of_rows_subtracted", lambda h: h - h.mean(1, keepdim=True)),
    ("standardised", lambda h: h / h.std(0)),
    ("softmax_over_rows", lambda h: h.softmax(0)),
    ("cumsum", lambda h: h.cumsum(0)),
    ("cummax", lambda h: h.cummax(0).values),
    ("attention_over_the_batch", lambda h: F.scaled_dot_product_attention(h, h, h)),
    ("attention_by_hand", lambda h: (h @ h.t()).softmax(1) @ h),
    ("constant_matrix", lambda h: torch.eye(10).roll(1, 0) @ h),
    ("divided_by_its_largest", lambda h: h / h.abs().max()),
    ("divided_by_its_norm", lambda h: h / h.norm()),
    ("normalised_rows", lambda h: F.normalize(h, dim=1)),
    ("normalised_columns", lambda h: F.normalize(h, dim=0)),
    ("first_row_added", lambda h: h + h[:1]),
    ("first_row_added_to_the_rest", lambda h: torch.cat([h[:1], h[1:] + h[0]])),
    ("neighbour_added", lambda h: h + torch.cat([h[1:], h[:1]])),
    ("halves_swapped", lambda h: torch.cat([h[5:], h[:5]])),
    ("halves_swapped_by_view", lambda h: h.view(2, 5, 6).flip(0).view(10, 6)),
    ("transposed_square", lambda h: torch.cat([h[:6].t(), h[6:]])),
    ("viewed_with_other_rows", lambda h: h.reshape(6, 10).t().contiguous()),
    ("viewed_and_back", lambda h: h.view(5, 12).tanh().view(10, 6)),
    ("pooled", lambda h: h + F.avg_pool1d(h.t()[None], 3, 1, 1)[0].t()),
    ("convolved_along_rows", lambda h: F.conv1d(
        h.t()[:, None], torch.ones(1, 1, 3), padding=1)[:, 0].t()),
    ("batch_norm", lambda h: F.batch_norm(h, None, None, training=True)),
    ("batch_norm_of_running_figures", lambda h: F.batch_norm(
        h, torch.zeros(6), torch.ones(6), training=False)),
    ("layer_norm", lambda h: F.layer_norm(h, (6,))),
    ("layer_norm_of_the_whole", lambda h: F.layer_norm(h, (10, 6))),
    ("group_norm", lambda h: F.group_norm(h, 2)),
    ("dropout", lambda h: F.dropout(h, 0.3)),
    ("dropout_of_whole_rows", lambda h: h * (torch.rand(10, 1) < 0.7)),
    ("fft_over_the_batch", lambda h: torch.fft.fft(h, dim=0).real),
    ("fft_of_rows", lambda h: torch.fft.fft(h, dim=1).abs()),
    ("in_place_on_a_slice", lambda h: h.clone().index_copy(0, torch.tensor([0]), h[9:] * h[:1])),
    ("gram_added", lambda h: h + (h.t() @ h).mean()),
    ("scattered", lambda h: torch.zeros(10, 6).scatter_add(0, _ORDER[:, None].expand(10, 6), h)),
    ("masked_scatter", lambda h: torch.zeros(10, 6).masked_scatter(torch.ones(10, 6).bool(), h)),
    ("where_of_two_rows", lambda h: torch.where(torch.arange(10)[:, None] < 5, h, h.flip(0))),
):  # fmt: skip
    register(f"mixed_{_name}", partial(_mixed, _mix))


@architecture
def mixed_by_batchnorm() -> Built:
    x = torch.randn(10, 3)
    model = nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 2)
    )
    return built(squares(*model(x).split([4, 6])), model, x)


@architecture
def mixed_by_batchnorm_of_images() -> Built:
    x = torch.randn(6, 1, 6, 6)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    return built(squares(*model(x).split([2, 4])), model, x)


@architecture
def mixed_by_attention() -> Built:
    """The batch axis is the sequence: no row is by itself."""
    x = torch.randn(8, 6)
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(6, 2), "head": nn.Linear(6, 2)})
    out = model["head"](x + model["attention"](x, x, x)[0])
    return built(squares(*out.split([3, 5])), model, x)


@architecture
def mixed_by_a_recurrent_net_over_rows() -> Built:
    x = torch.randn(8, 6)
    model = nn.ModuleDict({"rnn": nn.GRU(6, 4), "head": nn.Linear(4, 2)})
    out = model["head"](model["rnn"](x)[0])
    return built(squares(*out.split([3, 5])), model, x)


@architecture
def mixed_by_a_weight_over_rows() -> Built:
    """A product from the left mixes the samples, one from the right their features."""
    x = torch.randn(6, 6)
    weight, bias = parameter(6, 6), parameter(6)
    out = torch.addmm(bias, weight, (x @ weight).tanh())
    return built(squares(*out.split([2, 4])), {"weight": weight, "bias": bias}, x)


@architecture
def mixed_by_a_graph() -> Built:
    """Message passing: the adjacency matrix is a constant on the left."""
    x = torch.randn(7, 3)
    edges = (torch.rand(7, 7) < 0.4).to(x.dtype) + torch.eye(7)
    model = nn.ModuleList([nn.Linear(3, 5), nn.Linear(5, 2)])
    hidden = (edges @ model[0](x)).tanh()
    out = edges.to_sparse() @ model[1](hidden)
    return built(squares(*out.split([3, 4])), model, x, edges)


@architecture
def mixed_by_a_shared_context() -> Built:
    """The mean of the batch goes through a layer and is added to each row."""
    x = torch.randn(9, 3)
    model = nn.ModuleDict(
        {"rows": nn.Linear(3, 5), "context": nn.Linear(3, 5), "out": nn.Linear(5, 2)}
    )
    hidden = (model["rows"](x) + model["context"](x.mean(0))).tanh()
    return built(squares(*model["out"](hidden).split([4, 5])), model, x)


@architecture
def mixed_by_a_parameter_for_each_row() -> Built:
    """Latent codes: a parameter with a row for each sample."""
    x, codes, model = torch.randn(9, 3), parameter(9, 4), mlp(7, 6, 2)
    out = model(torch.cat([x, codes], 1))
    params = {"codes": codes, **dict(model.named_parameters())}
    return built(squares(*out.split([4, 5])), params, x)
